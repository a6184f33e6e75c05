"""Gaussian splats as numpy arrays, for export and rendering."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy

SH_C0 = 0.28209479177387814  # value of the degree-0 spherical harmonic: rgb = 0.5 + SH_C0 * f_dc


@dataclass(frozen=True)
class GaussianCloud:
    """Activated gaussian attributes, with the attribute names of the pipelines' gaussian objects.

    Attributes:
        get_xyz: [n, 3] float32 centres.
        get_scaling: [n, 3] float32 standard deviations along the local axes, > 0.
        get_rotation: [n, 4] float32 unit quaternions (w, x, y, z), local to world for column vectors.
        get_opacity: [n, 1] float32 in 0..1.
        _features_dc: [n, 1, 3] float32 degree-0 colour coefficients.
    """

    get_xyz: np.ndarray
    get_scaling: np.ndarray
    get_rotation: np.ndarray
    get_opacity: np.ndarray
    _features_dc: np.ndarray
    sh_degree: int = 0

    @property
    def rgb(self) -> np.ndarray:
        """[n, 3] float32 colours in 0..1."""
        return np.clip(0.5 + SH_C0 * self._features_dc[:, 0], 0.0, 1.0)

    def turned(self, axes: NDArray[np.floating]) -> GaussianCloud:
        """The same gaussians in other axes; nothing is rounded.

        A gaussian is R S S R' with the rotation R and the deviations S of its axes. With M, the permutation of `axes`,
        it is (M R M') (M S M') (M S M') (M R M')': both are permutations of the old ones.

        Args:
            axes: [3, 3] rotation whose entries are 0, 1 and -1, from old to new coordinates of column vectors.
        """
        axes = np.asarray(axes, np.float32)
        rotation = self.get_rotation.copy()
        rotation[:, 1:] = rotation[:, 1:] @ axes.T
        return replace(
            self, get_xyz=self.get_xyz @ axes.T, get_scaling=self.get_scaling @ np.abs(axes).T, get_rotation=rotation
        )

    @classmethod
    def of(cls, gaussians: Any) -> GaussianCloud:
        """Copy from any object with these attributes (stock or embedded, any device).

        Raises:
            ValueError: spherical harmonics of degree > 0, wrong shapes, or values that are not finite.
        """
        if isinstance(gaussians, cls):
            return gaussians
        if getattr(gaussians, "sh_degree", 0) != 0:
            raise ValueError(f"only spherical harmonics of degree 0 are supported, got {gaussians.sh_degree}")
        xyz = as_numpy(gaussians.get_xyz).reshape(-1, 3)
        count = len(xyz)
        parts: dict[str, tuple[Any, tuple[int, ...]]] = {
            "get_scaling": (gaussians.get_scaling, (count, 3)),
            "get_rotation": (gaussians.get_rotation, (count, 4)),
            "get_opacity": (gaussians.get_opacity, (count, 1)),
            "_features_dc": (gaussians._features_dc, (count, 1, 3)),
        }
        arrays: dict[str, Any] = {"get_xyz": xyz}
        for name, (values, shape) in parts.items():
            array = as_numpy(values)
            if array.size != math.prod(shape):
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            arrays[name] = array.reshape(shape)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of the gaussians has values that are not finite")
        quaternion = arrays["get_rotation"]
        norm = np.linalg.norm(quaternion, axis=1, keepdims=True)
        identity = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
        arrays["get_rotation"] = np.where(norm > 1e-12, quaternion / np.maximum(norm, 1e-12), identity)
        return cls(**arrays)
