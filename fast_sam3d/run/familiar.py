"""Whether a picture and its result are of the kind that the embedded model was trained on.

It was trained on renderings of simple shapes in at most four colours, shaded, without texture or noise, before smooth
backgrounds. A feature of the picture that more than 99 % of such renderings do not have speaks against it; so does a
surface that is far from the points that were measured. docs/embedded-model.md has the measurement of these limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy, first, transform_points
from fast_sam3d.geometry.poses import pose_matrix

__all__ = ["Crop", "oddities", "surface_distance"]

NOISE = 1.5 / 255
"""Second differences of neighbouring pixels beyond this are texture, noise or an edge."""
MOST_ROUGH = 0.93  # share of the object's pixels
MOST_NOISE = 1.5 / 255  # median second difference of the background
MOST_WHITE = 0.2  # share of the object's pixels that are saturated in all channels
LEAST_COLOUR = 0.04  # difference of the channels that a tenth of the object's pixels exceeds
HUES = 24  # cells along each axis of the chromaticities
MOST_COLOURS = 2.5  # entropy of the hues, in nats
LEAST_SHADING = 4 / 255  # standard deviation of the channel that varies most
MOST_ROUND = 0.975  # IoU of the outline and an ellipse
MOST_DISTANT = 0.032  # mean distance of measured points to the surface, in sizes of the object
LEAST_PIXELS = 20
_POINTS = 2000


@dataclass(frozen=True)
class Crop:
    """Pixels around an object, as `fast_sam3d.model.preprocess.crop_condition` samples them.

    Args:
        image: [3, S, S] float32 in 0..1. mask: [S, S] bool.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Crop:
        """Of a picture [H, W, 3] and its mask [H, W]."""
        from fast_sam3d.model.inputs import reduce_picture
        from fast_sam3d.model.preprocess import crop_condition

        image, mask = reduce_picture(image, mask)
        row, column = np.indices(mask.shape, np.float32)
        crop = crop_condition(image, mask, np.stack([column, row, np.ones_like(row)], -1), guessed=True)
        return cls(crop.image.numpy(), crop.mask[0].numpy() > 0)

    def roughness(self, inside: bool) -> NDArray[np.float32]:
        """Second differences [N] in rows and columns of object or background, the largest of the channels."""
        region, found = self.mask == inside, []
        for axis in (1, 2):
            x, m = np.moveaxis(self.image, axis, 1), np.moveaxis(region, axis - 1, 0)
            steps = np.abs(x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).max(0)
            found.append(steps[m[2:] & m[1:-1] & m[:-2]])
        return np.concatenate(found)

    def colours(self) -> float:
        """Entropy in nats of the hues of the object's pixels that are not dark, over a grid of chromaticities."""
        pixels = self.image[:, self.mask]
        pixels = pixels[:, pixels.max(0) > 0.12]
        share = pixels[:2] / np.maximum(pixels.sum(0), 1e-6)
        red, green = np.floor(share * HUES).astype(int)
        counts = np.unique(red * (HUES + 1) + green, return_counts=True)[1]
        p = counts / max(counts.sum(), 1)
        return float(-(p * np.log(p)).sum())

    def roundness(self) -> float:
        """IoU of the mask and the ellipse with its moments."""
        places = np.argwhere(self.mask).astype(np.float64)
        spread = np.cov(places.T) + np.eye(2) / 12  # of the pixels themselves
        off = np.indices(self.mask.shape).reshape(2, -1).T - places.mean(0)
        ellipse = (np.einsum("ni,ij,nj->n", off, np.linalg.inv(spread), off) < 4).reshape(self.mask.shape)
        return float((ellipse & self.mask).sum() / (ellipse | self.mask).sum())


def oddities(crop: Crop, guessed: bool) -> list[str]:
    """What the renderings that the model knows do not have; empty for a familiar picture.

    Args:
        guessed: the depth is guessed from the outline; measured depth shows that a ball is one.
    """
    pixels = crop.image[:, crop.mask]
    if pixels.shape[1] < LEAST_PIXELS:
        return []
    within, around = crop.roughness(True), crop.roughness(False)
    colour = np.quantile(pixels.max(0) - pixels.min(0), 0.9)
    found = {
        "its background has the texture or noise of a photograph":
            len(around) >= LEAST_PIXELS and np.median(around) > MOST_NOISE,
        "it has the texture or noise of a photograph":
            len(within) >= LEAST_PIXELS and np.mean(within > NOISE) > MOST_ROUGH,
        "it has many colours": crop.colours() > MOST_COLOURS,
        "it is white, like a drawing": np.mean(pixels.min(0) > 249 / 255) > MOST_WHITE,
        "it has no colours": colour < LEAST_COLOUR,
        "it has no shading": pixels.std(1).max() < LEAST_SHADING,
        "its outline is an ellipse, and the model knows no balls": guessed and crop.roundness() > MOST_ROUND,
    }  # fmt: skip
    return [reason for reason, holds in found.items() if holds]


def surface_distance(result: Mapping[str, Any], pointmap: NDArray[np.float32], mask: NDArray[Any]) -> float | None:
    """Mean distance of an object's known points to its posed surface, in units of its size.

    Args:
        result: of a pipeline.
        pointmap: [H, W, 3], as it was given. mask: [H, W], non-zero on the object.

    Returns:
        None without a surface, a pose or known points.
    """
    from scipy.spatial import cKDTree

    mesh, gaussians = first(result.get("mesh")), first(result.get("gaussian"))
    if mesh is not None and len(mesh.faces):
        surface = as_numpy(mesh.vertices, np.float64)
    elif gaussians is not None and len(gaussians.get_xyz):
        surface = as_numpy(gaussians.get_xyz, np.float64)
    else:
        return None
    points = pointmap[np.asarray(mask) > 0]
    points = points[np.isfinite(points).all(axis=-1)]
    if not len(points) or any(result.get(key) is None for key in ("rotation", "translation", "scale")):
        return None
    matrix = pose_matrix(result)
    size = abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3)
    tree = cKDTree(transform_points(surface[:: 1 + len(surface) // 20_000], matrix))
    distance = tree.query(points[:: 1 + len(points) // _POINTS])[0]
    return float(distance.mean() / size) if size else None
