"""Still lifes: objects on one floor before one camera, for the bundled examples.

The floor is the plane z = 0 of a world with z up. An object at (x, y), turned by yaw about z, has its lowest point on
the floor, so its own origin is at height -lowest * size. With W and w the rotation and the translation of the world's
camera, p_cam = p_world @ W + w, the pose of the object is R = turn @ W and t = origin @ W + w.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fast_sam3d.mini.data import views
from fast_sam3d.mini.data.families import sample_object
from fast_sam3d.mini.data.sdf import Solid

if TYPE_CHECKING:  # imports torch, which would slow down --help
    from fast_sam3d.mini.data.pictures import Photo, Placed

FIRST_SEED = 10_500_000
"""Above the seeds of the training (below `shards.HELD_OUT_SEED`, 10,000,000) and of the evaluation."""

SUPERSAMPLES = 2  # per pixel and axis, for the colours only
_LIGHT = np.array([0.62, 0.62, -0.48], np.float32) / np.linalg.norm([0.62, 0.62, -0.48]).astype(np.float32)


@dataclass(frozen=True)
class Standing:
    """An object on the floor: its seed minus `FIRST_SEED`, place (x, y) in metres, yaw in degrees, size in metres."""

    seed: int
    size: float
    yaw: float = 0.0
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Example:
    """One picture.

    Args:
        objects: in the picture. The floor is drawn below the first one, whose longest side must be along z.
        distance, elevation: of the camera from `target` on the axis x = y = 0, metres and degrees, looking along +y.
        target: metres above the floor.
        focal: units of the longer image side.
        high, low: colours of the backdrop's upper and lower edge, 0..255.
        masks: indices of the objects that get a mask, 0.png first; by default the first.
        floor: whether the floor is drawn.
        height, width: pixels.
    """

    name: str
    objects: tuple[Standing, ...]
    distance: float
    target: float
    high: tuple[int, int, int]
    low: tuple[int, int, int]
    elevation: float = 20.0
    focal: float = 1.5
    masks: tuple[int, ...] = (0,)
    floor: bool = True
    height: int = 512
    width: int = 512


EXAMPLES: tuple[Example, ...] = (
    Example("chair", (Standing(226, 0.9, 32),), 2.0, 0.45, (214, 226, 235), (205, 193, 174)),
    Example("frame", (Standing(267, 1.1, -38),), 2.45, 0.55, (236, 226, 208), (152, 168, 160), 14),
    Example("ladder", (Standing(109, 1.8, 35),), 3.9, 0.85, (222, 224, 230), (168, 160, 176), 16),
    Example("lamp", (Standing(0, 0.5),), 1.05, 0.25, (120, 134, 152), (172, 140, 112), 12),
    Example("mug", (Standing(212, 0.2, 28),), 0.5, 0.1, (238, 232, 220), (196, 178, 156), 28),
    Example("teapot", (Standing(238, 0.3, 25),), 0.66, 0.07, (196, 214, 206), (226, 216, 198), 24, floor=False),
    Example("occluded_car", (Standing(195, 0.34, 0, 0.02, -0.16), Standing(263, 0.4, -58)), 1.0, 0.13,
            (226, 216, 226), (176, 178, 190), 18, masks=(1,)),
    Example("scene", (
        Standing(171, 1.25, 0, 0.62, 0.35), Standing(168, 1.05, -35, -0.02, 0.3), Standing(258, 0.8, 22, 0.3, -0.4),
        Standing(92, 0.68, 25, -0.5, -0.35), Standing(215, 0.75, 10, -0.72, 0.3),
    ), 3.3, 0.48, (226, 232, 228), (196, 176, 152), 17, 1.4, (0, 1, 2, 3, 4), True, 480, 640),
    Example("room", (
        Standing(171, 1.25, 0, 0.4, 0.75), Standing(168, 1.05, -35, -0.5, 0.75), Standing(258, 0.8, 22, 0.36, -0.35),
        Standing(92, 0.68, 25, -0.4, -0.4), Standing(215, 0.75, 10, -1.05, 0.1), Standing(109, 1.5, 35, -1.5, 1.0),
        Standing(226, 0.9, -40, 0.98, -0.2), Standing(267, 1.1, -38, 1.5, 0.9),
    ), 4.9, 0.5, (220, 226, 236), (180, 172, 160), 19, 1.35, tuple(range(8)), True, 400, 600),
)  # fmt: skip


def place(example: Example) -> tuple[Placed, ...]:
    """The objects of an example in its camera's frame."""
    from fast_sam3d.mini.data.pictures import Placed

    world = views.object_rotation(0.0, example.elevation, 0.0)
    towards = np.array([0, 0, example.distance], np.float32) - np.array([0, 0, example.target], np.float32) @ world
    placed = []
    for standing in example.objects:
        sampled = sample_object(FIRST_SEED + standing.seed)
        origin = np.array([standing.x, standing.y, -lowest(sampled.solid) * standing.size], np.float32)
        turned = views.object_rotation(standing.yaw, example.elevation, 0.0)
        camera = views.ViewCamera(turned, origin @ world + towards, standing.size, example.focal, _LIGHT)
        placed.append(Placed(sampled, camera))
    return tuple(placed)


def lowest(solid: Solid) -> float:
    """z of an object's lowest point, canonical units."""
    bottom = min(float(part.bounds()[0][2]) for part in solid.parts)
    return (bottom - float(solid.centre[2])) * solid.scale


def render(example: Example, longest: int | None = None) -> Photo:
    """Render an example.

    Colours are means over each pixel's footprint; labels and points are those of the ray through its centre.

    Args:
        longest: pixels of the longer side; by default the example's own size.
    """
    from fast_sam3d.mini.data.pictures import take

    factor = 1.0 if longest is None else longest / max(example.height, example.width)
    height, width = round(example.height * factor), round(example.width * factor)
    high, low = (np.array(colour, np.float32) / 255 for colour in (example.high, example.low))
    backdrop = views.Backdrop(high, low, example.floor)
    placed = place(example)
    sharp = take(placed, backdrop, None, height, width)
    fine = take(placed, backdrop, None, height * SUPERSAMPLES, width * SUPERSAMPLES).rgb.astype(np.uint32)
    total = fine.reshape(height, SUPERSAMPLES, width, SUPERSAMPLES, 3).sum((1, 3))
    samples = SUPERSAMPLES**2
    return replace(sharp, rgb=((total + samples // 2) // samples).astype(np.uint8))
