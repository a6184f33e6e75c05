"""Preview of a result: the input with its mask next to four rendered views."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy, first, transform_points
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import pose_matrix
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.render.renderer import render_gaussians
from fast_sam3d.render.sheet import BACKGROUND, GAP_PX, INK, LABEL_PX, PANEL, eight_bit, label_font, wrapped
from fast_sam3d.render.threads import map_threads
from fast_sam3d.render.visible import AnyMeshRenderer

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

VIEW_PX = 288
INPUT_PX = 2 * VIEW_PX + GAP_PX + LABEL_PX  # height of two views with labels
ACCENT = (255, 96, 32)  # outline of the mask
FADE = 0.6  # share of the panel's grey outside the mask
ORBITS: tuple[tuple[float, str], ...] = (
    (0.0, "the front"),
    (90.0, "the right"),
    (180.0, "behind"),
    (270.0, "the left"),
)
ELEVATION_DEG = 20.0
ORBIT_DISTANCE = 1.8  # in diagonals of the object's box
PNG_LEVEL = 6  # of 9; higher levels take longer than the rendering and save a few percent
FITTED = 200_000  # about as many points, evenly sampled, are fitted into the views
MARGIN = 0.1  # border around the object, as a share of the view

Renderer = Callable[..., np.ndarray]
"""Of a camera, to rgb [H, W, 3] in 0..1; lit=False: the mesh's colours without shading."""


def save_preview(
    path: str | os.PathLike[str], image: Any, mask: Any, result: Mapping[str, Any], notices: Sequence[str] = ()
) -> None:
    """Write a PNG: the input with its mask, the result seen by the input camera, and three views around it.

    Args:
        path: its folder must exist.
        image: [H, W, 3 or 4] uint8, or a PIL image.
        mask: [H, W], non-zero on the object.
        result: of a pipeline. Shows the mesh, or the gaussians without one. With rotation, translation, scale and a
            pointmap (any resolution), the first view is the input camera's with the outline of the mask, which shows
            a wrong pose; otherwise it is the front. It has the colours of the mesh, as stored; the others are lit.
        notices: what a viewer has to know of the result, written below the views.

    Raises:
        ValueError: the result has neither mesh nor gaussians, or image and mask differ in size.
    """
    picture = compose_preview(image, mask, result, notices)
    with atomic_write(path) as file:
        picture.save(file, format="PNG", compress_level=PNG_LEVEL)


