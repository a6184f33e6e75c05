"""Turntables: a result once around, as an animated WebP of 640 pixels and a small GIF."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy, first
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.render.preview import FITTED, input_camera, orbit_cameras, subject_of
from fast_sam3d.render.sheet import eight_bit
from fast_sam3d.render.surfels import draw_surfels, surfels_of_mesh
from fast_sam3d.render.threads import map_threads

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FRAMES", "FRAME_PX", "TURNTABLES", "object_turntable", "save_turntable"]

FRAMES, FRAME_PX, FRAME_MS = 24, 640, 100
GIF_PX = 320
TURNTABLES = ("turntable.webp", "turntable.gif")
QUALITY = 80  # of the WebP, 0..100


def object_turntable(result: Mapping[str, Any], frames: int = FRAMES) -> list[Image.Image]:
    """Square pictures once around an object, the first from where the picture saw it.

    Args:
        result: of a pipeline, see `render.preview.save_preview`.
    """
    from PIL import Image

    kind, points, draw = subject_of(result)
    azimuth = input_camera(result, (FRAME_PX, FRAME_PX))[1]
    thinned = points[:: 1 + len(points) // FITTED]
    cameras = orbit_cameras(thinned, [azimuth + 360.0 * number / frames for number in range(frames)], FRAME_PX)
    paint: Callable[[Camera], NDArray[Any]] = draw
    if kind == "mesh":
        mesh = first(result["mesh"])
        attributes = getattr(mesh, "vertex_attrs", None)
        rgb = np.full((len(points), 3), 0.7) if attributes is None else as_numpy(attributes, np.float64)[:, :3]
        dots = surfels_of_mesh(points, as_numpy(mesh.faces, np.int64), rgb)
        if dots.leave_no_gaps(float(np.ptp(points, axis=0).max()), FRAME_PX):
            paint = functools.partial(draw_surfels, dots)
    views = map_threads(paint, cameras)
    return [Image.fromarray(view if view.dtype == np.uint8 else eight_bit(view)) for view in views]


def save_turntable(folder: Path, frames: Sequence[Image.Image]) -> list[str]:
    """Write RGB frames as the files of `TURNTABLES`; the WebP is left out by a Pillow without that format.

    Returns:
        The names of the files.
    """
    from PIL import Image, features

    written = []
    if features.check("webp"):
        with atomic_write(folder / TURNTABLES[0]) as file:
            frames[0].save(
                file, "WEBP", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=QUALITY,
                method=1,
            )  # fmt: skip
        written.append(TURNTABLES[0])
    height = max(2, round(GIF_PX * frames[0].height / frames[0].width))
    small = [frame.resize((GIF_PX, height), Image.Resampling.BOX) for frame in frames]
    # One palette for all frames, from frames all around: colours of the back must not be lost.
    every = Image.new("RGB", (GIF_PX, height * 4))
    for slot in range(4):
        every.paste(small[slot * len(small) // 4], (0, slot * height))
    palette = every.quantize(255)
    first_frame, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    with atomic_write(folder / TURNTABLES[1]) as file:
        first_frame.save(
            file, "GIF", save_all=True, append_images=others, duration=FRAME_MS, loop=0, optimize=False
        )  # fmt: skip
    return [*written, TURNTABLES[1]]
