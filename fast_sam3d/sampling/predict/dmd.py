"""Dynamic mode decomposition of the last velocities."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Real, Settings, Whole, check, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.predict.hermite import Hermite
from fast_sam3d.sampling.step import LeafEvaluation
from fast_sam3d.sampling.syncs import Syncs


@dataclass(frozen=True, slots=True)
class DynamicModes(Predict):
    """The linear map that takes each snapshot to the next, applied a fraction of times by powers of its eigenvalues.

    Snapshots are the newest evaluated velocities that are equally many steps apart; with fewer than `least` of them the
    prediction is `Hermite`'s. So the map advances along s, in which the steps are equal, and not along t, which on the
    grid of the sparse structure is s / (3 - 2s). There, equal steps in t do not occur.

    Source: HiCache++ (the DMD predictor of the public project of that name, after HiCache, arXiv 2508.16984), which
    counts steps, too; exact DMD as in Tu et al. 2014.

    Args:
        least: snapshots needed, at least 3.
        window: snapshots used at most.
        cutoff: singular values below this share of the greatest are dropped.
        order, sigma, stride: of the fallback.
    """

    name: ClassVar[str] = "dmd"
    least: int = setting(4, Whole(3))
    window: int = setting(6)
    cutoff: float = setting(1e-4, Real(1e-12, 0.5))
    order: int = setting(2)
    sigma: float = setting(0.5)
    stride: int = setting(3)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check("window", self.window, Whole(self.least))
        self.fallback  # noqa: B018 (checks its own settings)

    @property
    def fallback(self) -> Hermite:
        """The predictor used while there are too few snapshots."""
        return Hermite(self.order, self.sigma, self.stride)

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return max(self.window, self.fallback.depth)

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        places = [place(evaluation.t, history.times) for evaluation in history][: self.window]
        count = equally_spaced(places)
        if count < self.least:
            return self.fallback(history, t, x)
        newest = history[0]
        snapshots = torch.stack([history[i].v.flatten() for i in reversed(range(count))], dim=1)
        ahead = (place(t, history.times) - places[0]) / (places[0] - places[1])
        try:
            return continued(snapshots, ahead, self.cutoff, history.syncs).reshape(newest.v.shape)
        except torch.linalg.LinAlgError:
            return self.fallback(history, t, x)


def place(t: float, times: Sequence[float]) -> float:
    """The number of steps before t on a grid; t itself where the grid is unknown."""
    return bisect_left(times, t) if times else t


def equally_spaced(places: Sequence[float]) -> int:
    """How many of the places, from the first on, have equal intervals."""
    count = min(2, len(places))
    while count < len(places) and isclose(places[count - 1] - places[count], places[0] - places[1], rel_tol=1e-6):
        count += 1
    return count


def continued(snapshots: Tensor, ahead: float, cutoff: float, syncs: Syncs) -> Tensor:
    """A sequence extrapolated beyond its last member.

    Args:
        snapshots: [D, n], oldest first.
        ahead: how far, in intervals.
        cutoff: see `DynamicModes`.
        syncs: of the solve; the device is read once.

    Returns:
        [D].

    Raises:
        torch.linalg.LinAlgError: the modes are degenerate, or a snapshot is not finite.
    """
    # All that follows lies in the span of the snapshots, so it is done in their n coordinates, on the host in float64.
    basis, coordinates = orthonormal(snapshots)
    known = syncs.read(coordinates).double()
    if not bool(torch.isfinite(known).all()):
        raise torch.linalg.LinAlgError("a snapshot is not finite")
    before, after, last = known[:, :-1], known[:, 1:], known[:, -1]
    u, s, vh = torch.linalg.svd(before, full_matrices=False)
    rank = int((s > cutoff * s[0]).sum())
    if rank == 0:
        return snapshots[:, -1]
    u = u[:, :rank]
    values, vectors = torch.linalg.eig(u.T @ after @ (vh[:rank].T / s[:rank]))
    start = u.T @ last
    amplitudes = torch.linalg.solve(vectors, start.to(vectors.dtype))
    # The part of the last snapshot outside the modes is held.
    weights = u @ (vectors @ (amplitudes * values.pow(ahead))).real + last - u @ start
    return torch.stack([weight * column for weight, column in zip(weights.tolist(), basis.unbind(1), strict=True)]).sum(
        0
    )


def orthonormal(columns: Tensor) -> tuple[Tensor, Tensor]:
    """A QR decomposition by Gram and Schmidt, each column twice: unlike torch's it runs on MPS, and reads no value.

    Args:
        columns: [D, n].

    Returns:
        [D, n] of length 1, or 0 where a column adds no direction; [n, n] upper triangular.
    """
    rows = columns.T.contiguous()
    basis, coordinates = torch.zeros_like(rows), columns.new_zeros(len(rows), len(rows))
    for i, row in enumerate(rows):
        rest = row
        for _ in range(2):
            # No matrix products: a GPU may be set to take those in TF32.
            along = (basis * rest).sum(1)
            rest = rest - (basis * along[:, None]).sum(0)
            coordinates[:, i] += along
        length = rest.norm()
        new = length > 100 * torch.finfo(length.dtype).eps * row.norm()  # else it is rounding
        coordinates[i, i] += torch.where(new, length, 0)
        basis[i] = torch.where(new, rest / length, 0)
    return basis.T, coordinates