def compose_preview(image: Any, mask: Any, result: Mapping[str, Any], notices: Sequence[str] = ()) -> Image.Image:
    """The image that `save_preview` writes."""
    from PIL import Image, ImageDraw

    rgb = np.asarray(image)
    if rgb.ndim != 3 or rgb.shape[2] < 3:
        raise ValueError(f"image must be [H, W, 3], got shape {rgb.shape}")
    rgb, covered = rgb[..., :3], np.asarray(mask) > 0
    if covered.shape != rgb.shape[:2]:
        raise ValueError(f"image is {rgb.shape[:2]} and mask {covered.shape} (height, width): they must agree")
    kind, points, draw = subject_of(result)
    points = points[:: 1 + len(points) // FITTED]
    camera, front_azimuth, matrix = input_camera(result, rgb.shape[:2])

    panels = [(_faded(rgb, covered, INPUT_PX), "input and mask", 0)]
    orbits, outline, through = ORBITS, None, []
    if camera is not None and matrix is not None:
        window, outline = posed_window(camera, [points], [matrix], covered, VIEW_PX, MARGIN)
        orbits, through = ORBITS[1:], [posed_camera(window, matrix)]
    cameras = [*through, *orbit_cameras(points, [front_azimuth + turn for turn, _ in orbits])]
    # The first view is to be compared with the input: it has the mesh's own colours. The others show the shape.
    views = map_threads(lambda number: draw(cameras[number], lit=number > 0), range(len(cameras)))
    lit = ", lit" if kind == "mesh" else ""
    if outline is not None:
        panels.append((outlined(views.pop(0), outline), f"{kind} as posed, mask outlined, unlit", 1))
    for (_, label), view in zip(orbits, views, strict=True):
        panels.append((eight_bit(view), f"{kind} from {label}{lit if len(panels) > 1 else ''}", len(panels)))

    step = VIEW_PX + GAP_PX
    left = panels[0][0].shape[1] + 2 * GAP_PX
    font, width, height = label_font(), left + 2 * step, INPUT_PX + LABEL_PX + 2 * GAP_PX
    noted = [line for notice in notices for line in wrapped(f"Note: {notice}", width - 2 * GAP_PX, font)]
    sheet = Image.new("RGB", (width, height + LABEL_PX * len(noted)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for pixels, label, slot in panels:
        column, row = (slot - 1) % 2, (slot - 1) // 2
        x, y = (GAP_PX, GAP_PX) if slot == 0 else (left + column * step, GAP_PX + row * (step + LABEL_PX))
        sheet.paste(Image.fromarray(pixels), (x, y))
        pen.text((x + 1, y + pixels.shape[0] + 4), label, fill=INK, font=font)
    for row, line in enumerate(noted):
        pen.text((GAP_PX + 1, height - GAP_PX // 2 + row * LABEL_PX), line, fill=ACCENT, font=font)
    return sheet


# ------------------------------------------------------------------------------------------------------- views


def subject_of(result: Mapping[str, Any]) -> tuple[str, np.ndarray, Renderer]:
    """Name, points that must be in view [N, 3], and renderer of what to show."""
    mesh = first(result.get("mesh"))
    background = tuple(level / 255.0 for level in PANEL)
    if mesh is not None and len(mesh.faces):
        vertices, faces = as_numpy(mesh.vertices, np.float64), as_numpy(mesh.faces, np.int64)
        attributes = getattr(mesh, "vertex_attrs", None)
        colors = None if attributes is None else as_numpy(attributes)[:, :3]
        drawing = AnyMeshRenderer(vertices, faces, colors)
        return "mesh", vertices, lambda camera, lit=True: drawing(camera, background=background, lit=lit).rgb
    found = [first(result.get(key)) for key in ("gaussian", "gs", "gaussian_4", "gs_4")]
    found = [gaussians for gaussians in found if gaussians is not None and len(gaussians.get_xyz)]
    if found:
        cloud = GaussianCloud.of(found[0])
        splats = functools.partial(render_gaussians, cloud, background=background)
        return "gaussians", cloud.get_xyz, lambda camera, lit=True: splats(camera).rgb
    raise ValueError("the result has neither a mesh nor gaussians, so there is nothing to show")


def input_camera(result: Mapping[str, Any], size: tuple[int, int]) -> tuple[Camera | None, float, np.ndarray | None]:
    """The input camera in its own frame, its azimuth around the object in degrees, and the object's pose [4, 4]."""
    if any(result.get(key) is None for key in ("rotation", "translation", "scale")):
        return None, 0.0, None
    matrix = pose_matrix(result)
    eye = np.linalg.solve(matrix[:3, :3], -matrix[:3, 3]) if abs(np.linalg.det(matrix[:3, :3])) > 1e-12 else np.zeros(3)
    azimuth = math.degrees(math.atan2(eye[0], -eye[1]))
    if result.get("pointmap") is None:
        return None, azimuth, matrix
    try:
        camera = Camera.from_pointmap(result["pointmap"]).resized(max(size))
    except ValueError as error:
        log.warning("preview without the view of the input camera: %s", error)
        return None, azimuth, matrix
    return camera, azimuth, matrix


def orbit_cameras(points: np.ndarray, azimuths_deg: list[float], size: int = VIEW_PX) -> list[Camera]:
    """Cameras around the points, with one focal length at which the largest view fits."""
    low, high = points.min(axis=0), points.max(axis=0)
    distance = ORBIT_DISTANCE * max(float(np.linalg.norm(high - low)), 1e-6)
    target = ((low + high) / 2.0).tolist()
    cameras = [Camera.orbit(azimuth, ELEVATION_DEG, distance, target, size=size) for azimuth in azimuths_deg]
    reach = max(float(np.abs(camera.project(points)[0] - size / 2.0).max()) for camera in cameras)
    zoom = size * (0.5 - MARGIN) / max(reach, 1e-6)
    return [replace(camera, focal=camera.focal * zoom) for camera in cameras]


def posed_window(
    camera: Camera, points: Sequence[np.ndarray], poses: Sequence[Any], covered: np.ndarray, size: int, border: float
) -> tuple[Camera, np.ndarray]:
    """The input's camera in a square window around the mask and every posed object; and the mask in it.

    Args:
        points, poses: [N, 3] and [4, 4] of each object.
        covered: [H, W] bool, the mask.
        size: of the window in pixels.
        border: free on each side, share of the window.
    """
    height, width = covered.shape
    pixels = np.argwhere(covered)[:, ::-1] if covered.any() else np.array([[0.0, 0.0], [width - 1, height - 1]])
    seen = [pixels, pixels + 1.0]
    for own, pose in zip(points, poses, strict=True):
        pixels, depth = camera.project(transform_points(own, pose))
        # A very wrong pose may be far outside: extend by at most one image size on each side.
        seen.append(pixels[depth > 0].clip([-width, -height], [2.0 * width, 2.0 * height]))
    everything = np.concatenate(seen)
    low, high = everything.min(axis=0), everything.max(axis=0)
    side = max(1, math.ceil(float((high - low).max()) * (1.0 + 2.0 * border)))
    left, top = (int(value) for value in np.round((low + high) / 2.0 - side / 2.0))
    return camera.cropped(left, top, side, side).resized(size), resized_mask(covered, left, top, side, size)


def posed_camera(camera: Camera, matrix: np.ndarray) -> Camera:
    """The camera that sees the unposed object as `camera` sees the posed one.

    Exact for uniform scale, which is what the pipelines predict; otherwise it uses the mean scale. An image does not
    change if object and distance scale together, so the scale goes into the translation.
    """
    scale = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    rotation = (matrix[:3, :3] / max(scale, 1e-12)).T
    return Camera(rotation, matrix[:3, 3] / max(scale, 1e-12), camera.focal, camera.principal, camera.size)


# ------------------------------------------------------------------------------------------------------ pixels


def _faded(rgb: np.ndarray, covered: np.ndarray, height: int) -> np.ndarray:
    """The image in a panel of the given height, with the mask outlined and the rest faded."""
    from PIL import Image

    factor = height / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    smooth = np.asarray(Image.fromarray(np.ascontiguousarray(rgb, np.uint8)).resize(size, Image.Resampling.LANCZOS))
    soft = np.asarray(Image.fromarray(covered.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) / 255.0
    mixed = smooth + (np.asarray(PANEL) - smooth) * (FADE * (1.0 - soft[..., None]))
    drawn = outlined(mixed / 255.0, soft >= 0.5)
    panel = np.full((height, size[0], 3), PANEL, np.uint8)
    top = (height - size[1]) // 2
    panel[top : top + size[1]] = drawn
    return panel


def square_window(pixels: np.ndarray, left: int, top: int, side: int, colour: Any) -> Image.Image:
    """The square of a picture whose corner is (left, top); what lies outside the picture has the colour."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    window = Image.new(picture.mode, (side, side), colour)
    window.paste(picture, (-left, -top))
    return window


def resized_mask(covered: np.ndarray, left: int, top: int, side: int, size: int) -> np.ndarray:
    """A square window of the mask, scaled to `size` with smooth edges."""
    from PIL import Image

    window = square_window(covered.astype(np.uint8) * 255, left, top, side, 0)
    return np.asarray(window.resize((size, size), Image.Resampling.BICUBIC)) > 127


def outlined(rgb: np.ndarray, covered: np.ndarray, width: int = 1) -> np.ndarray:
    """Image [H, W, 3] in 0..1 as uint8, with the outline of a mask, `width` pixels to each side of its edge."""
    from scipy.ndimage import binary_dilation, binary_erosion

    pixels = eight_bit(rgb)
    # border_value=1: no outline where the image border cuts the object.
    outer, inner = binary_dilation(covered, None, width), binary_erosion(covered, None, width, border_value=1)
    pixels[outer & ~inner] = ACCENT
    return pixels
