"""Pictures of a composed scene: beside its input, and turning; and how well it covers the masks that it came from."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.surface import Surface
from fast_sam3d.render.cluster import clustered
from fast_sam3d.render.renderer import nearest_faces
from fast_sam3d.render.sheet import BACKGROUND, GAP_PX, INK, LABEL_PX, PANEL, eight_bit, label_font
from fast_sam3d.render.splat import draw_dots
from fast_sam3d.render.surfels import Surfels, draw_surfels, surfels_of_gaussians, surfels_of_mesh
from fast_sam3d.render.threads import map_threads
from fast_sam3d.render.turntable import FRAME_PX, FRAMES
from fast_sam3d.render.visible import AnyMeshRenderer
from fast_sam3d.scene.objects import PlacedObject, Scene

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IOU_PX", "mask_ious", "sampled", "scene_preview", "scene_up", "turntable", "visible_objects"]

PANEL_PX = 400  # height of the panels
OUTLINE_PX = 2  # width of the masks' outlines over the picture
OTHER_VIEW_DEG = (38.0, 22.0)  # of the second view: turned about the scene's up, and raised
IOU_PX = 1024  # longer side at which masks are compared
FRAME_RAISED_DEG = 8.0  # of the turntable
MOST_VERTICES = 1_000_000  # of a scene that is drawn
MARGIN = 0.06  # free border around the scene, share of the view


def visible_objects(scene: Scene, camera: Camera) -> NDArray[np.int64]:
    """Which object is seen at each pixel: [H, W], its index in `scene.objects`, -1 for none. They hide each other."""
    best = np.full(camera.size, np.inf)
    owner = np.full(camera.size, -1, np.int64)
    for number, item in enumerate(scene.objects):
        if item.surface is not None:
            seen, depth = nearest_faces(item.points, item.surface.faces, camera)
        elif item.gaussians is not None:
            points, sides, _, _ = _dots(item)
            seen, depth = draw_dots(points, sides, camera)
        else:
            continue
        nearer = (seen >= 0) & (depth < best)
        best[nearer], owner[nearer] = depth[nearer], number
    return owner


def mask_ious(scene: Scene, camera: Camera, masks: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Overlap of what is seen of each object with its mask: intersection over union, 0..1, by name.

    Args:
        camera: of the picture.
        masks: [h, w] of the picture at any resolution, by name; those of objects not in the scene are ignored.
    """
    small = camera.resized(min(IOU_PX, max(camera.size)))
    owner = visible_objects(scene, small)
    overlaps = {}
    for number, item in enumerate(scene.objects):
        if item.name in masks:
            given, seen = sampled(masks[item.name], small.size), owner == number
            overlaps[item.name] = float((given & seen).sum() / max(int((given | seen).sum()), 1))
    return overlaps


