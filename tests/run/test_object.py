"""One run: its arguments, its report, and a mesh without gaussians."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import fast_sam3d
from fast_sam3d import ObjectRun, RunSettings, run_object
from fast_sam3d.errors import ConfigError, FastSam3dError, InputError
from fast_sam3d.run.object import with_alpha
from tests import trellis_like
from tests.minis import picture, random_mini
from tests.stand_in import StandIn

CACHED = {"ss": {"when": {"name": "stride", "stride": 5}}}
IMAGE, MASK = np.full((6, 8, 3), 9, np.uint8), np.eye(6, 8) > 0
POINTS = np.ones((6, 8, 3), np.float32)
FEW = RunSettings(3, 4, 5, ("mesh",))


def test_the_pipeline_is_called_with_the_arguments_of_the_stock_notebook() -> None:
    pipeline = StandIn()
    run_object(pipeline, IMAGE, MASK, POINTS, settings=FEW)
    given = pipeline.arguments
    np.testing.assert_array_equal(given.pop("image"), np.dstack([IMAGE, MASK * np.uint8(255)]))
    assert torch.equal(given.pop("pointmap"), torch.ones(6, 8, 3))
    assert given == {
        "mask": None, "seed": 3, "stage1_only": False, "with_mesh_postprocess": False, "with_texture_baking": False,
        "with_layout_postprocess": True, "use_vertex_color": True, "stage1_inference_steps": 4,
        "stage2_inference_steps": 5, "decode_formats": ["mesh"],
    }  # fmt: skip


@pytest.mark.parametrize("mask", [MASK * np.uint8(255), MASK * np.uint8(1), MASK.astype(np.float32)])
def test_mask_is_the_object_where_above_0(mask: np.ndarray) -> None:
    pipeline = StandIn()
    run_object(pipeline, IMAGE, mask, settings=FEW)
    np.testing.assert_array_equal(pipeline.arguments["image"][..., 3], MASK * 255)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mask": np.ones((3, 8), bool)}, "the mask is [3, 8] and the picture [8, 8]"),
        ({"mask": None}, "the mask is [] and the picture [8, 8]"),
        ({"mask": np.ones((8, 8, 3), bool)}, "the mask is [8, 8, 3]"),
        ({"image": None}, "give [height, width, 3] of uint8"),
        ({"image": np.zeros((8, 8, 3))}, "the picture is float64 [8, 8, 3]"),
    ],
)
def test_refuses_a_picture_or_mask_of_another_form(change: dict[str, Any], says: str) -> None:
    given = {"image": np.zeros((8, 8, 3), np.uint8), "mask": np.ones((8, 8), bool), **change}
    with pytest.raises(InputError, match=re.escape(says)):
        with_alpha(given["image"], given["mask"])


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"seed": "a"}, {"ss_steps": 0}, {"formats": "mesh"}, {"formats": ("mash",)}, {"formats": ()}],
)
def test_refuses_settings_out_of_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name} is .*: give"):
        RunSettings(**wrong)


def test_every_run_has_its_own_report() -> None:
    class Inference:
        _pipeline = StandIn()

    pipeline = Inference()
    plain = run_object(pipeline, IMAGE, MASK, settings=FEW)
    with fast_sam3d.accelerated(pipeline, CACHED) as handle:
        fast = run_object(pipeline, IMAGE, MASK, settings=FEW)
    assert [solve.steps_planned for solve in plain.report.solves] == [4, 5]
    assert [solve.steps_planned for solve in fast.report.solves] == [4, 5]
    assert plain.report.methods == {} and fast.report.methods == handle.methods != {}
    assert plain.formats == ("mesh",) and plain.device == "cpu"
    assert 0 < plain.report.total_seconds <= plain.seconds


@pytest.mark.parametrize("refine", [True, False])
def test_run_reports_whether_the_pose_was_refined(refine: bool) -> None:
    image, mask = picture()
    settings = RunSettings(0, 2, 2, ("gaussian",), refine_pose=refine)
    found = run_object(random_mini(), image, mask, settings=settings)
    assert isinstance(found, ObjectRun) and found.pose_refined == refine
    assert ("layout_refinement" in found.result) == refine


class LooksUpGaussians(StandIn):
    """Postprocesses as the stock pipeline does (sam3d_objects/pipeline/inference_pipeline.py)."""

    def postprocess_slat_output(self, outputs: dict[str, Any], *options: Any) -> dict[str, Any]:
        if "mesh" in outputs:
            outputs["gaussian"][0]
        return outputs

    def run(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        return self.postprocess_slat_output(super().run(*args, **options), False)


@pytest.mark.parametrize("config", [None, CACHED])
def test_a_mesh_needs_no_gaussians(config: Any) -> None:
    pipeline = LooksUpGaussians()
    with pytest.raises(KeyError):
        pipeline.run(IMAGE, stage1_inference_steps=2, stage2_inference_steps=2, decode_formats=["mesh"])
    if config is not None:
        fast_sam3d.accelerate(pipeline, config)
    found = run_object(pipeline, IMAGE, MASK, settings=FEW)
    assert len(found.result["mesh"][0].faces) and "gaussian" not in found.result


def test_trellis_gets_a_soft_mask_as_it_is_and_stops_after_the_structure() -> None:
    pipeline, pixels = trellis_like.random_image(), np.asarray(trellis_like.picture())
    soft = pixels[..., 3] // 2 + 100
    assert (with_alpha(pixels[..., :3], soft, soft=True)[..., 3] == soft).all()
    for hard in (soft > 150, (soft > 150).astype(np.uint8)):
        assert set(np.unique(with_alpha(pixels[..., :3], hard, soft=True)[..., 3])) == {0, 255}
    given = (pipeline, pixels[..., :3], pixels[..., 3])
    whole = run_object(*given, settings=RunSettings(1, 3, 3, ("gaussian",)))
    structure = run_object(*given, settings=RunSettings(1, 3, 3, structure_only=True))
    assert set(structure.result) == {"coords"}
    assert (structure.result["coords"] == whole.result["coords"]).all()
    assert whole.report.to_dict()["network_calls"].keys() == {"ss", "slat"}
    assert structure.report.to_dict()["network_calls"].keys() == {"ss"}
    assert "layout_refinement" not in whole.result and not whole.pose_refined
    with pytest.raises(InputError, match="at least 3 pixels"):
        run_object(pipeline, pixels[..., :3], np.eye(*pixels.shape[:2]) * (np.arange(pixels.shape[1]) < 2))


def test_trellis_without_voxels_is_refused_in_one_sentence() -> None:
    pipeline, pixels = trellis_like.random_image(), np.asarray(trellis_like.picture())
    pipeline.models["sparse_structure_decoder"].forward = lambda latent: -torch.ones(len(latent), 1, 4, 4, 4)
    with pytest.raises(FastSam3dError, match="no object") as failure:
        run_object(pipeline, pixels[..., :3], pixels[..., 3], settings=RunSettings(1, 2, 2))
    assert "\n" not in str(failure.value)
    assert "sample_sparse_structure" not in vars(pipeline)
