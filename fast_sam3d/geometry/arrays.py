"""Conversion of tensors to numpy arrays, and point transforms."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_numpy(values: Any, dtype: Any = np.float32) -> np.ndarray:
    """Convert to a numpy array of `dtype`; may share memory.

    Args:
        values: torch tensor (any device, any float type, with or without gradient), numpy array or sequence.
        dtype: numpy dtype of the result.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16: convert half types to float32 first.
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values, dtype=dtype)


def first(item: Any) -> Any:
    """One result: a pipeline gives a list per format, or the object itself. None of an empty list."""
    return (item[0] if item else None) if isinstance(item, (list, tuple)) else item


def transform_points(points: Any, matrix: Any) -> np.ndarray:
    """Apply a [4, 4] column-vector matrix to points [N, 3]; returns float64 [N, 3]."""
    matrix = as_numpy(matrix, np.float64)
    return as_numpy(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