def sampled(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [h, w] at another (height, width): what is nearest to the middle of each pixel."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def scene_up(scene: Scene) -> NDArray[np.float64]:
    """[3] unit vector, camera frame: the objects' common +z, or the camera's up where they have none in common."""
    # A row vector (0, 0, 1) of an object becomes the last row of its rotation.
    mean = np.mean([item.pose.rotation_matrix[2] for item in scene.objects], axis=0)
    length = float(np.linalg.norm(mean))
    up: NDArray[np.float64] = mean / length if length > 0.5 else np.array([0.0, 1.0, 0.0])
    return up


def scene_preview(
    image: NDArray[np.uint8], masks: Mapping[str, NDArray[np.bool_]], scene: Scene, camera: Camera | None
) -> Image.Image:
    """The picture with its masks outlined, the scene through the picture's camera, and a view from elsewhere.

    The second shows the colours of the meshes as they are stored, to be compared with the picture; the third is lit.

    Args:
        image: [H, W, 3] uint8.
        masks: [h, w] of the picture at any resolution, by name.
        camera: of the picture; without one the scene is shown from two sides.
    """
    from PIL import Image, ImageDraw

    colours = dict(zip(masks, mask_colours(len(masks)), strict=True))
    size = (max(1, round(image.shape[1] * PANEL_PX / image.shape[0])), PANEL_PX)
    small = {name: sampled(mask, size[::-1]) for name, mask in masks.items()}
    given = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    for name, mask in small.items():
        _outline(given, mask, colours[name], OUTLINE_PX)
    panels = [(given, f"input, {len(masks)} masks")]

    around = _Around(scene, size)
    front = _sized(camera, size) if camera is not None else around.fitted([(0.0, 0.0)])[0]
    draw = painter(scene)
    views = (front, False), (around.fitted([OTHER_VIEW_DEG])[0], True)
    pixels, other = map_threads(lambda view: draw(view[0], lit=view[1]), views)
    if camera is not None:
        for name, mask in small.items():
            _outline(pixels, mask, colours[name])
    caption = "scene from the front" if camera is None else "scene through the picture's camera, masks outlined"
    panels.append((pixels, f"{caption}, unlit"))
    panels.append((other, f"scene from {OTHER_VIEW_DEG[0]:.0f} degrees to the right, from above, lit"))

    sheet = Image.new("RGB", ((size[0] + GAP_PX) * 3 + GAP_PX, PANEL_PX + LABEL_PX + 2 * GAP_PX), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), label_font()
    for slot, (pixels, label) in enumerate(panels):
        x = GAP_PX + slot * (size[0] + GAP_PX)
        sheet.paste(Image.fromarray(pixels), (x, GAP_PX))
        pen.text((x + 1, GAP_PX + PANEL_PX + 4), label, fill=INK, font=font)
    for name, mask in small.items():
        if mask.any():
            v, u = np.argwhere(mask).mean(axis=0)
            pen.text((GAP_PX + u, GAP_PX + v), name, fill=(0, 0, 0), font=font, anchor="mm", stroke_width=2,
                     stroke_fill=(255, 255, 255))  # fmt: skip
    return sheet


def turntable(scene: Scene, camera: Camera | None, frames: int = FRAMES) -> list[Image.Image]:
    """RGB pictures once around the scene, for `render.turntable.save_turntable`."""
    from PIL import Image

    aspect = 0.75 if camera is None else min(max(camera.size[0] / camera.size[1], 0.5), 1.5)
    size = (FRAME_PX, max(2, round(FRAME_PX * aspect)))
    turns = [360.0 * number / frames for number in range(frames)]
    views = _Around(scene, size).fitted([(turn, FRAME_RAISED_DEG) for turn in turns])
    return [Image.fromarray(pixels) for pixels in map_threads(painter(scene, quick=True), views)]


def mask_colours(count: int) -> list[tuple[int, int, int]]:
    """[count] clearly distinguishable colours, 0..255."""
    hues = (0.02 + number * 0.61803398875 for number in range(count))
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1, 0.85, 0.95)) for hue in hues]  # type: ignore[misc]


def painter(scene: Scene, quick: bool = False) -> Callable[..., NDArray[np.uint8]]:
    """How to draw a scene for a camera, [H, W, 3] uint8: by its meshes, or quickly, or without them, by dots.

    `lit=False` shows the colours of meshes as they are.
    """
    background = tuple(level / 255.0 for level in PANEL)
    scene = _lightened(scene)
    drawn = [item for item in scene.objects if item.surface is not None or item.gaussians is not None]
    surfaces = [(item.points, item.surface) for item in drawn if item.surface is not None]
    dots = [_dots(item) for item in drawn] if quick or len(surfaces) < len(drawn) else []
    extent = float(np.ptp(_spanned(scene), axis=0).max())
    if len(surfaces) == len(drawn) and not (quick and all(part.leave_no_gaps(extent, FRAME_PX) for part in dots)):
        starts = np.cumsum([0, *(len(points) for points, _ in surfaces)])
        vertices = np.concatenate([points for points, _ in surfaces])
        faces = np.concatenate([surface.faces + start for start, (_, surface) in zip(starts, surfaces, strict=False)])
        colours = np.concatenate([surface.srgb for _, surface in surfaces])
        drawing = AnyMeshRenderer(vertices, faces, colours)
        return lambda camera, lit=True: eight_bit(drawing(camera, background=background, lit=lit).rgb)
    return functools.partial(draw_surfels, Surfels.joined(dots))


