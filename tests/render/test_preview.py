"""The content of the preview."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import SH_C0, GaussianCloud
from fast_sam3d.geometry.poses import pose_matrix
from fast_sam3d.render.preview import ACCENT, PANEL, VIEW_PX, compose_preview, input_camera, save_preview
from fast_sam3d.render.renderer import MeshRenderer
from fast_sam3d.render.sheet import GAP_PX

HEIGHT, WIDTH, FOCAL, SCALE = 90, 120, 110.0, 0.6


def scene(translation=(0.15, 0.1, 2.0)):
    """A two-coloured bar (red at +x, blue at -x) seen from its -y side: input picture, mask and result."""
    box = trimesh.creation.box((0.9, 0.3, 0.3))
    vertices, faces = trimesh.remesh.subdivide(*trimesh.remesh.subdivide(box.vertices, box.faces))
    colors = np.where(vertices[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
    mesh = SimpleNamespace(
        vertices=vertices, faces=faces, vertex_attrs=np.concatenate([colors, colors], axis=1), success=True
    )
    rotation = Camera.orbit(20.0, 25.0).rotation  # row vectors: object to camera; not symmetric, so its transpose shows
    quaternion = trimesh.transformations.quaternion_from_matrix(rotation)
    result = {
        "mesh": [mesh],
        "rotation": quaternion[None],
        "translation": np.array([translation]),
        "scale": np.full((1, 3), SCALE),
    }
    camera = Camera(np.eye(3), np.zeros(3), FOCAL, (WIDTH / 2, HEIGHT / 2), (HEIGHT, WIDTH))
    image = MeshRenderer((vertices * SCALE) @ rotation + result["translation"], faces, colors)(camera)
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    depth = np.where(np.isfinite(image.depth), image.depth, np.nan)
    rays = np.stack([(WIDTH / 2 - u) / FOCAL, (HEIGHT / 2 - v) / FOCAL, np.ones_like(u)], axis=-1)
    result["pointmap"] = rays * depth[..., None]
    return np.round(image.rgb * 255).astype(np.uint8), image.mask, result


def views(sheet):
    """The four rendered panels of a sheet, [VIEW_PX, VIEW_PX, 3] each, found by their grey background."""
    pixels = np.asarray(sheet)
    columns = np.flatnonzero((pixels[20] == PANEL).all(axis=-1))
    right = columns.max() + 1
    lefts = [right - VIEW_PX, right - 2 * VIEW_PX - 14]
    tops = [14, 14 + VIEW_PX + 14 + 24]
    return [pixels[top : top + VIEW_PX, left : left + VIEW_PX] for top in tops for left in sorted(lefts)]


def drawn(view):
    """Where a view shows the object."""
    return ((np.abs(view.astype(int) - PANEL) > 12).any(axis=-1)) & ~((view == ACCENT).all(axis=-1))


def centroid(mask):
    return np.argwhere(mask).mean(axis=0)


def reddish(view):
    return (view[..., 0].astype(int) - view[..., 2] > 60) & ~((view == ACCENT).all(axis=-1))


def bluish(view):
    return view[..., 2].astype(int) - view[..., 0] > 60


def test_the_view_of_the_input_camera_matches_the_mask():
    image, mask, result = scene()
    posed, *_ = views(compose_preview(image, mask, result))
    outline = (posed == ACCENT).all(axis=-1)
    assert outline.any()
    rows, columns = np.nonzero(outline)
    object_rows, object_columns = np.nonzero(drawn(posed) | outline)
    assert abs(rows.min() - object_rows.min()) <= 4 and abs(rows.max() - object_rows.max()) <= 4
    assert abs(columns.min() - object_columns.min()) <= 4 and abs(columns.max() - object_columns.max()) <= 4
    # Red is at +x, which this camera sees on the right, in the input as in the view.
    assert centroid(reddish(image))[1] > centroid(bluish(image))[1]
    assert centroid(reddish(posed))[1] > centroid(bluish(posed))[1] + 50


def test_notices_are_written_below_the_views_and_wrapped():
    image, mask, result = scene()
    notices = ("noise", "out of distribution " * 20)
    plain, noted = (np.asarray(compose_preview(image, mask, result, text)) for text in ((), notices))
    assert len(noted) > len(plain) + 3 * 20  # three lines or more
    np.testing.assert_array_equal(noted[: len(plain) - GAP_PX], plain[:-GAP_PX])
    written = (noted[len(plain) :] == ACCENT).all(axis=-1)
    assert written.any() and not written[:, -GAP_PX:].any()


def test_a_wrong_pose_is_visible():
    image, mask, result = scene()
    moved = {
        **result,
        "translation": result["translation"] + [[-0.3, 0.0, 0.0]],
    }  # -x in the camera frame: to the right
    posed, *_ = views(compose_preview(image, mask, moved))
    assert centroid(drawn(posed))[1] > centroid((posed == ACCENT).all(axis=-1))[1] + 40


def test_the_other_views_orbit_the_object():
    image, mask, result = scene()
    _, right, behind, left = views(compose_preview(image, mask, result))
    assert reddish(right).sum() > 2 * bluish(right).sum()  # from +x: the red end, and on top the blue half further back
    assert bluish(left).sum() > 2 * reddish(left).sum()
    assert centroid(reddish(behind))[1] < centroid(bluish(behind))[1] - 50
    for view in (right, behind, left):
        edge = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
        assert (edge == PANEL).all()  # nothing is cut off


def test_a_pointmap_of_another_resolution():
    _, _, result = scene()
    full = input_camera(result, (HEIGHT, WIDTH))[0]
    half = input_camera({**result, "pointmap": result["pointmap"][::2, ::2]}, (HEIGHT, WIDTH))[0]
    assert np.isclose(full.focal, FOCAL, rtol=1e-3) and np.isclose(half.focal, FOCAL, rtol=0.02)
    assert half.size == (HEIGHT, WIDTH) and np.allclose(half.principal, full.principal, atol=1.5)


def test_the_azimuth_is_that_of_the_input_camera():
    _, _, result = scene((0.0, 0.0, 2.0))
    assert np.isclose(input_camera(result, (HEIGHT, WIDTH))[1], 20.0)
    turned = Camera.orbit(70.0, 10.0).rotation
    result["rotation"] = trimesh.transformations.quaternion_from_matrix(turned)[None]
    assert np.isclose(input_camera(result, (HEIGHT, WIDTH))[1], 70.0)
    assert np.allclose(pose_matrix(result)[:3, :3] / SCALE, turned.T)


def splats():
    random = np.random.default_rng(0)
    xyz = random.uniform(-1, 1, (3000, 3)).astype(np.float32) * [0.45, 0.15, 0.15]
    rgb = np.where(xyz[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]]).astype(np.float32)
    ones = np.ones((3000, 1), np.float32)
    turn = np.tile(np.array([1, 0, 0, 0], np.float32), (3000, 1))
    return GaussianCloud(
        xyz.astype(np.float32), 0.015 * np.repeat(ones, 3, axis=1), turn, 0.95 * ones, (rgb[:, None] - 0.5) / SH_C0
    )


@pytest.mark.parametrize("key", ["gaussian", "gs", "gaussian_4"])
def test_gaussians_are_shown_without_a_mesh(key):
    image, mask, result = scene()
    only = {name: value for name, value in result.items() if name != "mesh"}
    posed, right, _, _ = views(compose_preview(image, mask, {**only, key: [splats()]}))
    reference = views(compose_preview(image, mask, result))
    assert centroid(reddish(posed))[1] > centroid(bluish(posed))[1] + 50
    for mine, other in zip((posed, right), reference, strict=False):
        overlap = (drawn(mine) & drawn(other)).sum() / (drawn(mine) | drawn(other)).sum()
        assert overlap > 0.65  # splats are soft and extend beyond the edges
        assert np.abs(centroid(drawn(mine)) - centroid(drawn(other))).max() < 10


@pytest.mark.parametrize("missing", ["pointmap", "rotation"])
def test_four_orbit_views_without_pose_or_pointmap(missing, caplog):
    image, mask, result = scene()
    result[missing] = None
    front, right, behind, _ = views(compose_preview(image, mask, result))
    assert centroid(reddish(front))[1] > centroid(bluish(front))[1] + 50
    assert centroid(reddish(behind))[1] < centroid(bluish(behind))[1] - 50
    assert not (front == ACCENT).all(axis=-1).any() and drawn(right).any()


def test_a_pointmap_that_fits_no_camera_is_logged(caplog):
    image, mask, result = scene()
    result["pointmap"] = np.full((HEIGHT, WIDTH, 3), np.nan)
    compose_preview(image, mask, result)
    assert "without the view of the input camera" in caplog.text


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (64, 64)])
def test_layout_for_any_shape_of_picture(tmp_path, shape):
    _, _, result = scene()
    mask = np.zeros(shape, bool)
    mask[10:30, 10:30] = True
    result["pointmap"] = None
    save_preview(tmp_path / "p.png", np.zeros((*shape, 4), np.uint8), mask, result)
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"
        assert len(views(sheet)) == 4 and sheet.width < 1400 and sheet.height < 700
    assert os.listdir(tmp_path) == ["p.png"]


def test_invalid_arguments_write_nothing(tmp_path):
    image, mask, result = scene()
    for bad in ((image, mask[:-1], result), (image[..., 0], mask, result), (image, mask, {"mesh": [], "gaussian": []})):
        with pytest.raises(ValueError, match="agree|must be|neither"):
            save_preview(tmp_path / "p.png", *bad)
    assert os.listdir(tmp_path) == []


def test_the_first_view_has_the_colours_of_the_mesh_and_the_others_are_lit():
    picture, mask, result = scene()
    shaded, plain = (np.asarray(view) for view in views(compose_preview(picture, mask, result))[1::-1])
    colours = np.round(np.unique(result["mesh"][0].vertex_attrs[:, :3], axis=0) * 255)

    def share(view):
        near = np.abs(view[:, :, None].astype(float) - colours).max(axis=3).min(axis=2) <= 1
        return near.sum() / drawn(view).sum()

    assert share(plain) > 0.7 > 0.3 > share(shaded)  # the rest is where the two colours meet
