"""Polynomials through the newest evaluations, on a grid that need not be uniform."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def differences(times: Sequence[float], values: Sequence[Tensor]) -> list[Tensor]:
    """Newton's divided differences f[t0], f[t0, t1], f[t0, t1, t2] ...

    Args:
        times: [n] of the values, no two equal.
        values: [n] tensors of one shape.

    Returns:
        [n] tensors of that shape.
    """
    row = list(values)
    found = [row[0]]
    for level in range(1, len(row)):
        row = [(row[i] - row[i + 1]) / (times[i] - times[i + level]) for i in range(len(row) - 1)]
        found.append(row[0])
    return found


def monomials(times: Sequence[float]) -> list[list[float]]:
    """Newton's basis 1, (s - t0), (s - t0)(s - t1) ... as coefficients of powers of u = s - t0, lowest first.

    Args:
        times: [n]; the last one is not used.

    Returns:
        [n] lists; the i-th has i + 1 coefficients.
    """
    basis = [[1.0]]
    for node in times[:-1]:
        last, root = basis[-1], node - times[0]
        shifted, scaled = [0.0, *last], [*(-root * c for c in last), 0.0]
        basis.append([a + b for a, b in zip(shifted, scaled, strict=True)])
    return basis
