"""Layout refinement in the embedded pipeline's runs, and its settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.config.compose import load
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import ConfigError
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.model import common
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.refinement.pose import LayoutOutcome, pose_change
from fast_sam3d.report import observe
from fast_sam3d.run.object import RunSettings, run_object
from fast_sam3d.scene import SceneObject, compose_scene, run_scene
from fast_sam3d.scene.inputs import load_scene
from fast_sam3d.scene.pictures import mask_ious
from fast_sam3d.scene.worker import config_identity
from tests.minis import picture, random_mini, rgba

POSE = ("rotation", "translation", "scale")
MOVED = Pose(np.array([0.6, 0, 0.8, 0]), np.array([0.1, 0.2, 3.0]), np.full(3, 0.7))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return random_mini()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list:
    """The arguments of each refinement; its result is `MOVED`."""
    calls = []

    def refine(*given):
        calls.append(given)
        return LayoutOutcome(MOVED, 0.5, 0.75)

    monkeypatch.setattr(common, "refine_pose", refine)
    return calls


def test_refinement_is_off_by_default(pipeline, asked):
    plain = pipeline.run(rgba(), None, seed=0, decode_formats=["gaussian"])
    off = pipeline.run(rgba(), None, seed=0, decode_formats=["gaussian"], with_layout_postprocess=False)
    assert not asked and "layout_refinement" not in plain
    assert all(torch.equal(plain[name], off[name]) for name in POSE)


def test_result_has_the_refined_pose(pipeline, asked):
    plain = pipeline.run(rgba(), None, seed=0, decode_formats=["mesh"])
    with observe(pipeline) as report:
        refined = pipeline.run(rgba(), None, seed=0, decode_formats=["mesh"], with_layout_postprocess=True)
    ((solid, pose, mask, points, measured),) = asked
    assert len(solid.faces) == len(plain["mesh"][0].faces)
    np.testing.assert_allclose(pose.translation, plain["translation"][0], rtol=1e-6)
    np.testing.assert_array_equal(mask, picture()[1])
    assert points.shape == (48, 64, 3) and not measured
    for name in POSE:
        assert (refined[name].dtype, refined[name].shape) == (plain[name].dtype, plain[name].shape)
        np.testing.assert_allclose(refined[name][0], getattr(MOVED, name), rtol=1e-6)
    assert torch.equal(plain["mesh"][0].vertices, refined["mesh"][0].vertices)
    assert refined["layout_refinement"] == {
        "by": "fast_sam3d", "accepted": True, "mask_iou_before": 0.5, "mask_iou_after": 0.75,
        "change": pose_change(Pose.of(plain), MOVED), "reason": "",
    }  # fmt: skip
    assert report.seconds["layout"] > 0 and "layout" in [row[0] for row in report.rows()]


def test_unrefined_pose_is_bit_identical(pipeline, monkeypatch):
    monkeypatch.setattr(common, "refine_pose", lambda *given: LayoutOutcome(None, 0.9, 0.9, "no better"))
    plain = pipeline.run(rgba(), None, seed=0, decode_formats=["gaussian"])
    kept = pipeline.run(rgba(), None, seed=0, decode_formats=["gaussian"], with_layout_postprocess=True)
    assert all(torch.equal(plain[name], kept[name]) for name in POSE)
    assert kept["layout_refinement"]["reason"] == "no better"


def test_refinement_needs_a_decoded_shape(pipeline, asked):
    assert "mesh" not in pipeline.run(rgba(), None, seed=0, stage1_only=True, with_layout_postprocess=True)
    assert not asked


@pytest.mark.parametrize("formats", [[], ["gaussian"], ["mesh"]])
def test_random_shapes_raise_no_error(pipeline, formats):
    result = pipeline.run(rgba(), None, seed=0, decode_formats=formats, with_layout_postprocess=True)
    assert isinstance(result["layout_refinement"]["accepted"], bool)
    assert all(result[name].isfinite().all() for name in POSE)


def test_run_object_and_run_scene_can_disable_refinement(pipeline, asked):
    image, mask = picture()
    options = {"seed": 0, "ss_steps": 2, "slat_steps": 2, "formats": ["gaussian"]}
    for layout in (True, False):
        alone = run_object(pipeline, image, mask, settings=RunSettings(0, 2, 2, ("gaussian",), layout)).result
        (item,) = run_scene(pipeline, image, [mask], layout=layout, **options)
        assert len(asked) == 2
        assert item.result is not None
        assert all(torch.equal(alone[name], item.result[name]) for name in POSE)
        assert ("layout_refinement" in item.result) == layout


def test_configuration_enables_and_disables_refinement(tmp_path):
    (tmp_path / "part.safetensors").write_bytes(b"1")
    weights = Checkpoint("mini", tmp_path, "mini", "selected by the test")
    on, off = load(), load(["pipeline.layout_postprocess=false"])
    assert on.pipeline.layout_postprocess and not off.pipeline.layout_postprocess
    assert config_identity(on, weights) != config_identity(off, weights)
    with pytest.raises(ConfigError, match="layout_postprocess"):
        load(["pipeline.layout_postprocess=7"])


EXAMPLES = checkout()


@pytest.mark.skipif(EXAMPLES is None, reason="needs the repository, not only the installed package")
def test_refinement_increases_mask_overlap_of_the_embedded_model():
    assert EXAMPLES is not None
    pipeline = Pipeline.from_pretrained(EXAMPLES / "checkpoints" / "mini")
    given = load_scene(EXAMPLES / "examples" / "scene").object(2)
    overlaps = []
    for layout in (False, True):
        settings = RunSettings(42, 8, 4, ("gaussian",), layout)
        result = run_object(pipeline, given.image, given.mask, given.pointmap, settings=settings).result
        scene = compose_scene([SceneObject("2", result)])
        overlaps.append(mask_ious(scene, Camera.from_pointmap(given.pointmap), {"2": given.mask})["2"])
    facts = SimpleNamespace(**result["layout_refinement"])
    assert facts.accepted and overlaps[1] > overlaps[0] + 0.05
    # The open parts and the resolution differ a little.
    np.testing.assert_allclose([facts.mask_iou_before, facts.mask_iou_after], overlaps, atol=0.04)