def _lightened(scene: Scene, limit: int = MOST_VERTICES) -> Scene:
    """The scene with at most about `limit` vertices: where there are more, cells of a pixel or larger have one."""
    sizes = [len(item.surface.vertices) for item in scene.objects if item.surface is not None]
    if sum(sizes) <= limit:
        return scene
    pixel = max(float(np.ptp(_spanned(scene), axis=0).max()), 1e-9) / FRAME_PX
    objects = []
    for item in scene.objects:
        surface = item.surface
        if surface is not None:
            share, cell = max(limit * len(surface.vertices) / sum(sizes), 100), pixel / float(item.pose.scale.mean())
            kept, faces = clustered(surface.vertices, surface.faces, cell)
            while len(kept) > share:  # the number falls with the square of the cell's side
                cell *= 1.1 * math.sqrt(len(kept) / share)
                kept, faces = clustered(surface.vertices, surface.faces, cell)
            surface = Surface(surface.vertices[kept], faces, surface.rgb[kept])
        objects.append(replace(item, surface=surface))
    return Scene(tuple(objects))


def _dots(item: PlacedObject) -> Surfels:
    """An object in the camera's frame."""
    if item.surface is not None:
        return surfels_of_mesh(item.points, item.surface.faces, item.surface.srgb)
    assert item.gaussians is not None
    return surfels_of_gaussians(item.gaussians, item.pose.matrix, float(item.pose.scale.mean()))


class _Around:
    """The picture's camera gone around a scene's middle, and raised.

    Args:
        size: (width, height) of the pictures.
    """

    def __init__(self, scene: Scene, size: tuple[int, int]) -> None:
        self._points, self._up, self._size = _spanned(scene), scene_up(scene), size

    def fitted(self, turns_deg: Iterable[tuple[float, float]]) -> list[Camera]:
        """Cameras turned and raised, with the one focal length at which the scene just fits into all pictures."""
        cameras = [self._at(turn, raised) for turn, raised in turns_deg]
        reach = 1e-9
        for camera in cameras:
            off = np.abs(camera.project(self._points)[0] - np.asarray(camera.principal))
            reach = max(reach, float((off / (np.asarray(camera.size[::-1]) / 2)).max()))
        return [replace(camera, focal=camera.focal * (1 - 2 * MARGIN) / reach) for camera in cameras]

    def _at(self, turn_deg: float, raise_deg: float) -> Camera:
        points, up, size = self._points, self._up, self._size
        target = (points.min(axis=0) + points.max(axis=0)) / 2
        # Where the picture's camera stands, that is the origin, seen from the middle.
        side = -target if np.linalg.norm(target) > 1e-9 else np.array([0.0, 0.0, -1.0])
        level = side - (side @ up) * up
        if np.linalg.norm(level) < 1e-6:
            level = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 0.0, 1.0])
        level /= np.linalg.norm(level)
        elevation = math.asin(np.clip(side @ up / np.linalg.norm(side), -1, 1)) + math.radians(raise_deg)
        elevation = min(max(elevation, math.radians(-30)), math.radians(75))
        turn = math.radians(turn_deg)
        around = math.cos(turn) * level + math.sin(turn) * np.cross(up, level)
        distance = 2.5 * max(float(np.linalg.norm(np.ptp(points, axis=0))), 1e-6)
        eye = target + distance * (math.cos(elevation) * around + math.sin(elevation) * up)
        return _sized(Camera.look_at(eye.tolist(), target.tolist(), up.tolist(), size=max(size)), size)


def _spanned(scene: Scene) -> NDArray[np.float64]:
    """[N, 3] points that are to be in view, at most a few thousand of each object."""
    thinned: Iterable[NDArray[np.float64]] = (item.thinned(3000) for item in scene.objects)
    kept = [points for points in thinned if len(points)]
    return np.concatenate(kept) if kept else np.zeros((1, 3))


def _sized(camera: Camera, size: tuple[int, int]) -> Camera:
    """The camera with a picture of (width, height): resized, then cut or widened around its middle."""
    factor = size[1] / camera.size[0] if camera.size[0] != camera.size[1] else max(size) / camera.size[0]
    u, v = (value * factor for value in camera.principal)
    left, top = (camera.size[1] * factor - size[0]) / 2, (camera.size[0] * factor - size[1]) / 2
    return replace(camera, focal=camera.focal * factor, principal=(u - left, v - top), size=(size[1], size[0]))


def _outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Any, width: int = 1) -> None:
    from scipy.ndimage import binary_erosion

    pixels[mask & ~binary_erosion(mask, iterations=width, border_value=1)] = colour
