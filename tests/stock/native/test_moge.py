"""MoGe v1 against its authors' own code (microsoft/MoGe), with random weights.

Needs a clone of it on the path; of what it needs, `utils3d` and `cv2` are replaced.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from fast_sam3d.native.depth import DepthModel, depth_part
from fast_sam3d.native.moge import MoGe, MoGeConfig
from tests.native.small_moge import SMALL, picture, see_a_scene

pytestmark = pytest.mark.skipif(importlib.util.find_spec("moge") is None, reason="not importable here: moge")


def intrinsics(fx: Tensor, fy: Tensor, cx: Tensor, cy: Tensor) -> Tensor:
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = [fx, zero, cx.expand_as(fx), zero, fy, cy.expand_as(fx), zero, zero, one]
    return torch.stack(rows, -1).reshape(*fx.shape, 3, 3)


@pytest.fixture(scope="module")
def authors() -> Any:
    stand_in: Any = types.ModuleType("utils3d")
    stand_in.pt = types.SimpleNamespace(intrinsics_from_focal_center=intrinsics)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "utils3d", stand_in)
        patch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
        from moge.model.v1 import MoGeModel

    return MoGeModel


def pair(authors: Any, depth: float, **settings: Any) -> tuple[Any, MoGe]:
    config = {**SMALL, **settings}
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="deprecated"):
        theirs = authors(**config).eval()
    see_a_scene(theirs, depth)
    ours = MoGe(MoGeConfig.read(config, "the file")).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(
    ("size", "depth", "settings"),
    [
        ((70, 98), 0.5, {"remap_output": "exp"}),
        ((98, 70), 3.0, {"remap_output": "linear", "res_block_norm": "layer_norm", "last_res_blocks": 1}),
        ((60, 60), 0.2, {"remap_output": "sinh_exp", "intermediate_layers": [3, 11], "last_conv_size": 3}),
        ((130, 80), 1.2, {"remap_output": "sinh", "num_res_blocks": 2, "dim_times_res_block_hidden": 2}),
    ],
)
def test_equals_the_authors(authors: Any, size: tuple[int, int], depth: float, settings: dict[str, Any]) -> None:
    theirs, ours = pair(authors, depth, **settings)
    image = picture(*size)
    for level in (0, 9):
        expected = theirs.infer(image, force_projection=False, use_fp16=False, resolution_level=level)
        found = ours.infer(image, resolution_level=level)
        # Most points are kept, so focal length and shift are really estimated.
        assert 0.6 < expected["mask"].float().mean() < 1
        assert expected["intrinsics"][0, 0] > 0.1 and expected["points"].isfinite().any()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].shape == value.shape and found[name].dtype == value.dtype
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_equals_the_authors_in_half(authors: Any) -> None:
    theirs, ours = pair(authors, 3.0, remap_output="linear")
    image = picture(70, 98)[None]
    with torch.no_grad():
        single, _ = ours(image, 50)
        with torch.autocast("cpu", dtype=torch.float16):
            expected = theirs(image, 50)
            found = ours(image, 50)
    assert not torch.equal(single, found[0])
    # A CPU keeps the authors' last resizing in half; a GPU and this code do it in float32.
    torch.testing.assert_close(found[0], expected["points"].float(), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(found[1], expected["mask"].float(), rtol=1e-3, atol=2e-3)


def test_equals_the_published_pipelines_depth_model(authors: Any, tmp_path: Path) -> None:
    from tests.stock.stand_ins import importable

    with importable():
        from sam3d_objects.pipeline.depth_models.moge import MoGe as Stock

    theirs, _ = pair(authors, 0.5, remap_output="exp")
    config = {**SMALL, "remap_output": "exp"}
    torch.save({"model_config": config, "model": theirs.state_dict()}, tmp_path / "model.pt")
    reopened = authors.from_pretrained(tmp_path / "model.pt")
    part = depth_part("model.pt", tmp_path)
    part.load(torch.device("cpu"), None)
    image = picture(70, 98)
    with mock.patch.object(reopened, "infer", lambda *args, **options: theirs.infer(*args, **options, use_fp16=False)):
        expected = Stock(reopened, "cpu")(image)
    found = DepthModel(part.module)(image)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
