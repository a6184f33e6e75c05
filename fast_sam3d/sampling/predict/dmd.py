"""Dynamic mode decomposition of the last velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Real, Settings, Whole, check, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.predict.hermite import Hermite
from fast_sam3d.sampling.step import LeafEvaluation
from fast_sam3d.sampling.syncs import Syncs

SPACING = 1e-3
"""How unequal, relative to the first, the intervals between snapshots may be."""


@dataclass(frozen=True, slots=True)
class DynamicModes(Predict):
    """The linear map that takes each snapshot to the next, applied a fraction of times by powers of its eigenvalues.

    Snapshots are the newest evaluated velocities that are equally spaced in t; with fewer than `least` of
    them the prediction is `Hermite`'s. On SAM 3D's grid of the sparse structure, t = s / (3 - 2s), no four are equally
    spaced, so this fits the structured latent alone.

    Source: HiCache++ (the DMD predictor of the public project of that name, after HiCache, arXiv 2508.16984); exact DMD
    as in Tu et al. 2014. In its runs of 25 steps, too, most predictions are the fallback's.

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
    order: int = setting(2, tune=Whole(1, 2))
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
        count = equally_spaced([evaluation.t for evaluation in history][: self.window])
        if count < self.least:
            return self.fallback(history, t, x)
        newest = history[0]
        snapshots = torch.stack([history[i].v.flatten() for i in reversed(range(count))], dim=1)
        ahead = (t - newest.t) / (newest.t - history[1].t)
        try:
            return continued(snapshots, ahead, self.cutoff, history.syncs).reshape(newest.v.shape)
        except torch.linalg.LinAlgError:
            return self.fallback(history, t, x)


def equally_spaced(times: list[float]) -> int:
    """How many of the times, from the first on, have equal intervals."""
    if len(times) < 3:
        return len(times)
    first = times[0] - times[1]
    count = 2
    while count < len(times) and abs((times[count - 1] - times[count]) / first - 1) < SPACING:
        count += 1
    return count


def continued(snapshots: Tensor, ahead: float, cutoff: float, syncs: Syncs) -> Tensor:
    """A sequence extrapolated beyond its last member.

    Args:
        snapshots: [D, n], oldest first.
        ahead: how far, in intervals.
        cutoff: see `DynamicModes`.
        syncs: of the solve.

    Returns:
        [D].

    Raises:
        torch.linalg.LinAlgError: the modes are degenerate, or a snapshot is not finite.
    """
    before, after = snapshots[:, :-1], snapshots[:, 1:]
    # All that follows lies in the span of the snapshots, so it is done in their n - 1 coordinates, in float64.
    u, s, vh = torch.linalg.svd(before, full_matrices=False)
    host = syncs.read(torch.cat([s[:, None], vh, u.T @ after], dim=1)).double()
    if not bool(torch.isfinite(host).all()):
        raise torch.linalg.LinAlgError("a snapshot is not finite")
    s, vh, inner = host[:, 0], *host[:, 1:].tensor_split(2, dim=1)
    rank = int((s > cutoff * s[0]).sum())
    if rank == 0:
        return snapshots[:, -1]
    inner, start = inner[:rank], inner[:rank, -1]
    values, vectors = torch.linalg.eig(inner @ (vh[:rank].T / s[:rank]))
    amplitudes = torch.linalg.solve(vectors, start.to(vectors.dtype))
    weights = (vectors @ (amplitudes * values.pow(ahead))).real
    # The part of the last snapshot outside the modes is held.
    return snapshots[:, -1] + u[:, :rank] @ syncs.send((weights - start).to(u.dtype), u.device)
