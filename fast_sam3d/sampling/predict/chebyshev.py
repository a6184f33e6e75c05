"""Chebyshev regression over all evaluated velocities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Chebyshev(Predict):
    """Chebyshev polynomials fitted to all evaluated velocities by ridge regression, mixed with the local line.

    Source: Spectrum (arXiv 2603.01623), with its four terms, ridge of 0.1 and 2t - 1 as the variable, on the final
    velocity in place of each block's features.

    Args:
        terms: T_0 ... T_(terms - 1), at least 1; no more than there are evaluations.
        ridge: weight of the squared coefficients; 0 interpolates where it can.
        blend: share of the fit against the linear extrapolation of the last two; the paper takes 0.5 to 1.
    """

    name: ClassVar[str] = "chebyshev"
    terms: int = setting(4, Whole(1, 12))
    ridge: float = setting(0.1, Real(0.0, 1e6))
    blend: float = setting(0.5, Real(0.0, 1.0))
    depth: ClassVar[int] = 1000
    """As many as a solve can have."""

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        times = [evaluation.t for evaluation in history]
        values = [evaluation.v for evaluation in history]
        weights = fit(times, t, min(self.terms, len(times)), self.ridge)
        fitted = sum(w * v for w, v in zip(weights, values, strict=True))
        line = values[0]
        if len(values) > 1:
            line = line + (t - times[0]) / (times[0] - times[1]) * (values[0] - values[1])
        return self.blend * fitted + (1 - self.blend) * line


def fit(times: Sequence[float], t: float, terms: int, ridge: float) -> list[float]:
    """[n] weights of the values at `times` in the fitted curve at t, computed on the host in float64."""
    rows = basis(torch.tensor(list(times), dtype=torch.float64, device="cpu"), terms)
    at = basis(torch.tensor([t], dtype=torch.float64, device="cpu"), terms)
    normal = rows.T @ rows + ridge * torch.eye(terms, dtype=torch.float64, device="cpu")
    return (at @ torch.linalg.pinv(normal, hermitian=True) @ rows.T)[0].tolist()


def basis(t: Tensor, terms: int) -> Tensor:
    """[n] times in 0..1 -> [n, terms] Chebyshev polynomials of 2t - 1."""
    angle = torch.arccos((2 * t - 1).clamp(-1, 1))
    return torch.cos(angle[:, None] * torch.arange(terms, dtype=t.dtype, device=t.device))
