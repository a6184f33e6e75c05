"""Small objects are reconstructed in a window around them; results are in the picture's frame."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from fast_sam3d import metrics
from fast_sam3d.checkpoints.load import load_pipeline
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.poses import quaternion_matrix
from fast_sam3d.mini.data import views
from fast_sam3d.mini.data.families import Sampled, sample_object
from fast_sam3d.mini.data.pictures import image_grid
from fast_sam3d.mini.data.samples import seen_at_assumed_size
from fast_sam3d.model.depth import ASSUMED_FOCAL, SilhouetteDepth
from fast_sam3d.model.pose import quaternion_from_matrix
from fast_sam3d.model.window import LEAST_SHARE, SHARE, Window
from tests.minis import random_mini

SIDE = 600


def photograph(sampled: Sampled, camera: views.Camera, side: int = SIDE) -> np.ndarray:
    """[side, side, 4] uint8, one colour behind the object."""
    grey = np.full(3, 0.5, np.float32)
    picture = views.render(sampled, camera, views.Backdrop(grey, grey, False), None, image_grid(side, side))
    pixels = np.concatenate([picture.rgb, picture.mask[:, None]], 1) * 255
    return np.round(pixels).astype(np.uint8).reshape(side, side, 4)


def small_object(seed: int, share: float = 0.1) -> tuple[Sampled, views.Camera]:
    """An object near a corner, at the focal length that the guess assumes."""
    sampled = sample_object(seed, "chair")
    camera = views.sample_camera(np.random.default_rng(seed), sampled.symmetry)
    depth = ASSUMED_FOCAL * camera.size / share
    t = np.array([0.3 / ASSUMED_FOCAL * depth, 0.25 / ASSUMED_FOCAL * depth, depth], np.float32)
    return sampled, replace(camera, t=t, focal=ASSUMED_FOCAL)


def through(window: Window, camera: views.Camera) -> views.Camera:
    """The window's own camera."""
    turn = window.turn.astype(np.float32)
    return replace(
        camera, R=camera.R @ turn.T, t=camera.t @ turn.T, focal=ASSUMED_FOCAL * window.zoom,
        light=camera.light @ turn.T,
    )  # fmt: skip


def as_pose(camera: views.Camera) -> dict[str, torch.Tensor]:
    return {
        "rotation": quaternion_from_matrix(torch.from_numpy(camera.R)[None]),
        "translation": torch.from_numpy(camera.t)[None],
        "scale": torch.full((1, 3), float(camera.size)),
    }


def test_only_small_objects_get_a_window() -> None:
    mask = np.zeros((300, 400), bool)
    mask[50:80, 100 : 100 + int(LEAST_SHARE * 400)] = True
    assert Window.around(mask) is None
    mask[:, 199:] = False
    window = Window.around(mask)
    assert window is not None and window.size == (300, 400)


