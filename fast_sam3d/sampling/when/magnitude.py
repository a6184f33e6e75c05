"""A schedule from calibrated ratios of velocity magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import Real, Settings, Whole, check, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Magnitude(When):
    """Steps are skipped while the calibrated change of the velocity's magnitude since the last evaluation stays small.

    Each skipped step multiplies the known ratios of magnitude of one step to the step before, and adds |1 - product|
    to a sum; the network runs when that would reach the threshold, or after `longest` skipped steps.

    Source: MagCache (arXiv 2506.09045), which uses the magnitude of the transformer's residual; here it is that of the
    velocity. `fast_sam3d.tune.calibrate.watched` measures the ratios on any pipeline.

    Args:
        ratios: [n] of steps 1 ... n of a run that evaluates all; for another number of steps the nearest in share of
            the run, to the power of the steps' lengths.
        threshold: the sum at which the network runs, above 0.
        longest: steps skipped in a row at most.
        warmup: steps evaluated first, at least 1; the paper's is a fifth of all.
    """

    name: ClassVar[str] = "magnitude"
    ratios: tuple[float, ...] = setting(())
    threshold: float = setting(0.12, Real(1e-9, 1e6))
    longest: int = setting(2, Whole(1))
    warmup: int = setting(5, Whole(1))

    def __post_init__(self) -> None:
        given: Any = self.ratios
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise ConfigError(
                f"ratios is {given!r}: give the measured ratio of each step to the one before "
                "(fast_sam3d.tune.calibrate measures them)"
            )
        for ratio in given:
            check("ratios", ratio, Real(1e-6, 1e6))
        object.__setattr__(self, "ratios", tuple(float(ratio) for ratio in given))
        Settings.__post_init__(self)

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        ratios = resampled(self.ratios, len(times) - 2)
        product, spent, skipped = 1.0, 0.0, 0

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            nonlocal product, spent, skipped
            if step < self.warmup:
                return True
            product *= ratios[step - 1]
            spent += abs(1 - product)
            skipped += 1
            if spent < self.threshold and skipped <= self.longest:
                return False
            product, spent, skipped = 1.0, 0.0, 0
            return True

        return decide


def resampled(ratios: Sequence[float], count: int) -> list[float]:
    """Ratios for a run of `count` + 1 steps: each covers a share of the run, and the product stays about the same."""
    if count == len(ratios) or count < 1:
        return list(ratios)
    last, power = len(ratios) - 1, len(ratios) / count
    return [ratios[round(i * last / max(count - 1, 1))] ** power for i in range(count)]
