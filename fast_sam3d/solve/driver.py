"""Applies a stage method to a solver, and reports what each step cost.

The seam is `solver.solve_iter`, the boundary of one run. The original `solve_iter` still does the stepping; only the
dynamics function that it is given decides, per step, between the network and a prediction. So evaluated steps keep
the solver's own arithmetic to the bit, and all state lives in the frame of one run: there is nothing to reset after
an abort, and two interleaved runs do not see each other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.exact.context import Contexts
from fast_sam3d.patch import Layer, Seam, seam_at
from fast_sam3d.solve.history import History, leaf_history
from fast_sam3d.solve.method import StageMethod
from fast_sam3d.solve.scene import Scene
from fast_sam3d.solve.step import Evaluation, Leaves, StepRecord, Tree, like, to_leaves, token_count
from fast_sam3d.solve.tokens import Tokens

logger = logging.getLogger(__name__)


class SolverError(FastSam3dError):
    """A solver that step caching cannot serve."""


def one_call(dynamics: Callable[..., Any], t: float) -> int:
    """The network calls of dynamics that nothing is known of."""
    return 1


@dataclass(frozen=True)
class SolveStage:
    """What the driver must know of a sampling stage; adapters make these.

    Args:
        name: "ss" or "slat".
        bare: the leaf name of a state that is a plain tensor.
        groups: the leaves that a configuration's predict key stands for.
        count_calls: (dynamics, t in 0..1) -> network calls that one run of these dynamics makes.
        coords: (args, kwargs) of the dynamics -> [N, 4] voxels of the state's tokens, or None if they are not there.
            None: the tokens are not voxels, and all of them always run.
        subset: (args, kwargs, [K] indices) -> args and kwargs for those tokens alone; needed with `coords`.

    All functions are module-level ones, so that seams can be copied and pickled.
    """

    name: str
    bare: str
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    count_calls: Callable[[Callable[..., Any], float], int] = one_call
    coords: Callable[[Any, Any], Any] | None = None
    subset: Callable[[Any, Any, torch.Tensor], tuple[Any, Any]] | None = None


class SolveLog(Protocol):
    """Receives the steps of one solve."""

    def step(self, record: StepRecord) -> None:
        """One step is done."""
        ...

    def finish(self, context_bytes: int = 0) -> None:
        """The solve reached its end, having kept so much of its context."""
        ...


class SolveSeam(Seam):
    """Stands in for `solver.solve_iter`."""

    def __init__(self, solver: object, stage: SolveStage) -> None:
        super().__init__(solver, "solve_iter")
        self.stage = stage

    @property
    def method(self) -> StageMethod | None:
        """The method of the acceleration on this solver, if there is one."""
        return None if (layer := self._accelerating) is None else layer.method

    @property
    def _accelerating(self) -> Layer | None:
        return next((layer for layer in reversed(self.layers) if layer.method is not None), None)

    def __call__(
        self, dynamics_fn: Callable[..., Tree], x_init: Tree, times: Sequence[float], *args: Any, **kwargs: Any
    ) -> Iterator[tuple[Tree, Any]]:
        """As the solver's own `solve_iter`."""
        original = self.original()
        if not self.layers:
            yield from original(dynamics_fn, x_init, times, *args, **kwargs)
            return
        grid = _floats(times)
        logs = [layer.report.begin_solve(self.stage.name, grid) for layer in self.layers]
        method = self._method_for(x_init)
        tokens = None if method is None else self._tokens(method, x_init, args, kwargs)
        scenes = [layer.scene for layer in self.layers if layer.accelerates and layer.scene is not None]
        run = _Run(self.stage, method, dynamics_fn, grid, logs, tokens, scenes)
        steps = original(run, x_init, times, *args, **kwargs)
        try:
            for state in steps:
                run.end_step()
                yield state
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
        for log in logs:
            log.finish(run.contexts.bytes)

    def _method_for(self, x_init: Tree) -> StageMethod | None:
        method = self.method
        leaves = to_leaves(x_init, self.stage.bare)
        if method is None or (leaves is not None and method.covers(list(leaves))):
            return method
        # Not the sampler's own state: the stock FlowMatching also solves for log-likelihoods on the same solver.
        logger.warning("%s: a solve with an unknown state is left unaccelerated", self.stage.name)
        return None

    def _tokens(self, method: StageMethod, x_init: Tree, args: Any, kwargs: Any) -> Tokens | None:
        """What the method may know of the state's tokens."""
        if not method.where.needs_tokens or self.stage.coords is None or not isinstance(x_init, torch.Tensor):
            return None
        coords = self.stage.coords(args, kwargs)
        if coords is None or x_init.dim() != 3 or tuple(coords.shape) != (x_init.shape[1], 4):
            logger.warning("%s: a solve without known voxels runs on all its tokens", self.stage.name)
            return None
        coords = torch.as_tensor(coords).to(x_init.device)
        layer = self._accelerating
        scene = None if layer is None else layer.scene
        return Tokens(coords) if scene is None else scene.tokens(coords)


