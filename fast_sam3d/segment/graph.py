"""A reduced picture as a graph of superpixels, whose edges carry the contrast between neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

__all__ = ["Graph", "build", "reduce"]

CELL = 6
"""Pixels a side of the grid from which the superpixels grow."""

TONES = 40
"""Main colours of a picture at most."""
BLUR = 5.0
"""CIE Lab distance at which two colours still look alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Superpixels of a reduced picture.

    Args:
        labels: [h, w] int32, superpixel of each pixel, from 0.
        colour: [N, 3] float32, mean CIE Lab.
        area: [N] pixels.
        centre: [N, 2] float32, (x, y) in reduced pixels.
        edges: [E, 2] int32, neighbouring superpixels, each pair once.
        length: [E] float32, pixels of their common border.
        contrast: [E] float32, CIE Lab difference across it.
        border: [N] float32, how many of its pixels are on the picture's border.
        tone: [N] int32, which of the picture's main colours it has.
        alike: [K, K] float32, how alike two main colours are, 1 for the same.
    """

    labels: NDArray[np.int32]
    colour: NDArray[np.float32]
    area: NDArray[np.float32]
    centre: NDArray[np.float32]
    edges: NDArray[np.int32]
    length: NDArray[np.float32]
    contrast: NDArray[np.float32]
    border: NDArray[np.float32]
    tone: NDArray[np.int32]
    alike: NDArray[np.float32]

    def matrix(self, weights: NDArray[np.floating]) -> sparse.csr_array:
        """Symmetric [N, N] matrix of a weight per edge."""
        first, second = self.edges.T
        both = np.concatenate([first, second]), np.concatenate([second, first])
        count = len(self.area)
        return sparse.csr_array((np.concatenate([weights, weights]), both), shape=(count, count))

    def at(self, mask: NDArray[np.bool_]) -> NDArray[np.floating]:
        """[N] share of each superpixel that a mask [h, w] covers."""
        return np.bincount(self.labels.ravel(), mask.ravel(), len(self.area)) / self.area


def reduce(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image [H, W, 3] with a longer side of at most `side`, each pixel the mean of those it covers."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def build(image: NDArray[np.uint8]) -> Graph:
    """The graph of an image [h, w, 3]: a watershed of its gradient from the flattest pixel of every grid cell."""
    from skimage.color import rgb2lab
    from skimage.segmentation import watershed

    lab = rgb2lab(image.astype(np.float32) / 255).astype(np.float32)
    smooth = ndimage.gaussian_filter(lab, (0.7, 0.7, 0))
    steep = np.zeros(lab.shape[:2], np.float32)
    for axis in (0, 1):
        steep += ((ndimage.sobel(smooth, axis, mode="nearest") / 8) ** 2).sum(-1)
    steep = np.sqrt(steep)
    labels = watershed(steep, _markers(steep)).astype(np.int32) - 1
    count = int(labels.max()) + 1
    flat = labels.ravel()
    area = np.bincount(flat, minlength=count).astype(np.float32)
    colour = np.stack([np.bincount(flat, lab[..., c].ravel(), count) / area for c in range(3)], -1)
    rows, columns = np.indices(labels.shape, np.float32)
    centre = np.stack([np.bincount(flat, axis.ravel(), count) / area for axis in (columns, rows)], -1)
    sides = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    border = np.bincount(sides, minlength=count).astype(np.float32)
    edges, length, ridge = _borders(labels, steep, count)
    step = np.linalg.norm(colour[edges[:, 0]] - colour[edges[:, 1]], axis=-1)
    tone, alike = _tones(colour, area)
    return Graph(
        labels, colour.astype(np.float32), area, centre.astype(np.float32), edges, length,
        np.maximum(step, 2 * ridge).astype(np.float32), border, tone, alike,
    )  # fmt: skip


def _tones(colour: NDArray[np.floating], area: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The main colours by k-means from far-apart starts, weighted by area: the nearest of each, and their likeness."""
    starts = [int(area.argmax())]
    away = np.full(len(colour), np.inf)
    for _ in range(min(TONES, len(colour)) - 1):
        away = np.minimum(away, ((colour - colour[starts[-1]]) ** 2).sum(-1))
        if away.max() < 1:
            break
        starts.append(int((away * area).argmax()))
    means = colour[starts]
    for _ in range(6):
        tone = ((colour[:, None] - means) ** 2).sum(-1).argmin(-1)
        weight = np.maximum(np.bincount(tone, area, len(means)), 1e-6)
        fresh = np.stack([np.bincount(tone, area * colour[:, c], len(means)) / weight for c in range(3)], -1)
        means = np.where(weight[:, None] > 1e-3, fresh, means)
    squared = ((means[:, None] - means) ** 2).sum(-1)
    return tone.astype(np.int32), np.exp(-squared / (2 * BLUR**2)).astype(np.float32)


def _markers(steep: NDArray[np.float32]) -> NDArray[np.int32]:
    """One marker in each cell of a grid, at its flattest pixel."""
    height, width = steep.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    padded = np.full((rows * CELL, columns * CELL), np.inf, np.float32)
    padded[:height, :width] = steep
    cells = padded.reshape(rows, CELL, columns, CELL).swapaxes(1, 2).reshape(rows * columns, -1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    inner, across = np.divmod(cells.argmin(-1), CELL)
    markers = np.zeros(steep.shape, np.int32)
    markers[row * CELL + inner, column * CELL + across] = np.arange(1, rows * columns + 1)
    return markers


def _borders(
    labels: NDArray[np.int32], steep: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Neighbours [E, 2], the length of their borders [E], and the mean gradient on them [E]."""
    pairs, height = [], []
    for low, high, here, there in (
        (labels[:-1], labels[1:], steep[:-1], steep[1:]),
        (labels[:, :-1], labels[:, 1:], steep[:, :-1], steep[:, 1:]),
    ):
        apart = low != high
        first, second = low[apart].astype(np.int64), high[apart].astype(np.int64)
        pairs.append(np.minimum(first, second) * count + np.maximum(first, second))
        height.append(np.maximum(here[apart], there[apart]))
    keys, inverse, length = np.unique(np.concatenate(pairs), return_inverse=True, return_counts=True)
    ridge = np.bincount(inverse, np.concatenate(height), len(keys)) / np.maximum(length, 1)
    edges = np.stack(np.divmod(keys, count), -1).astype(np.int32)
    return edges, length.astype(np.float32), ridge.astype(np.float32)
