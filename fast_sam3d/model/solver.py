"""Solvers of the sampling ODE."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from fast_sam3d.model.tree import Tree, tree_map


class ODESolver:
    """Fixed-grid solver; `step` makes it concrete."""

    def step(self, dynamics_fn: Callable[..., Tree], x_t: Tree, t: float, dt: float, *args: Any, **kwargs: Any) -> Tree:
        """State at t + dt."""
        raise NotImplementedError

    def solve_iter(
        self, dynamics_fn: Callable[..., Tree], x_init: Tree, times: Sequence[float], *args: Any, **kwargs: Any
    ) -> Iterator[tuple[Tree, float]]:
        """Walk the grid.

        Args:
            dynamics_fn: (x, t, *args, **kwargs) -> velocity, a tree like x.
            x_init: state at times[0].
            times: [steps + 1] grid.

        Yields:
            (state after the step, time at its start) for every step.
        """
        x_t = x_init
        for t0, t1 in pairwise(times):
            x_t = self.step(dynamics_fn, x_t, t0, t1 - t0, *args, **kwargs)
            yield x_t, t0

    def solve(
        self, dynamics_fn: Callable[..., Tree], x_init: Tree, times: Sequence[float], *args: Any, **kwargs: Any
    ) -> Tree:
        """State at times[-1]."""
        return deque(self.solve_iter(dynamics_fn, x_init, times, *args, **kwargs), maxlen=1).pop()[0]


class Euler(ODESolver):
    """One evaluation per step."""

    def step(self, dynamics_fn: Callable[..., Tree], x_t: Tree, t: float, dt: float, *args: Any, **kwargs: Any) -> Tree:
        velocity = dynamics_fn(x_t, t, *args, **kwargs)
        return tree_map(lambda x, v: x + v * dt, x_t, velocity)


class Midpoint(ODESolver):
    """Two evaluations per step, second order."""

    def step(self, dynamics_fn: Callable[..., Tree], x_t: Tree, t: float, dt: float, *args: Any, **kwargs: Any) -> Tree:
        velocity = dynamics_fn(x_t, t, *args, **kwargs)
        middle = tree_map(lambda x, v: x + v * (dt / 2), x_t, velocity)
        velocity = dynamics_fn(middle, t + dt / 2, *args, **kwargs)
        return tree_map(lambda x, v: x + v * dt, x_t, velocity)


SOLVERS: dict[str, type[ODESolver]] = {"euler": Euler, "midpoint": Midpoint}
"""Solvers by the name that the generators take as `solver_method`."""