class _Run:
    """The dynamics function of one solve, given to the solver in place of the generator's."""

    def __init__(
        self,
        stage: SolveStage,
        method: StageMethod | None,
        dynamics: Callable[..., Tree],
        grid: Sequence[float],
        logs: Sequence[SolveLog],
        tokens: Tokens | None = None,
        scenes: Sequence[Scene] = (),
    ) -> None:
        self.contexts = Contexts()
        self._scenes = scenes
        self._stage = stage
        self._method = method
        self._dynamics = dynamics
        self._grid = grid
        self._logs = logs
        self._step = 0
        self._asked = 0
        self._made = self._saved = self._tokens = 0
        self._fallback = False
        self._choose = None if method is None or tokens is None else method.where.start(tokens)
        self._history: History[Evaluation] = History(1 if method is None else method.depth)
        self._decide = None if method is None else method.when.start(grid)
        self._velocity: Tree | None = None

    def __call__(self, x: Tree, t: Any, *args: Any, **kwargs: Any) -> Tree:
        self._asked += 1
        if self._method is None:
            return self._evaluate(x, t, args, kwargs)
        if self._asked > 1:
            raise SolverError(
                f"{self._stage.name}: the solver asks for a second velocity in step {self._step}: step caching needs "
                "Euler steps, so build the generator with its euler solver or restore the pipeline"
            )
        state = to_leaves(x, self._stage.bare)
        if state is None:
            raise SolverError(f"{self._stage.name}: the solver's state became a {type(x).__name__} in mid-solve")
        if not self._runs(state):
            predicted = self._predict(state)
            if predicted is not None:
                self._saved += self._calls(t)
                return predicted
            self._fallback = True
        index = self._index()
        velocity = self._evaluate(x, t, args, kwargs) if index is None else self._carve(x, t, args, kwargs, index)
        leaves = to_leaves(velocity, self._stage.bare)
        if leaves is None or leaves.keys() != state.keys():
            raise SolverError(f"{self._stage.name}: the velocity does not have the leaves of the state")
        self._velocity = velocity
        self._history.push(Evaluation(self._grid[self._step], state, leaves))
        return velocity

    def end_step(self) -> None:
        """The solver has yielded the state after this step."""
        if self._logs:
            record = StepRecord(
                step=self._step,
                t=self._grid[self._step],
                evaluated=self._made > 0,
                calls=self._made,
                saved=self._saved,
                tokens=self._tokens,
                fallback=self._fallback,
            )
            for log in self._logs:
                log.step(record)
        self._step += 1
        self._asked = self._made = self._saved = self._tokens = 0
        self._fallback = False

    def _runs(self, state: Leaves) -> bool:
        if self._step in (0, len(self._grid) - 2):
            return True
        return self._decide is None or self._decide(self._step, self._history, state)

    def _index(self) -> torch.Tensor | None:
        """The tokens that the network runs on at this step; None: all."""
        if self._choose is None or self._fallback or self._step in (0, len(self._grid) - 2):
            return None
        return self._choose(self._step, self._history)

    def _carve(self, x: Tree, t: Any, args: Any, kwargs: Any, index: torch.Tensor) -> Tree:
        """The velocity with the tokens of `index` evaluated; the others keep their last."""
        assert isinstance(x, torch.Tensor)
        assert isinstance(self._velocity, torch.Tensor)
        assert self._stage.subset
        if len(index) == x.shape[1]:
            return self._evaluate(x, t, args, kwargs)
        few_args, few_kwargs = self._stage.subset(args, kwargs, index)
        fresh = self._evaluate(x[:, index], t, few_args, few_kwargs)
        if not isinstance(fresh, torch.Tensor):
            raise SolverError(f"{self._stage.name}: the velocity of a part of the tokens is a {type(fresh).__name__}")
        return self._velocity.index_copy(1, index, fresh.to(self._velocity.dtype))

    def _evaluate(self, x: Tree, t: Any, args: Any, kwargs: Any) -> Tree:
        # Laid out for the length of one call only: another solve may run between two steps of this one.
        for scene in self._scenes:
            scene.contexts = self.contexts
        try:
            velocity = self._dynamics(x, t, *args, **kwargs)
        finally:
            for scene in self._scenes:
                scene.contexts = None
        self._made += self._calls(t)
        self._tokens = max(self._tokens, token_count(to_leaves(x, self._stage.bare) or {}))
        return velocity

    def _predict(self, state: Leaves) -> Tree | None:
        """The predicted velocity, or None where it is not finite."""
        if self._method is None or self._velocity is None:
            return None
        t = self._grid[self._step]
        leaves = {
            name: self._method.predict[name](leaf_history(self._history, name), t, x) for name, x in state.items()
        }
        # One host read per predicted step: the choice between prediction and network needs it.
        finite = torch.stack([torch.isfinite(leaf).all() for leaf in leaves.values()])
        return like(self._velocity, leaves) if bool(finite.all()) else None

    def _calls(self, t: Any) -> int:
        # Reading a device's own t costs a synchronisation, so the grid is read where it says the same.
        time = self._grid[self._step] if self._asked == 1 else float(t)
        return self._stage.count_calls(self._dynamics, time)


def require_euler(solver: object, stage: str) -> None:
    """Refuse a solver whose steps are not plain Euler steps, one velocity each.

    Raises:
        SolverError: the solver is something else.
    """
    kind = type(solver)
    if not any(base.__name__ == "Euler" for base in kind.__mro__):
        raise SolverError(
            f"{stage}: the solver is {kind.__name__}, and step caching needs Euler, where one velocity is one step: "
            "build the generator with solver_method='euler'"
        )
    times: list[float] = []

    def constant(x: torch.Tensor, t: float) -> torch.Tensor:
        times.append(float(t))
        return torch.ones_like(x)

    seam = seam_at(solver, "solve_iter")
    solve_iter = solver.solve_iter if seam is None else seam.original()  # type: ignore[attr-defined]
    grid = [0.0, 0.25, 1.0]
    states = [float(x) for x, _ in solve_iter(constant, torch.zeros(()), grid)]
    if times != grid[:-1] or states != grid[1:]:
        raise SolverError(
            f"{stage}: the solver {kind.__name__} does not take Euler steps (it evaluated at {times} on the grid "
            f"{grid}): step caching cannot serve it"
        )


def _floats(times: Sequence[float]) -> list[float]:
    tolist = getattr(times, "tolist", None)
    return [float(t) for t in times] if tolist is None else [float(t) for t in tolist()]
