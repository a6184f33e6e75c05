"""Relative error of a latent."""

from __future__ import annotations

from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy


def latent_error(latent: Any, truth: Any) -> float:
    """Relative error ||a - b|| / ||b||, Euclidean over all entries.

    Args:
        latent, truth: two arrays or tensors of one shape, or two sparse tensors (feats [N, C] and coords [N, 4]),
            which are compared on their common voxels.

    Returns:
        NaN where two sparse tensors have no common voxel, or `truth` is zero.

    Raises:
        ValueError: the shapes differ.
    """
    if hasattr(latent, "feats") and hasattr(truth, "feats"):
        first, second = _at_common_voxels(latent, truth)
    else:
        first, second = as_numpy(latent, np.float64), as_numpy(truth, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"latents of shape {first.shape} and {second.shape} cannot be compared")
    size = float(np.linalg.norm(second))
    return float(np.linalg.norm(first - second)) / size if size > 0 else float("nan")


def _at_common_voxels(latent: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features [K, C] of both at their K common voxels, in the same order."""
    places = [
        {tuple(row): i for i, row in enumerate(as_numpy(item.coords, np.int64).tolist())} for item in (latent, truth)
    ]
    common = [place for place in places[0] if place in places[1]]
    first, second = (
        as_numpy(item.feats, np.float64)[[where[place] for place in common]]
        for item, where in zip((latent, truth), places, strict=True)
    )
    return first, second
