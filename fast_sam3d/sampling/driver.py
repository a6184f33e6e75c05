"""Applies a stage method to a solver, and reports what each step cost.

The seam is `solver.solve_iter`, the boundary of one run. The original `solve_iter` still does the stepping; only the
dynamics function that it is given decides, per step, between the network and a prediction. So evaluated steps are
bit-identical to the solver's own, and all state lives in the frame of one run: there is nothing to reset after
an abort, and interleaved runs are independent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fast_sam3d.patch import Layer, Seam, seam_at
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.sampling.solve import Solve, SolveLog
from fast_sam3d.sampling.stage import SolverError, SolveStage
from fast_sam3d.sampling.step import Tree, to_leaves
from fast_sam3d.sampling.syncs import Syncs
from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.when.path import Path
from fast_sam3d.telemetry import NOT_FINITE, Report

__all__ = [
    "SolveLog", "SolveSeam", "SolveStage", "SolverError", "method_on", "reports_on", "require_euler",
    "require_single_steps",
]  # fmt: skip

logger = logging.getLogger(__name__)


class SolveSeam(Seam):
    """Replaces `solver.solve_iter`."""

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
        syncs = Syncs()
        grid = _floats(times, syncs)
        logs = [layer.report.begin_solve(self.stage.name, grid) for layer in self.layers]
        method = self._method_for(dynamics_fn, x_init)
        self._warn_of_other_steps(method, len(grid) - 1)
        tokens = None if method is None else self._tokens(method, x_init, args, kwargs, syncs)
        if tokens is not None:
            tokens = replace(tokens, steps=len(grid) - 1, syncs=syncs)
        scenes = [layer.scene for layer in self.layers if layer.accelerates and layer.scene is not None]
        solve = Solve(self.stage, method, dynamics_fn, grid, logs, tokens, scenes, syncs)
        steps = original(solve, x_init, times, *args, **kwargs)
        x = x_init
        try:
            for state in steps:
                solve.end_step()
                x = state[0]
                yield state
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
        finite, replaced = solve.outcome(x)
        if finite is False:
            logger.warning("%s: %s", self.stage.name, NOT_FINITE)
        kept = 0 if solve.state.kept is None else solve.state.kept.bytes
        layout = 0 if solve.state.live is None else solve.state.live.bytes
        for log in logs:
            log.finish(kept, replaced, syncs.count, finite, layout)

    def _method_for(self, dynamics: Callable[..., Tree], x_init: Tree) -> StageMethod | None:
        method = self.method
        if method is not None and (reason := self.stage.unfit(dynamics)):
            logger.warning("%s: every step is evaluated, because %s", self.stage.name, reason)
            return None
        leaves = to_leaves(x_init, self.stage.bare)
        if method is None or (leaves is not None and method.covers(list(leaves))):
            return method
        # Not the sampler's own state: the stock FlowMatching also solves for log-likelihoods on the same solver.
        logger.warning("%s: a solve with an unknown state runs unaccelerated", self.stage.name)
        return None

    def _warn_of_other_steps(self, method: StageMethod | None, steps: int) -> None:
        """A measured schedule is stretched to any grid, but it was measured on one."""
        layer = self._accelerating
        if layer is None or method is None or layer.report.schedule is None or not isinstance(method.when, Path):
            return
        if method.when.steps != steps:
            logger.warning(
                "%s: %s was measured with %d steps, and this run has %d: run with as many, or use preset=default with"
                " use_calibrated=false", self.stage.name, layer.report.schedule, method.when.steps, steps,
            )  # fmt: skip

    def _tokens(self, method: StageMethod, x_init: Tree, args: Any, kwargs: Any, syncs: Syncs) -> Tokens | None:
        """The state's tokens, for a method that chooses among them."""
        if method.where.needs_decoder:
            return self._structure(x_init)
        x = (to_leaves(x_init, self.stage.bare) or {}).get(self.stage.bare)
        if not method.where.needs_tokens or self.stage.coords is None or x is None:
            return None
        coords = self.stage.coords(x_init, args, kwargs)
        if coords is None or x.dim() != 3 or tuple(coords.shape) != (x.shape[1], 4):
            logger.warning("%s: the voxels are unknown, so all tokens run", self.stage.name)
            return None
        given = torch.as_tensor(coords, device="cpu") if not isinstance(coords, torch.Tensor) else coords
        host = given if given.device.type == "cpu" else syncs.read(given)
        layer = self._accelerating
        scene = None if layer is None else layer.scene
        tokens = Tokens(host) if scene is None else scene.tokens(host)
        there = given is coords and given.device == x.device
        return replace(tokens, coords=given if there else syncs.send(host, x.device))

    def _structure(self, x_init: Tree) -> Tokens | None:
        """The cells of a sparse structure, which can be decoded at any step."""
        layer = self._accelerating
        scene = None if layer is None else layer.scene
        latent = (to_leaves(x_init, self.stage.bare) or {}).get(self.stage.bare)
        one = latent is not None and latent.dim() == 3 and len(latent) == 1
        edge = round(latent.shape[1] ** (1 / 3)) if latent is not None and one else 0
        if self.stage.decode is None or scene is None or scene.decoder is None or edge == 0:
            logger.warning("%s: the shape cannot be decoded, so all tokens run", self.stage.name)
            return None
        cells = torch.argwhere(torch.ones(1, edge, edge, edge, device="cpu")).int()
        return Tokens(cells, decode=partial(self.stage.decode, scene.decoder.original()))


