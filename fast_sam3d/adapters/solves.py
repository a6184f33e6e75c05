"""Solves of a pipeline's samplers, recorded so that their network can be called again, at any step and any state.

Names match sam3d_objects/model/backbone/generator (`FlowMatching`, `ClassifierFreeGuidance`). The guidance of TRELLIS
is in keywords of its dynamics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.adapters.find import adapt
from fast_sam3d.adapters.sam3d import Sam3d
from fast_sam3d.adapters.trellis_sampler import STRENGTHS, Velocity
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.patch import Layer, Seam, seam_at
from fast_sam3d.sampling.precision import Autocast, wide
from fast_sam3d.sampling.stage import SolveStage
from fast_sam3d.sampling.step import Leaves, Tree, like, to_leaves
from fast_sam3d.telemetry import Report, unseen

__all__ = ["RecordedSolve", "merged", "record"]

_GUIDANCE = ("strength", "strength_pm", "interval")
_KEYWORDS = (*STRENGTHS, *(interval for interval, _ in STRENGTHS.values()))


@dataclass(frozen=True, eq=False)
class RecordedSolve:
    """One solve of one or more objects: where it began, its condition, and its states.

    Args:
        stage: the sampling stage.
        dynamics: the generator's own, called as (x, t, *args, **kwargs).
        start: the state at times[0], in the sampler's container.
        times: [steps + 1] the grid as the solver got it.
        args, kwargs: the condition.
        guidance: attributes of the guidance module during the solve, or keywords of the dynamics.
        autocast: that the network ran in.
        compute: calls a function with the network's weights on the device.
        states: [steps + 1] leaves of the baseline in float32 or better; empty where the solve was not run.
    """

    stage: SolveStage
    dynamics: Callable[..., Tree]
    start: Tree
    times: Sequence[Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    guidance: Mapping[str, Any]
    autocast: Autocast
    compute: Callable[..., Any]
    states: list[Leaves] = field(default_factory=list)

    @property
    def grid(self) -> list[float]:
        """[steps + 1] the times on the host."""
        return [float(t) for t in self.times]

    @property
    def objects(self) -> int:
        """How many objects it solves together."""
        return len(next(iter(self.leaves.values())))

    @property
    def leaves(self) -> Leaves:
        """The state at the first time, in float32 or better."""
        return wide(to_leaves(self.start, self.stage.bare) or {})

    @property
    def calls(self) -> list[int]:
        """[steps] network calls of each step, those of guidance included."""
        with self._guided():
            guidance = self.stage.guidance(self.dynamics)
        times = self.grid[:-1]
        return [guidance.calls if guidance is not None and guidance.acts_at(t) else 1 for t in times]

    def velocity(self, leaves: Leaves, step: int) -> dict[str, Tensor]:
        """The guided velocity at a step.

        Args:
            leaves: states [K x objects, ...], K of them for each object, all objects of the first state first.

        Returns:
            leaves of the same shapes, in float32 or better.
        """
        count = len(next(iter(leaves.values()))) // self.objects
        args, kwargs = self.args, self._keywords
        if count > 1:
            args = tuple(_repeated(value, count) for value in args)
            kwargs = {name: _repeated(value, count) for name, value in kwargs.items()}
        own = to_leaves(self.start, self.stage.bare) or {}
        x = like(self.start, {name: leaf.to(own[name].dtype) for name, leaf in leaves.items()})
        call = partial(self.autocast.call, self.dynamics, x, self.times[step], *args, **kwargs)
        with torch.no_grad(), self._guided():
            velocity = self.compute(call)
        return wide(to_leaves(velocity, self.stage.bare) or {})

    def solved(self) -> RecordedSolve:
        """With the baseline's states, which Euler steps on the whole grid give."""
        x, states, grid = self.leaves, [self.leaves], self.grid
        for step in range(len(grid) - 1):
            v = self.velocity(x, step)
            x = {name: leaf + v[name] * (grid[step + 1] - grid[step]) for name, leaf in x.items()}
            states.append(x)
        return replace(self, states=states)

    def under(self, times: Sequence[float], strength: Any = None, interval: Any = None) -> RecordedSolve:
        """The same start and condition on another grid and perhaps with another guidance, not solved yet."""
        own = next((name for name in STRENGTHS if name in self.guidance), None)
        names = ("strength", "interval") if own is None else (own, STRENGTHS[own][0])
        changed = dict(zip(names, (strength, interval), strict=True))
        guidance = {**self.guidance, **{name: value for name, value in changed.items() if value is not None}}
        return replace(self, times=_as_given(times, self.times), guidance=guidance, states=[])

    def some(self, rows: Sequence[int]) -> RecordedSolve:
        """Some of its objects."""
        index = list(rows)

        def few(value: Any) -> Any:
            return value[index] if isinstance(value, Tensor) and value.dim() > 1 else value

        own = to_leaves(self.start, self.stage.bare) or {}
        if self.objects == 1:
            return self
        return replace(
            self,
            start=like(self.start, {name: leaf[index] for name, leaf in own.items()}),
            args=tuple(few(value) for value in self.args),
            kwargs={name: few(value) for name, value in self.kwargs.items()},
            states=[{name: leaf[index] for name, leaf in state.items()} for state in self.states],
        )

    @property
    def condition_shapes(self) -> tuple[Any, ...]:
        """Equal for solves that can be merged."""
        values = [*self.args, *(self.kwargs[name] for name in sorted(self.kwargs))]
        return tuple(tuple(value.shape[1:]) if isinstance(value, Tensor) else None for value in values)

    @property
    def _keywords(self) -> dict[str, Any]:
        """Of the dynamics."""
        return {**self.kwargs, **(self.guidance if isinstance(self.dynamics, Velocity) else {})}

    @contextlib.contextmanager
    def _guided(self) -> Iterator[None]:
        if isinstance(self.dynamics, Velocity):
            self.dynamics.given = self._keywords
            yield
            return
        module = getattr(getattr(self.dynamics, "__self__", None), "reverse_fn", None)
        before = {name: getattr(module, name) for name in self.guidance}
        for name, value in self.guidance.items():
            setattr(module, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(module, name, value)


def merged(solves: Sequence[RecordedSolve]) -> RecordedSolve:
    """Several solves on one grid as one of a batch.

    Raises:
        FastSam3dError: their conditions, states or samplers do not fit together.
    """
    first = solves[0]
    if len(solves) == 1:
        return first
    if any(solve.grid != first.grid or solve.guidance != first.guidance for solve in solves):
        raise FastSam3dError(f"{first.stage.name}: objects with different samplers cannot be solved as one batch")

    def joined(leaves: Sequence[Leaves]) -> Leaves:
        return {name: torch.cat([each[name] for each in leaves]) for name in leaves[0]}

    starts = [to_leaves(solve.start, first.stage.bare) or {} for solve in solves]
    states = [joined(each) for each in zip(*(solve.states for solve in solves), strict=True)]
    return replace(
        first,
        start=like(first.start, joined(starts)),
        args=tuple(_joined(first.stage.name, values) for values in zip(*(s.args for s in solves), strict=True)),
        kwargs={name: _joined(first.stage.name, [s.kwargs[name] for s in solves]) for name in first.kwargs},
        states=states,
    )


def _as_given(times: Sequence[float], given: Sequence[Any]) -> list[Any]:
    """Times of the type and device of others."""
    first = given[0]
    return [first.new_tensor(t) for t in times] if isinstance(first, Tensor) else list(times)


def _joined(stage: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor) and first.dim() > 1:
        if any(value.shape[1:] != first.shape[1:] for value in values):
            raise FastSam3dError(f"{stage}: objects with conditions of different shapes cannot be solved as one batch")
        return torch.cat(list(values))
    return first


def _repeated(value: Any, count: int) -> Any:
    batched = isinstance(value, Tensor) and value.dim() > 1
    return value.repeat(count, *[1] * (value.dim() - 1)) if batched else value


class _EnoughError(Exception):
    """Ends a run whose last wanted solve is recorded."""


class _Recorder(Seam):
    """Replaces `solver.solve_iter`: records the solve, and ends the run where no more is wanted."""

    def __init__(self, solver: object, begin: Callable[..., RecordedSolve], solve: bool, last: bool) -> None:
        super().__init__(solver, "solve_iter")
        self._begin, self._solve, self._last = begin, solve, last
        self.found: RecordedSolve | None = None

    def __call__(self, dynamics: Callable[..., Tree], x_init: Tree, times: Any, *args: Any, **kwargs: Any) -> Any:
        found = self.found = self._begin(dynamics, x_init, times, args, kwargs)
        if self._last and not self._solve:
            raise _EnoughError
        found.states.append(found.leaves)
        for state in self.original()(dynamics, x_init, times, *args, **kwargs):
            found.states.append(wide(to_leaves(state[0], found.stage.bare) or {}))
            yield state
        if self._last:
            raise _EnoughError


def record(
    pipeline: Any, run: Callable[[], Any], stages: Sequence[str] = ("ss", "slat"), solve: bool = True
) -> dict[str, RecordedSolve]:
    """Record the solves of one run, which ends after the last one of them: nothing is decoded.

    Args:
        pipeline: a SAM 3D pipeline without acceleration.
        run: runs it on one object.
        stages: whose solves are recorded.
        solve: False: the last stage's solve is only begun; see `RecordedSolve.solved`.

    Raises:
        FastSam3dError: the pipeline is accelerated or observed.
    """
    adapter = adapt(pipeline)
    order = [name for name in ("ss", "slat") if name in stages]
    recorders: dict[str, _Recorder] = {}
    layer = Layer(report=Report(progress=unseen))
    compute = getattr(adapter.pipeline, "compute", None)
    with contextlib.ExitStack() as stack:
        for name in order:
            for owner, attribute, make in adapter.loops(name):
                loop = seam_at(owner, attribute) or make()
                loop.add(layer)
                stack.callback(loop.discard, layer)
            solver = adapter.solver(name)
            module = adapter.guidance(name) if isinstance(adapter, Sam3d) else None
            if seam_at(solver, "solve_iter") is not None:
                raise FastSam3dError("the pipeline is accelerated or observed: restore it before it is calibrated")

            def begin(
                dynamics: Callable[..., Tree], x: Tree, times: Any, args: Any, kwargs: Any,
                name: str = name, module: Any = module,
            ) -> RecordedSolve:  # fmt: skip
                guidance = {key: getattr(module, key) for key in _GUIDANCE if hasattr(module, key)}
                guidance |= {key: kwargs[key] for key in _KEYWORDS if key in kwargs}
                device = next(iter((to_leaves(x, name) or {}).values())).device
                part = f"{name}_generator"
                call = (lambda call: call()) if compute is None else partial(compute, part)
                return RecordedSolve(
                    adapter.stages[name], dynamics, x, list(times), args, kwargs, guidance, Autocast(device), call
                )

            recorder = _Recorder(solver, begin, solve or name != order[-1], name == order[-1])
            recorder.add(layer)
            stack.callback(recorder.discard, layer)
            recorders[name] = recorder
        with contextlib.suppress(_EnoughError):
            run()
    return {name: recorder.found for name, recorder in recorders.items() if recorder.found is not None}
