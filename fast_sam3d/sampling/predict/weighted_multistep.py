"""A multistep solver whose corrections are weighted for each evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import Real, check, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.adams_bashforth import mean_power
from fast_sam3d.sampling.predict.base import Integrate
from fast_sam3d.sampling.predict.newton import differences, monomials
from fast_sam3d.sampling.step import LeafEvaluation

HIGHEST = 2
"""Weights in a row at most: those of the second and of the third order."""


@dataclass(frozen=True, slots=True)
class WeightedMultistep(Integrate):
    """Between holding and Adams-Bashforth, with weights for each evaluation: v + w1 c2 + w2 c3.

    v is the newest evaluated velocity, c2 and c3 are what Adams-Bashforth of order 2 and of order 3 add to it in turn,
    over the step. Weights of 0 hold v, (1) is Adams-Bashforth of order 2, (1, 1) that of order 3. As there, the steps
    between two evaluations together are one step of the solver.

    Source: our own; the corrections as in `AdamsBashforth`. `fast-sam3d tune` fits the weights.

    Args:
        weights: a row for each evaluation of a solve in order, with (), (w1) or (w1, w2). A missing weight or row is 0.
            No row has more weights than there are evaluations before its own.
    """

    name: ClassVar[str] = "weighted_multistep"
    same_for_all_objects: ClassVar[bool] = True
    corrects: ClassVar[bool] = True
    weights: tuple[tuple[float, ...], ...] = setting(())

    def __post_init__(self) -> None:
        rows: list[tuple[float, ...]] = []
        for row in _sequence(self.weights, "weights"):
            where = f"weights[{len(rows)}]"
            given = _sequence(row, where)
            if len(given) > min(len(rows), HIGHEST):
                raise ConfigError(
                    f"{where} is {list(given)}: give it at most {min(len(rows), HIGHEST)}, since each weight needs an "
                    f"earlier evaluation, and the highest order is {HIGHEST + 1}"
                )
            for weight in given:
                check(where, weight, Real(-10.0, 10.0))
            rows.append(tuple(float(weight) for weight in given))
        object.__setattr__(self, "weights", tuple(rows))

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return 1 + max(map(len, self.weights), default=0)

    @property
    def rows(self) -> int:
        """See `Predict`."""
        return len(self.weights)

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """See `Integrate`."""
        mean, number = history[0].v, history.number - 1
        row = self.weights[number] if number < len(self.weights) else ()
        count = min(1 + len(row), len(history))
        if count == 1 or not any(row):
            return mean
        times = [history[i].t for i in range(count)]
        slopes = differences(times, [history[i].v for i in range(count)])
        a, b = start - times[0], end - times[0]
        for weight, slope, powers in zip(row, slopes[1:], monomials(times)[1:], strict=False):
            mean = mean + weight * sum(c * mean_power(a, b, i) for i, c in enumerate(powers)) * slope
        return mean


def _sequence(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{name} is {value!r}: give a list, such as [[], [1.0], [1.0, 0.5]]")
    return value