def method_on(solver: object) -> StageMethod | None:
    """The method of the acceleration on a solver, None without one."""
    seam = seam_at(solver, "solve_iter")
    return seam.method if isinstance(seam, SolveSeam) else None


def reports_on(solver: object) -> list[Report]:
    """The reports that a solve on this solver is recorded in."""
    seam = seam_at(solver, "solve_iter")
    return [layer.report for layer in seam.layers] if isinstance(seam, SolveSeam) else []


def require_euler(solver: object, stage: str) -> None:
    """Refuse a solver that does not take plain Euler steps, one velocity each.

    Raises:
        SolverError: the solver is something else.
    """
    kind = type(solver)
    if not any(base.__name__ == "Euler" for base in kind.__mro__):
        raise SolverError(
            f"{stage}: the solver is {kind.__name__}, and step caching needs Euler, where one velocity is one step: "
            "build the generator with solver_method='euler'"
        )
    require_single_steps(solver, stage)


def require_single_steps(solver: object, stage: str) -> None:
    """Try a solver on a constant velocity.

    Raises:
        SolverError: a step is not a state plus one velocity times the step's length.
    """
    kind, times = type(solver), list[float]()

    def constant(x: torch.Tensor, t: float) -> torch.Tensor:
        times.append(float(t))
        return torch.ones_like(x)

    seam = seam_at(solver, "solve_iter")
    solve_iter = solver.solve_iter if seam is None else seam.original()  # type: ignore[attr-defined]
    grid = [0.0, 0.25, 1.0]
    steps = list(solve_iter(constant, torch.zeros((), device="cpu"), grid))
    if odd := next((step for step in steps if len(step) != 2), None):
        raise SolverError(
            f"{stage}: the solver {kind.__name__} of {kind.__module__} yields {len(odd)} values per step instead of a "
            "state and a time, as the Fast-SAM3D fork does: install facebookresearch/sam-3d-objects in an environment "
            "of its own"
        )
    states = [float(x) for x, _ in steps]
    if times != grid[:-1] or states != grid[1:]:
        raise SolverError(
            f"{stage}: the solver {kind.__name__} does not take Euler steps (it evaluated at {times} on the grid "
            f"{grid}): step caching does not work with it"
        )


def _floats(times: Sequence[float], syncs: Syncs) -> list[float]:
    """The grid on the host, read in one copy where it is on a device, as in the stock pipeline."""
    if isinstance(times, torch.Tensor) and times.device.type != "cpu":
        times = syncs.read(times)
    tolist = getattr(times, "tolist", None)
    return [float(t) for t in times] if tolist is None else [float(t) for t in tolist()]
