"""Any mask with a pixel gives an object or a sentence, in both of our pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from fast_sam3d.errors import InputError
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.native.pipeline import NativePipeline
from fast_sam3d.native.preprocess import Preprocessor
from fast_sam3d.refinement.fit import LayoutSettings
from fast_sam3d.refinement.target import LayoutTarget
from fast_sam3d.run.object import RunSettings, run_object
from tests.minis import random_mini

SIZE = (331, 449)
ROWS, COLUMNS = np.indices(SIZE)
DISC = np.hypot(ROWS - 160, COLUMNS - 220) < 130

Mask = NDArray[np.bool_]


def outline(solid: Mask, width: int) -> Mask:
    return solid & ~binary_erosion(solid, iterations=width)


def only(*pixels: tuple[int, int]) -> Mask:
    mask = np.zeros(SIZE, bool)
    mask[tuple(np.array(pixels).T)] = True
    return mask


MASKS: dict[str, Mask] = {
    **{f"outline of {width}": outline(DISC, width) for width in (1, 2, 3)},
    **{f"border of {width}": ~binary_erosion(np.ones(SIZE, bool), iterations=width) for width in (1, 3)},
    "wire": np.abs(ROWS - 160 - 100 * np.sin(COLUMNS / 9)) < 1,
    "cross": ((ROWS == 165) | (COLUMNS == 224)) & DISC,
    "row": ROWS == 165,
    "pixel": only((165, 224)),
    "four pixels": only((165, 224), (165, 225), (166, 224), (166, 225)),
    "far specks": only((3, 4), (320, 440)),
    "corners": only((0, 0), (0, -1), (-1, 0), (-1, -1)),
    "object with a far speck": (np.hypot(ROWS - 160, COLUMNS - 220) < 20) | only((0, 0)),
    "checkerboard": (ROWS + COLUMNS) % 2 == 0,
    "stripes": COLUMNS % 2 == 0,
    "grid": (ROWS % 16 == 0) | (COLUMNS % 16 == 0),
    "all but a pixel": ~only((0, 0)),
}
TOO_SMALL = ("row", "pixel", "four pixels")
"""For the published networks, which cut a crop by the mask's box."""


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return random_mini()


@pytest.mark.parametrize("name", MASKS)
def test_every_mask_has_a_target_to_fit(name: str) -> None:
    mask, settings = MASKS[name], LayoutSettings()
    camera = Camera(np.eye(3), np.zeros(3), 500.0, (SIZE[1] / 2, SIZE[0] / 2), SIZE)
    points = np.full((*SIZE, 3), np.nan)
    points[mask] = 2.0
    for span in (settings.span, settings.judged_span):
        target = LayoutTarget.around(mask, points, camera, span, 1.0)
        assert target.outline_length
        if mask.mean() < 0.1:  # thin: nothing of it is lost
            assert np.isfinite(target.points[target.mask]).all()


@pytest.mark.parametrize("name", MASKS)
def test_every_mask_gives_the_published_networks_an_input_or_a_sentence(name: str) -> None:
    picture = np.dstack([np.zeros((*SIZE, 3), np.uint8), MASKS[name].astype(np.uint8) * 255])
    if name in TOO_SMALL:
        with pytest.raises(InputError, match="mark at least 3 pixels in each direction"):
            Preprocessor(28)(picture)
    else:
        assert all(value.isfinite().all() for value in Preprocessor(28)(picture).values())


@pytest.mark.parametrize("name", ["outline of 1", "cross", "corners", "pixel", "checkerboard"])
def test_any_mask_gives_an_object(pipeline: Any, name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    settings = RunSettings(ss_steps=1, slat_steps=1, formats=("gaussian",))
    result = run_object(pipeline, picture, MASKS[name], settings=settings).result
    assert len(result["coords"]) and "layout_refinement" in result


def test_a_mask_that_is_too_small_is_refused_before_the_depth_model_runs() -> None:
    pipeline = object.__new__(NativePipeline)  # without networks
    pipeline.decode_formats, pipeline.device, pipeline.slat_preprocessor = (
        ["mesh"],
        torch.device("cpu"),
        Preprocessor(28),
    )
    with pytest.raises(InputError, match="only 1 x 1 pixels"):
        pipeline.run(np.zeros((*SIZE, 3), np.uint8), MASKS["pixel"])
