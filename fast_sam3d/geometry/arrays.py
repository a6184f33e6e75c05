"""Plain numpy views of what a pipeline hands out, for the parts that need no network (export, render, metrics)."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_numpy(values: Any, dtype: Any = np.float32) -> np.ndarray:
    """Copy or view `values` as a numpy array of `dtype`.

    Args:
        values: torch tensor (any device, any float type, with or without gradient), numpy array or sequence.
        dtype: numpy dtype of the result.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16, so half types are widened on the torch side.
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values, dtype=dtype)


def transform_points(points: Any, matrix: Any) -> np.ndarray:
    """Apply a [4, 4] column-vector matrix to points [N, 3]; returns float64 [N, 3]."""
    matrix = as_numpy(matrix, np.float64)
    return as_numpy(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
