"""SkipGS's gate: which views of an optimisation still need a backward pass (arXiv 2603.08997).

With L the loss of the view v that was drawn and L_v its running mean, the pass is done where the loss is above what the
view usually has:

    s = L / (L_v + 1e-8) > 1,    L_v <- .95 L_v + .05 L

The first `warmup` steps always have one. After that at least the share .5 + .5 r of the steps has, with r the share
that the rule alone would have let through in the second half of the warm-up.
"""

from __future__ import annotations

__all__ = ["BackwardGate"]

DECAY = 0.95


class BackwardGate:
    """The state of one optimisation.

    Args:
        views: how many there are.
        warmup: steps that always have a backward pass.
    """

    def __init__(self, views: int, warmup: int = 250) -> None:
        self._usual: list[float | None] = [None] * views
        self._warmup = warmup
        self._would = self._asked = 0
        self.steps = 0
        """Steps so far."""
        self.passes = 0
        """Backward passes so far."""

    @property
    def floor(self) -> float:
        """Least share of backward passes after the warm-up, from 0.5 to 1."""
        return 0.5 + 0.5 * (self._would / self._asked if self._asked else 1.0)

    def needs_backward(self, view: int, loss: float) -> bool:
        """Whether the step on a view with this loss needs a backward pass. Called once a step; it counts them."""
        usual = self._usual[view]
        above = usual is None or loss / (usual + 1e-8) > 1
        self._usual[view] = loss if usual is None else DECAY * usual + (1 - DECAY) * loss
        warm = self.steps < self._warmup
        if warm and usual is not None and self.steps >= self._warmup // 2:
            self._asked += 1
            self._would += above
        after = self.steps - self._warmup
        short = not warm and (self.passes - self._warmup) < self.floor * (after + 1) - 1
        self.steps += 1
        needed = warm or above or short
        self.passes += needed
        return needed
