"""When does the network run? Each class answers for every step of a solve.

The driver always evaluates the first step (nothing is known yet) and the last one (the result takes its error
undamped), whatever is answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from fast_sam3d.solve.check import whole
from fast_sam3d.solve.history import History
from fast_sam3d.solve.step import Evaluation, Leaves

Decide: TypeAlias = Callable[[int, History[Evaluation], Leaves], bool]


class When(Protocol):
    """Settings of a schedule; what it must remember during a solve lives in the function that `start` returns."""

    @property
    def depth(self) -> int:
        """Evaluations that the decision looks back on."""
        ...

    def start(self, times: Sequence[float]) -> Decide:
        """Begin a solve.

        Args:
            times: [steps + 1] the grid, from its first to its last time.

        Returns:
            (step, history, state at the step) -> whether the network runs; called once for every step between the
            first and the last, in order.
        """
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """Every step."""

    depth: ClassVar[int] = 1

    def start(self, times: Sequence[float]) -> Decide:
        """See `When`."""
        return lambda step, history, x: True


@dataclass(frozen=True, slots=True)
class Stride:
    """The first `warmup` steps, then every `stride`-th.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.2 with stride 3 and warm-up 2: 25 steps run at
    0, 1, 4, 7, 10, 13, 16, 19, 22 and 24.

    Args:
        stride: 1 is every step.
        warmup: steps evaluated first, at least 1.
    """

    stride: int = 3
    warmup: int = 2
    depth: ClassVar[int] = 1

    def __post_init__(self) -> None:
        whole("stride", self.stride, 1)
        whole("warmup", self.warmup, 1)

    def start(self, times: Sequence[float]) -> Decide:
        """See `When`."""
        return lambda step, history, x: step < self.warmup or (step - self.warmup + 1) % self.stride == 0


WHEN: dict[str, type[When]] = {"always": Always, "stride": Stride}
"""Schedules by their name in a configuration."""
