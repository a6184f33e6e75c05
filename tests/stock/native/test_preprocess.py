"""Inputs of the embedders against those of the stock pipeline's preprocessors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fast_sam3d.errors import InputError
from fast_sam3d.native.preprocess import Preprocessor, camera_points, fit_points
from tests.stock.native.published import PIXELS, preprocessor
from tests.stock.stand_ins import importable

# height and width of the picture; top, left, bottom, right of the mask
MASKS = {
    "in the middle": (60, 60, 20, 24, 39, 41),
    "at the top": (61, 84, 0, 30, 18, 47),
    "at the left": (61, 84, 20, 0, 47, 24),
    "at the bottom": (84, 61, 50, 20, 84, 43),
    "at the right": (70, 97, 20, 60, 52, 97),
    "in the corner": (50, 50, 0, 0, 22, 23),
    "full, wide": (40, 75, 0, 0, 40, 75),
    "full, high": (75, 40, 0, 0, 75, 40),
    "one pixel uneven at the top": (60, 60, 1, 20, 20, 40),
    "one pixel uneven at the left": (60, 60, 20, 1, 40, 20),
    "three pixels": (30, 33, 10, 10, 13, 13),
    "larger than the results": (130, 110, 30, 20, 100, 99),
}


def picture(height: int, width: int, *box: int) -> tuple[np.ndarray, Tensor]:
    """RGBA [H, W, 4] with a ragged mask that fills its box, and a pointmap [H, W, 3] with holes in it."""
    random = np.random.default_rng(height * width + sum(box))
    rgba = random.integers(0, 256, (height, width, 4), np.uint8)
    rgba[..., 3] = 0
    top, left, bottom, right = box
    inside = rgba[top:bottom, left:right, 3]
    inside[:] = random.integers(0, 2, inside.shape) * random.integers(100, 256, inside.shape)
    inside[[0, -1]] = inside[:, [0, -1]] = 255
    v, u = np.mgrid[:height, :width] / max(height, width) - 0.5
    z = 2 + u * v + random.normal(0, 0.1, u.shape)
    points = np.stack([u * z, v * z, z], -1).astype(np.float32)
    points[random.random((height, width)) < 0.2] = np.nan
    return rgba, torch.from_numpy(points)


@pytest.fixture(scope="module")
def stock() -> Any:
    """preprocess(stage, rgba, pointmap) of the stock pipeline."""
    from hydra.utils import instantiate

    with importable():
        from sam3d_objects.pipeline.inference_pipeline_pointmap import InferencePipelinePointMap

        parts = {stage: instantiate(preprocessor(stage)) for stage in ("ss", "slat")}
    pipeline = SimpleNamespace(device="cpu", image_to_float=lambda image: (image / 255).astype(np.float32))

    def preprocess(stage: str, rgba: np.ndarray, pointmap: Tensor | None = None) -> dict[str, Tensor]:
        return InferencePipelinePointMap.preprocess_image(pipeline, rgba, parts[stage], pointmap)

    return preprocess


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if "pointmap" in name else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(found[name], value, equal_nan=True, **tolerance)


@pytest.mark.parametrize("place", MASKS)
def test_equals_stock(stock: Any, place: str) -> None:
    rgba, points = picture(*MASKS[place])
    points = points.permute(2, 0, 1)
    assert_equal(Preprocessor(PIXELS)(rgba, points), stock("ss", rgba, points))
    assert_equal(Preprocessor(PIXELS)(rgba), stock("slat", rgba))


def test_equals_stock_with_points_that_are_not_finite(stock: Any) -> None:
    rgba, points = picture(*MASKS["in the middle"])
    points = points.permute(2, 0, 1).contiguous()
    points[0, 5:9], points[2, 22:26], points[1, 30:32] = torch.inf, -torch.inf, torch.nan
    assert_equal(Preprocessor(PIXELS)(rgba, points), stock("ss", rgba, points))
    points[:] = torch.nan
    found = Preprocessor(PIXELS)(rgba, points)
    assert_equal(found, stock("ss", rgba, points))
    assert found["pointmap_scale"].tolist() == [[1, 1, 1]] and found["pointmap_shift"].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("box", [(10, 10, 12, 30), (10, 10, 30, 12), (7, 7, 8, 8)])
def test_refuses_the_masks_that_stock_refuses(stock: Any, box: tuple[int, ...]) -> None:
    rgba, points = picture(40, 50, *box)
    with pytest.raises(Exception, match="Bounding box"):
        stock("ss", rgba, points.permute(2, 0, 1))
    with pytest.raises(InputError, match="mark at least 3 pixels in each direction"):
        Preprocessor(PIXELS)(rgba, points.permute(2, 0, 1))


def test_points_reach_the_camera_frame_as_in_stock() -> None:
    with importable():
        from sam3d_objects.pipeline.inference_pipeline_pointmap import InferencePipelinePointMap

    rgba, points = picture(*MASKS["at the top"])
    points[3, 4], points[5, 6, 0] = torch.inf, -torch.inf

    def compute(given: Tensor | None) -> Tensor:
        pipeline = SimpleNamespace(
            device=torch.device("cpu"),
            dtype=torch.float32,
            image_to_float=lambda image: (image / 255).astype(np.float32),
            depth_model=lambda image: {"pointmaps": points, "intrinsics": torch.eye(3)},
            _clip_pointmap=lambda cloud, mask: cloud,
        )
        return InferencePipelinePointMap.compute_pointmap(pipeline, rgba, given)["pointmap"]

    torch.testing.assert_close(camera_points(points).permute(2, 0, 1), compute(None), rtol=0, atol=0, equal_nan=True)


def test_a_given_pointmap_is_fitted_to_the_picture_as_in_stock() -> None:
    _, points = picture(*MASKS["at the top"])
    expected = torch.nn.functional.interpolate(points.permute(2, 0, 1)[None], size=(47, 33), mode="nearest")
    torch.testing.assert_close(fit_points(points, 47, 33).permute(2, 0, 1), expected[0], rtol=0, atol=0, equal_nan=True)
    assert fit_points(points, *points.shape[:2]) is points
