"""Pictures of a scene, and the overlap with the masks, on boxes with known places in the picture."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import trimesh

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.scene import PlacedObject, Scene, Surface, pictures
from fast_sam3d.scene.files import save_scene_glb
from fast_sam3d.scene.pictures import mask_ious, scene_preview, scene_up, turntable, visible_objects

CAMERA = Camera(np.eye(3), np.zeros(3), 100.0, (40.0, 30.0), (60, 80))


STANDING = np.array([0.5**0.5, 0.5**0.5, 0, 0])
"""Turns the object's +z to the camera's +y."""


def box(x: float, z: float, colour: tuple[int, ...] = (200, 20, 20), name: str = "0", fine: int = 0) -> PlacedObject:
    """A cube of 1, seen from the front, its front face at depth z."""
    cube = trimesh.creation.box((1, 1, 1))
    for _ in range(fine):
        cube = cube.subdivide()
    rgb = np.tile(np.array(colour, np.uint8), (len(cube.vertices), 1))
    surface = Surface(cube.vertices.astype(np.float32), np.asarray(cube.faces, np.int64), rgb)
    return PlacedObject(name, Pose(STANDING, np.array([x, 0.0, z + 0.5]), np.ones(3)), surface=surface)


def cloud(item: PlacedObject) -> PlacedObject:
    """The same cube of gaussians."""
    line = np.linspace(-0.5, 0.5, 21)
    points = np.stack(np.meshgrid(line, line, line), axis=-1).reshape(-1, 3).astype(np.float32)
    count = len(points)
    turns = np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    gaussians = GaussianCloud(
        points, np.full((count, 3), 0.025, np.float32), turns, np.ones((count, 1), np.float32),
        np.zeros((count, 1, 3), np.float32),
    )  # fmt: skip
    return PlacedObject(item.name, item.pose, gaussians)


def square(left: int, right: int, top: int = 18, bottom: int = 42) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("kind", [lambda item: item, cloud])
def test_occlusion_between_objects(kind):
    # +x is left. The near one spans 100 / 4 = 25 pixels around the middle, the far one reaches out to its left.
    scene = Scene((kind(box(0.0, 4.0, name="a")), kind(box(1.0, 8.0, name="b"))))
    owner = visible_objects(scene, CAMERA)
    assert owner[30, 40] == 0 and owner[30, 24] == 1 and owner[30, 60] == -1
    masks = {"a": square(28, 52), "b": square(22, 28, 24, 36)}
    overlaps = mask_ious(scene, CAMERA, masks)
    assert overlaps["a"] > 0.7 and overlaps["b"] > 0.5
    assert mask_ious(scene, CAMERA, {"a": square(60, 70)}) == {"a": 0.0}
    alone = mask_ious(Scene(scene.objects[1:]), CAMERA, masks)
    assert alone["b"] < overlaps["b"]  # the mask excludes the part that the other hides


def test_the_overlap_is_exact_for_a_mask_that_fits():
    scene = Scene((box(0.0, 4.0),))
    owner = visible_objects(scene, CAMERA)
    assert mask_ious(scene, CAMERA, {"0": owner == 0}) == {"0": 1.0}
    assert 25 * 25 <= (owner == 0).sum() <= 26 * 26


def test_up_direction_follows_the_objects():
    tilt = Pose(np.array([np.cos(0.1), np.sin(0.1), 0, 0]), np.array([0.0, 0, 4]), np.ones(3))
    scene = Scene((PlacedObject("0", tilt),))
    np.testing.assert_allclose(scene_up(scene), tilt.rotation_matrix[2])
    upside_down = Pose(np.array([0.0, 1, 0, 0]), np.array([0.0, 0, 4]), np.ones(3))
    upright = Pose(np.array([1.0, 0, 0, 0]), np.array([0.0, 0, 4]), np.ones(3))
    np.testing.assert_allclose(scene_up(Scene((PlacedObject("0", upright), PlacedObject("1", upside_down)))), [0, 1, 0])


def test_the_preview_shows_masks_scene_and_another_view():
    scene = Scene((box(0.0, 4.0, (0, 255, 0)),))
    picture = np.full((60, 80, 3), 90, np.uint8)
    sheet = np.asarray(scene_preview(picture, {"0": square(28, 52)}, scene, CAMERA)).astype(int)
    third = sheet.shape[1] // 3
    given = sheet[:, :third]
    coloured = np.ptp(given, axis=2) > 50
    assert 0.003 < coloured.mean() < 0.03  # an outline, and no tint over the object
    assert (sheet[150:170, 14 + int(0.38 * third) : 14 + int(0.44 * third)] == 90).all()
    for panel in (1, 2):
        part = sheet[:, panel * third : (panel + 1) * third]
        green = (part[..., 1] > part[..., 0] + 60) & (part[..., 1] > part[..., 2] + 60)
        assert green.sum() > 2000
    assert scene_preview(picture, {"0": square(28, 52)}, scene, None).size == (sheet.shape[1], sheet.shape[0])


@pytest.mark.parametrize("fine", [0, 5])
def test_turntable_is_a_full_rotation(fine):
    scene = Scene((box(0.0, 4.0, (255, 0, 0), "a", fine), box(0.0, 7.0, (0, 0, 255), "b", fine)))
    frames = turntable(scene, CAMERA, 4)
    pixels = [np.asarray(frame.convert("RGB")).astype(int) for frame in frames]
    red = [int((p[..., 0] > p[..., 2] + 40).sum()) for p in pixels]
    blue = [int((p[..., 2] > p[..., 0] + 40).sum()) for p in pixels]
    assert red[0] > 1.2 * blue[0]  # from the front the red one hides most of the blue one
    assert blue[2] > 1.2 * red[2]  # from behind the blue one is in front
    assert min(red[1], blue[1], red[3], blue[3]) > 200  # from the sides both are there


@pytest.mark.parametrize("camera", [CAMERA, None], ids=["of the picture", "none"])
def test_the_preview_shows_the_front_and_another_side(monkeypatch, camera):
    seen: list[Camera] = []

    def paint(view: Camera, lit: bool) -> np.ndarray:
        seen.append(view)
        return np.zeros((*view.size, 3), np.uint8)

    monkeypatch.setattr(pictures, "painter", lambda scene: paint)
    scene_preview(np.zeros((60, 80, 3), np.uint8), {"0": square(28, 52)}, Scene((box(1.0, 4.0),)), camera)
    front, other = (view.rotation[:, 2] for view in seen)  # the views' own depth
    straight = np.array([0.0, 0, 1]) if camera is not None else np.array([1.0, 0, 4.5]) / np.hypot(1, 4.5)
    np.testing.assert_allclose(abs(front), straight, atol=1e-6)
    assert 0.1 < abs(other @ front) < 0.9


def test_a_crowded_scene_is_drawn_from_fewer_vertices_and_looks_the_same():
    scene = Scene((box(-0.9, 2.0, (200, 20, 20), "0", fine=6), box(0.9, 2.0, (20, 200, 20), "1", fine=6)))
    light = pictures._lightened(scene, limit=8_000)
    assert sum(len(item.surface.vertices) for item in light.objects) <= 8_000 < 49_156
    assert pictures._lightened(scene) is scene
    for quick, limit in ((False, 1), (True, 8)):  # dots grow with the distances of vertices
        pair = [pictures.painter(each, quick)(CAMERA).astype(float) for each in (scene, light)]
        assert np.abs(pair[0] - pair[1]).mean() < limit


@pytest.mark.parametrize("part", ["overlaps", "pictures", "file"])
def test_memory_of_composing_does_not_grow_with_the_objects(monkeypatch, tmp_path, part):
    """Beside the objects themselves: they are compared one by one, drawn from few vertices, and written uncopied."""
    monkeypatch.setattr(pictures, "_lightened", partial(pictures._lightened, limit=5_000))
    fine = box(0.0, 4.0, fine=5)

    def peak(count: int) -> float:
        scene = Scene(tuple(replace(fine, name=str(n)) for n in range(count)))
        masks = {item.name: square(28, 52) for item in scene.objects}
        calls = {
            "overlaps": lambda: mask_ious(scene, CAMERA, masks),
            "pictures": lambda: pictures.painter(scene)(CAMERA),
            "file": lambda: save_scene_glb(tmp_path / "scene.glb", scene),
        }
        tracemalloc.start()
        calls[part]()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found - (tmp_path / "scene.glb").stat().st_size if part == "file" else found

    few, many = peak(4), peak(16)  # four times as many
    assert many < 2 * few