def test_window_is_the_view_of_its_camera() -> None:
    for seed in range(3):
        sampled, camera = small_object(seed)
        picture = photograph(sampled, camera)
        window = Window.around(picture[..., 3] > 0)
        assert window is not None
        np.testing.assert_allclose(window.turn @ window.turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(window.turn) == pytest.approx(1)
        got, true = window.see(picture), photograph(sampled, through(window, camera), window.side)
        inside, truly = got[..., 3] > 0, true[..., 3] > 0
        assert (inside & truly).sum() / (inside | truly).sum() > 0.9
        both = inside & truly
        assert np.median(np.abs(got[both].astype(int) - true[both])) < 6
        rows, columns = inside.nonzero()
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(SHARE * window.side, abs=2)


def test_true_pose_is_recovered_exactly() -> None:
    """The training targets in the window are, in the picture, the object at the guess's assumed size."""
    _, camera = small_object(3)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[60:120, 70:140] = True
    window = Window.around(mask)
    assert window is not None
    got = window.pose_in_picture(as_pose(seen_at_assumed_size(through(window, camera))))
    np.testing.assert_allclose(quaternion_matrix(got["rotation"][0]), camera.R, atol=1e-6)
    torch.testing.assert_close(got["translation"][0], torch.from_numpy(camera.t / camera.size), rtol=1e-5, atol=0)
    assert got["scale"].tolist() == [[1, 1, 1]]


def test_window_beyond_the_border_is_background() -> None:
    picture = np.full((200, 200, 4), 255, np.uint8)
    picture[..., 3] = 0
    picture[:20, :10, 3] = 255
    window = Window.around(picture[..., 3] > 0)
    assert window is not None
    seen = window.see(picture)
    assert (seen[..., :3] == 255).all()
    inside = seen[..., 3] > 0
    assert inside.any() and not inside[: window.side // 5].any() and not inside[:, : window.side // 4].any()


def middle() -> tuple[np.ndarray, np.ndarray]:
    """A picture [640, 640, 4] of noise with a disc of 64 pixels in its middle, and its 128 pixels around the disc."""
    picture = np.random.default_rng(0).integers(0, 256, (640, 640, 4)).astype(np.uint8)
    y, x = np.mgrid[:640, :640] - 319.5
    picture[..., 3] = np.where(x**2 + y**2 < 32**2, 255, 0)
    return picture, picture[256:384, 256:384].copy()


def test_central_object_equals_that_of_the_cropped_picture(caplog: pytest.LogCaptureFixture) -> None:
    picture, crop = middle()
    pipeline = random_mini()
    with caplog.at_level(logging.INFO, "fast_sam3d"):
        near = pipeline.run(crop, seed=0, decode_formats=["mesh"])
        assert "small in the picture" not in caplog.text
        far = pipeline.run(picture, seed=0, decode_formats=["mesh"])
    assert "the object is small in the picture" in caplog.text
    for name in ("shape", "coords", "rotation", "scale"):
        assert torch.equal(near[name], far[name]), name
    assert torch.equal(near["mesh"][0].vertices, far["mesh"][0].vertices)
    # Five times as far on the same rays, because the crop has a fifth of the picture's side.
    expected = near["translation"] * torch.tensor([1.0, 1.0, 5.0])
    torch.testing.assert_close(far["translation"], expected, rtol=1e-5, atol=1e-6)


def test_pointmap_and_pose_are_in_the_pictures_frame() -> None:
    picture, crop = middle()
    picture = np.roll(picture, (-200, 150), (0, 1))
    pipeline = random_mini()
    result = pipeline.run(picture, seed=0, stage1_only=True)
    points, mask = result["pointmap"].numpy(), picture[..., 3] > 0
    assert points.shape == result["pointmap_colors"].shape == (640, 640, 3)
    assert np.isfinite(points[mask]).all() and np.isnan(points[~mask]).all()
    camera = Camera.from_pointmap(points)
    assert camera.focal == pytest.approx(ASSUMED_FOCAL * 640, rel=1e-3)
    np.testing.assert_allclose(camera.principal, [320, 320], atol=0.5)
    pixels, _ = camera.project(points[mask])
    np.testing.assert_allclose(pixels, np.stack(mask.nonzero()[::-1], 1) + 0.5, atol=0.1)
    # Their depth before the object's middle is that of the guess in the window.
    window = Window.around(mask)
    assert window is not None
    axis = window.turn[2]
    got = (points[mask] - result["translation"][0].numpy()) @ axis
    assert np.ptp(got) < 0.4 and abs(np.median(got)) < 4
    near = pipeline.run(crop, seed=0, stage1_only=True)
    guess = near["pointmap"].numpy()[crop[..., 3] > 0][:, 2] - float(near["translation"][0, 2])
    assert np.median(got) == pytest.approx(np.median(guess), abs=0.1)


@pytest.mark.parametrize("source", ["given", "model"])
def test_given_points_are_not_modified(source: str) -> None:
    picture, _ = middle()
    depth = SilhouetteDepth()(torch.zeros(3, 640, 640), torch.from_numpy(picture[..., 3] / 255))["pointmaps"]
    pipeline = random_mini()
    if source == "model":
        pipeline.depth_model = lambda image, mask: {"pointmaps": depth}
    result = pipeline.run(picture, seed=0, stage1_only=True, pointmap=depth if source == "given" else None)
    np.testing.assert_array_equal(result["pointmap"].numpy(), depth.numpy())


def test_embedded_model_places_small_objects_at_their_mask() -> None:
    pipeline = load_pipeline("mini", device="cpu")
    overlaps = []
    for seed in range(4):
        picture = photograph(*small_object(seed))
        far = pipeline.run(picture, seed=1, stage1_only=True)
        posed = far["voxel"].numpy() * far["scale"][0].numpy() @ quaternion_matrix(far["rotation"][0])
        eye = Camera(np.eye(3), np.zeros(3), ASSUMED_FOCAL * SIDE, (SIDE / 2, SIDE / 2), (SIDE, SIDE))
        pixels, _ = eye.project(posed + far["translation"][0].numpy())
        covered = np.stack((picture[..., 3] > 0).nonzero()[::-1], 1) + 0.5
        thick = [[0.0], [1.0]]  # flat boxes have no volume
        boxes = [np.hstack([[at.min(0), at.max(0)], thick]) for at in (pixels, covered)]
        overlaps.append(metrics.box_iou(*boxes))
    # Without the window the overlap is .07 on average.
    assert np.mean(overlaps) > 0.5, overlaps
