"""Pose refinement of a pipeline that refines none itself, with results in the form of the stock one."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fast_sam3d import RunSettings, run_object
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.refinement.pose import pose_change
from fast_sam3d.run.pose import refinement_text
from fast_sam3d.scene import run_scene
from tests.posed import CAMERA, SOLID, TRUE, disturbed, errors, photograph
from tests.stand_in import StandIn

MASK, POINTS = photograph()
IMAGE = np.full((*MASK.shape, 3), 9, np.uint8)
GIVEN = disturbed()
FEW = RunSettings(3, 2, 2, ("mesh",))


class Known(StandIn):
    """Every run returns the known object in a pose beside the true one, in the form of stock results."""

    points = torch.from_numpy(POINTS).float()
    pose = GIVEN

    def run(self, image: Any = None, mask: Any = None, seed: int | None = None, **options: Any) -> dict[str, Any]:
        result = super().run(image, mask, seed, **options)
        for name in ("rotation", "translation", "scale"):
            result[name] = torch.from_numpy(getattr(self.pose, name)[None]).float()
        if "mesh" in result:
            result["mesh"] = [SimpleNamespace(vertices=torch.from_numpy(SOLID.points), faces=torch.tensor(SOLID.faces))]
        if "gaussian" in result:
            count = len(SOLID.points)
            result["gaussian"][0].get_xyz = torch.from_numpy(SOLID.points)
            result["gaussian"][0].get_opacity = torch.full((count, 1), 0.9)
            result["gaussian"][0].get_scaling = torch.full((count, 3), 0.01)
        return {**result, "pointmap": self.points}


def kept(result: Mapping[str, Any], pose: Pose = GIVEN) -> bool:
    return all(
        np.array_equal(result[name][0], getattr(pose, name).astype(np.float32))
        for name in ("rotation", "translation", "scale")
    )


@pytest.mark.parametrize("formats", [("mesh",), ("gaussian",), ("mesh", "gaussian")])
def test_the_pose_of_a_stock_shaped_result_is_recovered(formats: tuple[str, ...]) -> None:
    found = run_object(Known(), IMAGE, MASK, settings=RunSettings(3, 2, 2, formats))
    refined, facts = Pose.of(found.result), found.result["layout_refinement"]
    assert (errors(refined) < 0.5 * errors(GIVEN)).all()
    assert facts["accepted"] and facts["by"] == "fast_sam3d" and facts["reason"] == ""
    assert facts["mask_iou_before"] < 0.8 and facts["mask_iou_after"] > 0.85
    assert facts["change"] == pytest.approx(pose_change(GIVEN, refined), rel=1e-3)
    assert found.pose_refined and found.report.seconds["layout"] > 0
    assert found.report.total_seconds <= found.seconds
    for name in ("rotation", "translation", "scale"):
        assert found.result[name].dtype == torch.float32 and len(found.result[name]) == 1
    assert f"rotated by {facts['change']['rotation_deg']:.1f} degrees" in refinement_text(facts)


def test_the_setting_turns_it_off() -> None:
    found = run_object(Known(), IMAGE, MASK, settings=RunSettings(3, 2, 2, ("mesh",), refine_pose=False))
    assert kept(found.result) and "layout_refinement" not in found.result and not found.pose_refined


@pytest.mark.parametrize("turned", ["inverse rotation", "y down"])
def test_a_result_of_another_convention_is_not_recovered(turned: str) -> None:
    """What the recovery above relies on: row vectors, and the PyTorch3D frame of the pointmap."""
    pipeline = Known()
    if turned == "inverse rotation":
        pipeline.pose = Pose(GIVEN.rotation * [1, -1, -1, -1], GIVEN.translation, GIVEN.scale)
    else:
        pipeline.points = pipeline.points * torch.tensor([-1.0, -1.0, 1.0])
    found = run_object(pipeline, IMAGE, MASK, settings=FEW)
    assert (errors(Pose.of(found.result)) > 0.5 * errors(GIVEN)).any()


def test_pointmaps_that_the_pipeline_reduced_fit_the_mask() -> None:
    """The stock pipeline halves the pointmap of a picture of more than 1,200 pixels."""
    large = Camera(CAMERA.rotation, CAMERA.translation, 2 * CAMERA.focal, (160.0, 120.0), (240, 320))
    mask, _ = photograph(camera=large)
    found = run_object(Known(), np.full((240, 320, 3), 9, np.uint8), mask, settings=FEW)
    assert (errors(Pose.of(found.result)) < 0.4 * errors(GIVEN)).all()


@pytest.mark.parametrize(
    ("points", "pose", "says"),
    [
        (None, GIVEN, "the result has no pointmap"),
        (torch.full((4, 4, 3), torch.nan), GIVEN, "the camera is unknown"),
        (Known.points, TRUE, "the overlap with the mask would not increase"),
    ],
)
def test_a_kept_pose_is_bit_identical_and_the_reason_reported(points: Any, pose: Pose, says: str) -> None:
    pipeline = Known()
    pipeline.points, pipeline.pose = points, pose
    result = run_object(pipeline, IMAGE, MASK, settings=FEW).result
    facts = result["layout_refinement"]
    assert kept(result, pose) and not facts["accepted"] and facts["change"] is None and says in facts["reason"]
    assert says in refinement_text(facts)


def test_a_pose_that_is_not_finite_is_kept() -> None:
    class Diverged(Known):
        def run(self, *args: Any, **options: Any) -> dict[str, Any]:
            return {**super().run(*args, **options), "scale": torch.full((1, 3), torch.nan)}

    assert "positive scale" in run_object(Diverged(), IMAGE, MASK, settings=FEW).result["layout_refinement"]["reason"]


class Configured(Known):
    """With a refinement of its own, called as in inference_pipeline_pointmap.py, where errors are logged."""

    def run(self, *args: Any, **options: Any) -> dict[str, Any]:
        result = super().run(*args, **options)
        if options["with_layout_postprocess"] and self.layout_post_optimization_method is not None:
            try:
                pose = (result[name] for name in ("rotation", "translation", "scale"))
                rotation, translation, scale, overlap, *_ = self.layout_post_optimization_method("glb", *pose, "more")
                result |= {"rotation": rotation, "translation": translation, "scale": scale, "iou": overlap}
            except ArithmeticError:
                pass
        return result


def test_a_refinement_that_the_pipeline_is_configured_with_is_kept() -> None:
    pipeline = Configured()

    def own(glb: Any, rotation: Any, translation: Any, scale: Any, more: str) -> Any:
        return rotation, translation + torch.tensor([0.3, 0, 0]), scale, 0.7, False, False

    pipeline.layout_post_optimization_method = own
    found = run_object(pipeline, IMAGE, MASK, settings=FEW)
    facts = found.result["layout_refinement"]
    aside = np.array([0.3, 0, 0])
    np.testing.assert_allclose(found.result["translation"][0], GIVEN.translation + aside, rtol=1e-6)
    assert facts["by"] == "the pipeline" and facts["accepted"] and facts["mask_iou_after"] == 0.7
    assert facts["change"]["translation"] == pytest.approx(0.3) and facts["change"]["scale"] == pytest.approx(1)
    assert pipeline.layout_post_optimization_method is own
    assert "refined by the pipeline: rotated by 0.0 degrees" in refinement_text(facts)


def test_a_refinement_that_keeps_the_pose_says_so() -> None:
    pipeline = Configured()
    pipeline.layout_post_optimization_method = lambda glb, *pose: (*pose[:3], -1.0, False, False)
    found = run_object(pipeline, IMAGE, MASK, settings=FEW)
    facts = found.result["layout_refinement"]
    assert kept(found.result) and not facts["accepted"] and "kept the pose" in facts["reason"]


def test_where_the_configured_refinement_fails_ours_is_used(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Configured()

    def failing(*given: Any) -> Any:
        raise ArithmeticError

    pipeline.layout_post_optimization_method = failing
    with caplog.at_level(logging.WARNING, "fast_sam3d"):
        found = run_object(pipeline, IMAGE, MASK, settings=FEW)
    assert "the pipeline's own pose refinement failed" in caplog.text
    assert found.result["layout_refinement"]["by"] == "fast_sam3d, because the pipeline's own method failed"
    assert (errors(Pose.of(found.result)) < 0.4 * errors(GIVEN)).all()
    assert pipeline.layout_post_optimization_method is failing


@pytest.mark.parametrize("layout", [True, False])
def test_scenes_refine_too(layout: bool) -> None:
    (item,) = run_scene(Known(), IMAGE, [MASK], ss_steps=2, slat_steps=2, formats=["mesh"], layout=layout)
    assert item.result is not None
    assert ((errors(Pose.of(item.result)) < 0.4 * errors(GIVEN)).all()) == layout
    json.dumps(item.result.get("layout_refinement"))
