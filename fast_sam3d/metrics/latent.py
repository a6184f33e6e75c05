"""Error of a latent, before any decoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy


def latent_error(latent: Any, truth: Any) -> float:
    """Relative error ||a - b|| / ||b||, Euclidean over all entries.

    Args:
        latent, truth: two arrays or tensors of one shape, or two sparse tensors (feats [N, C] and coords [N, 4]),
            which are compared on the voxels that both have.

    Returns:
        NaN where two sparse tensors have no voxel in common, or the truth is zero.

    Raises:
        ValueError: of different shape.
    """
    if hasattr(latent, "feats") and hasattr(truth, "feats"):
        first, second = _in_common(latent, truth)
    else:
        first, second = as_numpy(latent, np.float64), as_numpy(truth, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"latents of shape {first.shape} and {second.shape} cannot be compared")
    size = float(np.linalg.norm(second))
    return float(np.linalg.norm(first - second)) / size if size > 0 else float("nan")


def _in_common(latent: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features [K, C] of both at the voxels that both have, in one order."""
    places = [
        {tuple(row): i for i, row in enumerate(as_numpy(item.coords, np.int64).tolist())} for item in (latent, truth)
    ]
    common = [place for place in places[0] if place in places[1]]
    first, second = (
        as_numpy(item.feats, np.float64)[[where[place] for place in common]]
        for item, where in zip((latent, truth), places, strict=True)
    )
    return first, second
