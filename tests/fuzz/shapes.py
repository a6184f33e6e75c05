"""Masks of any shape, down to one pixel, through whole runs of small pipelines, embedded and native."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

SHAPES = (
    "pixel", "corner", "row", "column", "border", "outline", "ring", "wire", "specks", "checkerboard", "stripes", "full",
    "all but one", "two far", "noise", "cross",
)  # fmt: skip
CASES = st.tuples(
    st.sampled_from(["embedded", "native"]), st.sampled_from(SHAPES),
    st.sampled_from([(8, 8), (9, 300), (300, 9), (48, 64), (200, 150)]), st.integers(1, 3), st.integers(0, 99),
    st.sampled_from(["none", "plane", "nan", "behind", "far", "one point", "noise"]),
)  # fmt: skip
"""(pipeline, shape, size of the picture, width of a line in pixels, seed, pointmap)."""


def run_shape(case: Any, folder: Path, base: Path) -> None:
    """The object is reconstructed with finite results, or there is a sentence."""
    from fast_sam3d.run.object import RunSettings, run_object

    which, shape, size, width, seed, points = case
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    mask = drawn(shape, size, width, random)
    assert mask.any()
    result = run_object(
        _pipeline(which), image, mask, _pointmap(points, size, random), settings=RunSettings(seed=seed)
    ).result
    for name in ("translation", "rotation", "scale"):
        assert np.isfinite(np.asarray(result[name].float())).all(), name
    mesh = result["mesh"][0]
    assert np.isfinite(np.asarray(mesh.vertices)).all() and len(mesh.faces)


def drawn(shape: str, size: tuple[int, int], width: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """A mask [H, W] of one of `SHAPES` with at least one pixel."""
    high, wide = size
    rows, columns = np.mgrid[:high, :wide]
    middle, centre = high // 2, wide // 2
    distance = np.hypot(rows - middle, columns - centre)
    radius = min(size) / 2 - 1
    mask: NDArray[np.bool_] = {
        "pixel": lambda: (rows == random.integers(high)) & (columns == random.integers(wide)),
        "corner": lambda: (rows < width) & (columns < width),
        "row": lambda: abs(rows - middle) < width,
        "column": lambda: abs(columns - centre) < width,
        "border": lambda: (rows < width) | (columns < width) | (rows >= high - width) | (columns >= wide - width),
        "outline": lambda: (abs(rows - middle) < high // 3) & (abs(columns - centre) < wide // 3)
        & ~((abs(rows - middle) < high // 3 - width) & (abs(columns - centre) < wide // 3 - width)),
        "ring": lambda: abs(distance - radius) <= width / 2,
        "wire": lambda: abs(rows - middle - radius * np.sin(columns / 7)) < width,
        "specks": lambda: random.random(size) < 4 / (high * wide),
        "checkerboard": lambda: (rows // width + columns // width) % 2 == 0,
        "stripes": lambda: rows // width % 2 == 0,
        "full": lambda: np.ones(size, bool),
        "all but one": lambda: ~((rows == 1) & (columns == 1)),
        "two far": lambda: ((rows < width) & (columns < width)) | ((rows >= high - width) & (columns >= wide - width)),
        "noise": lambda: random.random(size) < 0.5,
        "cross": lambda: (abs(rows - middle) < width) | (abs(columns - centre) < width),
    }[shape]()  # fmt: skip
    mask[middle, centre] |= not mask.any()
    return mask


def _pointmap(kind: str, size: tuple[int, int], random: np.random.Generator) -> NDArray[np.float32] | None:
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    points = np.stack([0.5 - columns / size[1], 0.5 - rows / size[0], np.full(size, 2.0)], -1).astype(np.float32)
    if kind == "nan":
        points[...] = np.nan
    elif kind == "behind":
        points[..., 2] = -1
    elif kind == "far":
        points *= 1e6
    elif kind == "one point":
        points[1:] = np.nan
        points[:, 1:] = np.nan
    elif kind == "noise":
        points += random.standard_normal(points.shape).astype(np.float32)
    return None if kind == "none" else points


@functools.lru_cache(maxsize=2)
def _pipeline(which: str) -> Any:
    if which == "embedded":
        from tests.minis import random_mini

        return random_mini()
    from tests.native.tiny import random_native

    return random_native()
