"""Recovery of perturbed poses, and poses that must not change."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast_sam3d.geometry.poses import Pose
from fast_sam3d.refinement.fit import LayoutSettings, Motion, _motions
from fast_sam3d.refinement.pose import Solid, pose_change, refine_pose, updated
from fast_sam3d.refinement.target import LayoutTarget
from tests.posed import CAMERA, SOLID, TRUE, disturbed, errors, photograph

NAN = np.full((120, 160, 3), np.nan, np.float32)


@pytest.mark.parametrize("side", [1, -1])
def test_perturbed_pose_is_recovered(side):
    mask, points = photograph()
    given = disturbed(*(tuple(side * part for part in parts) for parts in ((0.08, -0.06, 0.1), (0.04, -0.03, 0.05))),
                      growth=1.06**side)  # fmt: skip
    outcome = refine_pose(SOLID, given, mask, points, True)
    assert outcome.pose is not None
    assert outcome.before < 0.8 and outcome.after > 0.95
    assert (errors(outcome.pose) < 0.35 * errors(given)).all()
    assert np.ptp(outcome.pose.scale) == 0
    again = refine_pose(SOLID, given, mask, points, True).pose
    for name in ("rotation", "translation", "scale"):
        np.testing.assert_array_equal(getattr(outcome.pose, name), getattr(again, name))


def test_silhouette_alone_recovers_the_mask():
    mask, points = photograph()
    guess = np.where(mask[..., None], points, np.nan)
    given = disturbed()
    outcome = refine_pose(SOLID, given, mask, guess, False)
    assert outcome.pose is not None and outcome.after > 0.9
    assert errors(outcome.pose)[0] < errors(given)[0]


def test_rounding_differences_are_not_amplified():
    mask, points = photograph()
    given = disturbed()
    close = Pose(given.rotation, given.translation * (1 + 1e-7), given.scale)
    one, other = (refine_pose(SOLID, pose, mask, points, True).pose for pose in (given, close))
    assert one is not None and other is not None
    np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-5)


def test_gaussian_centres_refine_as_well_as_a_mesh():
    mask, points = photograph()
    dots = Solid(SOLID.points, sides=np.full(len(SOLID.points), 0.02))
    outcome = refine_pose(dots, disturbed(), mask, points, True)
    assert outcome.pose is not None
    assert (errors(outcome.pose) < 0.5 * errors(disturbed())).all()


def test_change_of_a_pose():
    moved = disturbed((0, 0, np.radians(5.0)), (0.3, 0, 0.4), 1.5)
    np.testing.assert_allclose(list(pose_change(TRUE, moved).values()), [5.0, 0.5, 1.5], rtol=1e-6)
    assert pose_change(TRUE, TRUE) == {"rotation_deg": pytest.approx(0, abs=1e-5), "translation": 0, "scale": 1}


def test_refined_pose_has_the_form_of_the_given_one():
    result = {
        "rotation": torch.zeros(1, 1, 4),
        "translation": torch.zeros(3, dtype=torch.float64),
        "scale": torch.ones(1),
    }
    new = updated(result, TRUE)
    assert [tuple(item.shape) for item in new.values()] == [(1, 1, 4), (3,), (1,)]
    assert new["translation"].dtype == torch.float64 and new["scale"].item() == pytest.approx(0.9)


def test_accurate_pose_is_kept():
    mask, points = photograph()
    outcome = refine_pose(SOLID, TRUE, mask, points, True)
    assert outcome.pose is None and outcome.before > 0.95
    facts = outcome.facts(TRUE)
    assert facts["reason"] == "the overlap with the mask would not increase" and not facts["accepted"]
    assert facts["change"] is None


def test_object_may_extend_behind_an_occluder():
    """A box in front of the right third: the pose must not be fitted to the visible part alone."""
    mask, points = photograph()
    columns = np.flatnonzero(mask.any(0))
    cut = columns[0] + 2 * len(columns) // 3
    hidden = mask.copy()
    hidden[:, cut:] = False
    points[:, cut:] *= 1.2 / points[:, cut:, 2:]
    assert refine_pose(SOLID, TRUE, hidden, points, True).before > 0.97
    outcome = refine_pose(SOLID, disturbed(), hidden, points, True)
    assert outcome.pose is not None
    assert (errors(outcome.pose) < 0.7 * errors(disturbed())).all()
    flat = np.where(mask[..., None], points, np.nan)  # no points of the box remain
    assert refine_pose(SOLID, TRUE, hidden, flat, False).before < 0.8


def test_object_may_extend_beyond_the_picture():
    aside = Pose(TRUE.rotation, TRUE.translation + np.array([0.9, 0, 0]), TRUE.scale)
    mask, points = photograph(pose=aside)
    assert mask[:, 0].any()
    assert refine_pose(SOLID, aside, mask, points, True).before > 0.95
    given = disturbed(pose=aside)
    outcome = refine_pose(SOLID, given, mask, points, True)
    assert outcome.pose is not None
    assert (errors(outcome.pose, aside) < 0.7 * errors(given, aside)).all()


def test_pose_is_kept_if_refinement_is_impossible():
    mask, points = photograph()
    near = Pose(TRUE.rotation, np.array([0, 0, 0.1]), TRUE.scale)
    nowhere = Pose(TRUE.rotation, np.array([30.0, 0, 2.5]), TRUE.scale)
    for solid, pose, covered, seen, why in (
        (None, TRUE, mask, points, "no shape"),
        (Solid(np.zeros((1, 3)), sides=np.ones(1)), TRUE, mask, points, "no shape"),
        (Solid(SOLID.points * np.nan, SOLID.faces), TRUE, mask, points, "not finite"),
        (SOLID, TRUE, np.zeros_like(mask), points, "empty"),
        (SOLID, TRUE, mask, NAN, "camera"),
        (SOLID, near, mask, points, "behind the camera"),
        (SOLID, nowhere, mask, points, "would not increase"),
    ):
        outcome = refine_pose(solid, pose, covered, seen, True)
        assert outcome.pose is None and why in outcome.reason


def test_camera_is_recovered_from_few_points():
    mask, points = photograph()
    sparse = np.full_like(points, np.nan)
    sparse[::15, ::15] = points[::15, ::15]
    outcome = refine_pose(SOLID, disturbed(), mask, sparse, True)
    assert outcome.pose is not None and outcome.after > outcome.before


def test_motion_jacobian_equals_finite_differences():
    rng = np.random.default_rng(0)
    points, centre = rng.normal(size=(5, 3)), rng.normal(size=3)
    slopes = _motions(points, centre, 0.7)
    for k in range(7):
        step = np.zeros(7)
        step[k] = 1e-6
        motions = [Motion.of(sign * step, centre, 0.7) for sign in (1, -1)]
        moved = [motion(points) for motion in motions]
        np.testing.assert_allclose(motions[0].undo(moved[0]), points, atol=1e-12)
        np.testing.assert_allclose((moved[0] - moved[1]) / 2e-6, slopes[:, :, k], atol=1e-8)


def test_window_camera_agrees_with_the_picture():
    mask, points = photograph()
    target = LayoutTarget.around(mask, points, CAMERA, 64, 1.0)
    rows, columns = np.nonzero(target.mask)
    pixels, _ = target.camera.project(target.points[rows, columns])
    assert np.abs(pixels - np.stack([columns, rows], 1) - 0.5).max() < 1.01 * target.camera.focal / CAMERA.focal
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 64
    assert (target.distance[target.mask] < 0).all() and (target.distance[~target.mask] > 0).all()
    assert not target.open.any() and not target.behind.any()


def test_solid_of_a_result():
    coords = torch.tensor([[0, 0, 0, 0], [0, 31, 31, 31]])
    cloud = SimpleNamespace(get_xyz=torch.zeros(2, 3), get_opacity=torch.tensor([[0.9], [0.1]]),
                            get_scaling=torch.full((2, 3), 0.1))  # fmt: skip
    empty = SimpleNamespace(vertices=torch.zeros(0, 3), faces=torch.zeros(0, 3, dtype=torch.long))
    full = SimpleNamespace(vertices=torch.eye(3), faces=torch.tensor([[0, 1, 2]]))
    mesh = Solid.of({"mesh": [full], "gaussian": [cloud], "coords": coords}, 32)
    dots = Solid.of({"mesh": [empty], "gaussian": [cloud], "coords": coords}, 32)
    voxels = Solid.of({"coords": coords}, 32)
    assert mesh is not None and mesh.faces is not None
    assert dots is not None and dots.faces is None and len(dots.points) == 1
    assert voxels is not None and np.abs(voxels.points).max() == 0.5 - 1 / 64
    assert Solid.of({"coords": coords[:0]}, 32) is None


@pytest.mark.parametrize("wrong", [{"span": 0}, {"blurs": ()}, {"blurs": (1.0, -1.0)}, {"depth": -1.0}])
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LayoutSettings(**wrong)
