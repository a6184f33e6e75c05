"""Solvers of the sampling ODE; the state is a tensor or a dict of tensors (a tree)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

Tree: TypeAlias = Tensor | dict[str, Tensor]
Shapes: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `function` to matching leaves; dicts are matched by key."""
    return _pytree.tree_map(function, tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """Leaves of a tree."""
    return _pytree.tree_leaves(tree)


def tree_randn(shapes: Shapes, device: torch.device | str, generator: torch.Generator | None) -> Tree:
    """Standard normal noise, leaves drawn in sorted key order as the stock generators do.

    Drawn on the generator's device and then moved, so that a seed gives the same noise on every device.

    Args:
        shapes: one shape, or one shape per leaf.
        device: of the result.
        generator: source of randomness; None: that of `device`, whose noise for a seed is its own.

    Returns:
        float32 noise with the keys of `shapes`, in their order.
    """
    if isinstance(shapes, Mapping):
        noise = {name: _randn(shapes[name], device, generator) for name in sorted(shapes)}
        return {name: noise[name] for name in shapes}
    return _randn(shapes, device, generator)


def _randn(shape: Sequence[int], device: torch.device | str, generator: torch.Generator | None) -> Tensor:
    place = device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=place, dtype=torch.float32).to(device)


def moved(x: Any, v: Any, dt: float) -> Any:
    """x + v dt; of tensors computed in float32 or better, in the wider type of the two."""
    if not (isinstance(x, Tensor) and isinstance(v, Tensor)):
        return x + v * dt
    dtype = torch.promote_types(x.dtype, v.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    return (x.to(wide) + v.to(wide) * dt).to(dtype)


class ODESolver:
    """Fixed-grid solver; subclasses implement `step`."""

    def step(self, dynamics_fn: Callable[..., Tree], x_t: Tree, t: float, dt: float, *args: Any, **kwargs: Any) -> Tree:
        """State at t + dt."""
        raise NotImplementedError

    def solve_iter(
        self, dynamics_fn: Callable[..., Tree], x_init: Tree, times: Sequence[float], *args: Any, **kwargs: Any
    ) -> Iterator[tuple[Tree, float]]:
        """Step through the grid.

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
        return tree_map(lambda x, v: moved(x, v, dt), x_t, velocity)


class Midpoint(ODESolver):
    """Two evaluations per step, second order."""

    def step(self, dynamics_fn: Callable[..., Tree], x_t: Tree, t: float, dt: float, *args: Any, **kwargs: Any) -> Tree:
        velocity = dynamics_fn(x_t, t, *args, **kwargs)
        middle = tree_map(lambda x, v: moved(x, v, dt / 2), x_t, velocity)
        velocity = dynamics_fn(middle, t + dt / 2, *args, **kwargs)
        return tree_map(lambda x, v: moved(x, v, dt), x_t, velocity)


SOLVERS: dict[str, type[ODESolver]] = {"euler": Euler, "midpoint": Midpoint}
"""Solvers by the name that the generators take as `solver_method`."""
