"""One solve: the velocity of each step, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from fast_sam3d.sampling.exchange import Exchange
from fast_sam3d.sampling.guide import Guidance, GuidedCalls, SolveState
from fast_sam3d.sampling.history import History, leaf_history
from fast_sam3d.sampling.live import LiveLayout
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.sampling.precision import Autocast, in_types_of, wide
from fast_sam3d.sampling.predict.base import Integrate
from fast_sam3d.sampling.predict.live import Live
from fast_sam3d.sampling.stage import SolverError, SolveStage
from fast_sam3d.sampling.step import Evaluation, Leaves, Tree, like, to_leaves, token_count
from fast_sam3d.sampling.syncs import Syncs
from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.where import Choose, Held, Merged
from fast_sam3d.telemetry import StepRecord


class SolveLog(Protocol):
    """Receives the steps of one solve."""

    def step(self, record: StepRecord) -> None:
        """One step is done."""
        ...

    def finish(
        self,
        context_bytes: int = 0,
        replaced: Sequence[int] = (),
        syncs: int = 0,
        finite: bool | None = None,
        layout_bytes: int = 0,
    ) -> None:
        """The solve is complete.

        Args:
            context_bytes, layout_bytes: see `SolveRecord`.
            replaced: steps whose prediction was not finite.
            syncs, finite: see `SolveRecord`.
        """
        ...


class Solve:
    """The dynamics function of one solve, given to the solver in place of the generator's.

    Args:
        stage: the sampling stage.
        method: None only records.
        dynamics: the generator's own.
        grid: [steps + 1] times.
        logs: receive the record of each step.
        tokens: the state's tokens, where the method needs them.
        scenes: of the accelerations with seams on the network.
        syncs: counts where the host waits for the device.
    """

    def __init__(
        self,
        stage: SolveStage,
        method: StageMethod | None,
        dynamics: Callable[..., Tree],
        grid: Sequence[float],
        logs: Sequence[SolveLog],
        tokens: Tokens | None = None,
        scenes: Sequence[Exchange] = (),
        syncs: Syncs | None = None,
    ) -> None:
        self._syncs = Syncs() if syncs is None else syncs
        self._finite: dict[int, Tensor] = {}
        self._scenes = scenes
        self._stage = stage
        self._method = method
        self._dynamics = dynamics
        self._grid = grid
        self._logs = logs
        self._step = 0
        self._asked = 0
        self._made = self._saved = self._tokens = 0
        self._layout = False
        self._autocast = Autocast()
        self._choose: Choose | None = None
        if method is not None and tokens is not None:
            if tokens.decode is not None:
                tokens = replace(tokens, decode=partial(self._autocast.call, tokens.decode))
            with self._autocast.read(tokens.coords.device).off():
                self._choose = method.where.start(tokens)
        guidance = None if method is None else stage.guidance(dynamics)
        depth = 1 if method is None else method.depth
        self._history: History[Evaluation] = History(depth, syncs=self._syncs, times=grid, guidance=guidance)
        self._decide = None if method is None else method.when.start(grid, guidance)
        self._velocity: Tree | None = None
        guiding = None if method is None else method.guide.start(self._syncs)
        live = None if method is None or method.live is None else self._start_live(method.live, guidance)
        guided = None if guiding is None else GuidedCalls(guiding, stage.bare)
        self.state = SolveState(guided, self._syncs, live=live, branch=partial(stage.branch, dynamics))
        self._counted = self._syncs.count

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
        with self._autocast.read(next(iter(state.values())).device).off():
            return self._accelerated(x, wide(state), t, args, kwargs)

    def _accelerated(self, x: Tree, state: Leaves, t: Any, args: Any, kwargs: Any) -> Tree:
        """The velocity of a step by the method, in the network's type; `state` are the leaves of x. Autocast is off."""
        if not self._runs(state):
            self._saved += self._calls(t)
            return self._predict(state, self._live_layout(x, t, args, kwargs))
        velocity = self._chosen(x, t, args, kwargs)
        leaves = to_leaves(velocity, self._stage.bare)
        if leaves is None or leaves.keys() != state.keys():
            raise SolverError(f"{self._stage.name}: the velocity does not have the leaves of the state")
        self._velocity = velocity
        self._history.push(Evaluation(self._grid[self._step], state, wide(leaves)))
        return self._corrected(state)

    def end_step(self) -> None:
        """The solver has yielded the state after this step."""
        if self._logs:
            record = StepRecord(
                step=self._step,
                t=self._grid[self._step],
                evaluated=self._made > 0,
                network_calls=self._made,
                network_calls_saved=self._saved,
                tokens=self._tokens,
                syncs=self._syncs.count - self._counted,
                layout=self._layout,
            )
            for log in self._logs:
                log.step(record)
        self._step += 1
        self._counted = self._syncs.count
        self._asked = self._made = self._saved = self._tokens = 0
        self._layout = False

    def outcome(self, x: Tree) -> tuple[bool | None, list[int]]:
        """The outcome, x being the last state. Reads the device once: each read makes the host wait for the device.

        Returns:
            whether x is finite, None where that is unknown (a state of another kind, or without values); and the steps
            whose prediction was not, so that the last velocity was held.
        """
        leaves = to_leaves(x, self._stage.bare)
        if leaves is None or any(leaf.is_meta for leaf in leaves.values()):
            return None, []
        final = torch.stack([torch.isfinite(leaf).all() for leaf in leaves.values()]).all()
        finite, *predictions = self._syncs.read(torch.stack([final, *self._finite.values()])).tolist()
        return finite, [step for step, good in zip(self._finite, predictions, strict=True) if not good]

    @property
    def _at_an_end(self) -> bool:
        return self._step in (0, len(self._grid) - 2)

    def _runs(self, state: Leaves) -> bool:
        if self._method is None or self._decide is None or self._velocity is None:
            return True
        if self._at_an_end and self._method.when.evaluates_last:
            return True
        return self._decide(self._step, self._history, state)

    def _chosen(self, x: Tree, t: Any, args: Any, kwargs: Any) -> Tree:
        """The velocity, from the tokens that the method chooses."""
        if self._choose is None or self._at_an_end:
            return self._evaluate(x, t, args, kwargs)
        choice = self._choose(self._step, self._history)
        if choice is None:
            return self._evaluate(x, t, args, kwargs)
        if isinstance(choice, Held):
            return self._hold(self._evaluate(x, t, args, kwargs), choice)
        return self._carve(x, t, args, kwargs, choice)

    def _hold(self, velocity: Tree, choice: Held) -> Tree:
        """The velocity where some tokens of the shape keep their last."""
        leaves = to_leaves(velocity, self._stage.bare) or {}
        bare, last = self._stage.bare, self._history[0].v
        if bare not in leaves:
            return velocity
        held = torch.where(choice.mask[:, None], last[bare].to(leaves[bare].dtype), leaves[bare])
        return like(velocity, {**leaves, bare: held})

    def _carve(self, x: Tree, t: Any, args: Any, kwargs: Any, choice: Tensor | Merged) -> Tree:
        """The velocity with some tokens evaluated; the others keep their last, or take an evaluated token's."""
        assert self._velocity is not None
        assert self._stage.coords
        assert self._stage.subset
        bare, index = self._stage.bare, choice.index if isinstance(choice, Merged) else choice
        (own,) = (to_leaves(self._velocity, bare) or {}).values()
        if len(index) == own.shape[1]:
            return self._evaluate(x, t, args, kwargs)
        coords = self._stage.coords(x, args, kwargs)
        on_host = not isinstance(coords, Tensor) or coords.device.type == "cpu"
        few = self._stage.subset(x, args, kwargs, index, self._syncs.read(index) if on_host else index)
        if few is None:
            return self._evaluate(x, t, args, kwargs)
        velocity = self._evaluate(few[0], t, few[1], few[2])
        fresh = (to_leaves(velocity, bare) or {}).get(bare)
        if fresh is None:
            raise SolverError(
                f"{self._stage.name}: the velocity of a part of the tokens is a {type(velocity).__name__}"
            )
        fresh = fresh.to(own.dtype)
        if isinstance(choice, Merged):
            state = wide(to_leaves(x, bare) or {})[bare]
            whole = choice.spread(state, wide({bare: fresh})[bare], self._grid[self._step]).to(fresh.dtype)
        else:
            whole = own.clone()
            whole[:, index] = fresh  # `index_copy` has no kernel for MPS before torch 2.8
        return like(self._velocity, {bare: whole})

    def _evaluate(self, x: Tree, t: Any, args: Any, kwargs: Any) -> Tree:
        if self.state.live is not None:
            self.state.live.before_evaluation(self._guided[self._step], self._step < len(self._grid) - 2)
        velocity = self._network(x, t, args, kwargs)
        spared = 0 if self.state.guided is None else self.state.guided.take()
        self._made += self._calls(t) - spared
        self._saved += spared
        self._tokens = max(self._tokens, token_count(to_leaves(x, self._stage.bare) or {}))
        return velocity

    def _live_layout(self, x: Tree, t: Any, args: Any, kwargs: Any) -> Leaves:
        """The layout's velocity by the network where the method asks for it, else nothing."""
        live = self.state.live
        if live is None or not live.ready:
            return {}
        live.before_rest(self._step, self._guided[self._step], any(self._guided[self._step :]))
        self._layout = True
        return wide(to_leaves(self._network(x, t, args, kwargs), self._stage.bare) or {})

    def _network(self, x: Tree, t: Any, args: Any, kwargs: Any) -> Tree:
        """The velocity of the generator's own dynamics, in the caller's autocast."""
        if self.state.guided is not None:
            self.state.guided.begin()
        # Set for the length of one call only: another solve may run between two steps of this one.
        for scene in self._scenes:
            scene.solve = self.state
        try:
            return self._autocast.call(self._dynamics, x, t, *args, **kwargs)
        finally:
            for scene in self._scenes:
                scene.solve = None

    def _corrected(self, state: Leaves) -> Tree:
        """The network's velocity, except for leaves with a predictor that integrates over evaluated steps, too."""
        assert self._method is not None
        assert self._velocity is not None
        changed = {
            name: predictor.over(leaf_history(self._history, name), *self._span(), state[name])
            for name in state
            if isinstance(predictor := self._method.predict[name], Integrate) and predictor.corrects
        }
        if not changed:
            return self._velocity
        own = to_leaves(self._velocity, self._stage.bare) or {}
        return like(self._velocity, {**own, **in_types_of(own, changed)})

    def _predict(self, state: Leaves, layout: Leaves) -> Tree:
        """The predicted velocity, that of `layout` where a leaf is live; the last evaluated one if it is not finite."""
        assert self._method is not None
        assert self._velocity is not None
        leaves = {}
        for name, x in state.items():
            predictor, past = self._method.predict[name], leaf_history(self._history, name)
            if isinstance(predictor, Live) and name in layout:
                leaves[name] = layout[name]
            elif isinstance(predictor, Integrate):
                leaves[name] = predictor.over(past, *self._span(), x)
            else:
                leaves[name] = predictor(past, self._grid[self._step], x)
        own, last = to_leaves(self._velocity, self._stage.bare) or {}, self._history[0].v
        changed = in_types_of(own, {name: leaf for name, leaf in leaves.items() if leaf is not last[name]})
        if changed:
            finite = torch.stack([torch.isfinite(leaf).all() for leaf in changed.values()]).all()
            self._finite[self._step] = finite
            changed = {name: torch.where(finite, leaf, own[name]) for name, leaf in changed.items()}
        return like(self._velocity, {**own, **changed})

    def _span(self) -> tuple[float, float]:
        return self._grid[self._step], self._grid[self._step + 1]

    def _calls(self, t: Any) -> int:
        # Reading a device's own t costs a synchronisation, so the grid is read where it holds the same value.
        if self._asked == 1:
            time = self._grid[self._step]
        else:
            time = float(self._syncs.read(t) if isinstance(t, Tensor) and t.device.type != "cpu" else t)
        guidance = self._stage.guidance(self._dynamics)
        return 1 if guidance is None else guidance.calls_at(time)

    def _start_live(self, live: Live, guidance: Guidance | None) -> LiveLayout:
        self._guided = [guidance is not None and guidance.acts_at(t) for t in self._grid[:-1]]
        times = [] if guidance is None else [t * guidance.time_scale for t in self._grid[:-1]]
        return LiveLayout(times, live.ahead, self._syncs)
