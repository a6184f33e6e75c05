"""The driver around real solvers, with dynamics computed by hand."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.model.flow import time_grid
from fast_sam3d.model.solver import Euler, Midpoint
from fast_sam3d.patch import Layer
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.driver import SolverError, SolveSeam, SolveStage, require_euler
from fast_sam3d.sampling.when.base import Decide, When
from fast_sam3d.telemetry import Report

STAGE = SolveStage("ss", "shape", {"shape": ("shape",), "layout": ("scale", "translation")})
ONE_LEAF = SolveStage("ss", "x", {"x": ("x",)})
TIMES = time_grid(25, 3.0).tolist()


def put_on(solver: Any, method: dict[str, Any] | None, stage: SolveStage = STAGE) -> tuple[SolveSeam, Report]:
    seam, report = SolveSeam(solver, stage), Report()
    built = None if method is None else build_stage_method(method, stage.groups)
    seam.add(Layer(report, method is not None, built))
    return seam, report


def stride(stride: int, predict: dict[str, Any] | None = None, warmup: int = 2) -> dict[str, Any]:
    return {"when": {"name": "stride", "stride": stride, "warmup": warmup}, "predict": predict or {"name": "hold"}}


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(shape, generator=generator)
        for name, shape in {"shape": (1, 4, 3), "scale": (1, 1, 3), "translation": (1, 1, 3)}.items()
    }


def bent(x: dict[str, Tensor], t: float) -> dict[str, Tensor]:
    """A velocity that depends on its own leaf and bends in t."""
    return {name: torch.sin(3 * leaf) + t * t for name, leaf in x.items()}


def linear(x: dict[str, Tensor], t: float) -> dict[str, Tensor]:
    return {name: torch.full_like(leaf, 2.0) - 3.0 * t for name, leaf in x.items()}


def final(solver: Any, dynamics: Any, times: Any = TIMES, x: Any = None, *args: Any) -> Any:
    return solver.solve(dynamics, state() if x is None else x, times, *args)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", [None, stride(1), {}, {"when": {"name": "always"}}])
def test_all_steps_evaluated_is_bit_exact(method: dict[str, Any] | None) -> None:
    solver = Euler()
    put_on(solver, method)
    assert same(final(solver, bent), final(Euler(), bent))


def test_linear_velocity_is_exact_on_the_non_uniform_grid() -> None:
    for predict in [{"name": "taylor", "order": 1}, {"name": "taylor", "order": 2}, {"name": "anchored", "beta": 1.0}]:
        solver = Euler()
        _, report = put_on(solver, stride(3, predict))
        got, expected = final(solver, linear), final(Euler(), linear)
        assert report.solves[0].evaluated == [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)
    solver = Euler()
    put_on(solver, stride(3))
    assert not torch.allclose(final(solver, linear)["shape"], expected["shape"], atol=1e-3)


def test_held_and_extrapolated_steps_by_hand() -> None:
    """Grid 0, .1, .3, .6, 1 with stride 3 and warm-up 1: steps 0 and 3 run, 1 and 2 hold or extrapolate."""
    solver = Euler()
    put_on(solver, stride(3, {"name": "hold"}, warmup=1), ONE_LEAF)
    seen: list[float] = []

    def velocity(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return x + 1

    states = [
        float(x) for x, _ in solver.solve_iter(velocity, torch.zeros(1, dtype=torch.float64), [0, 0.1, 0.3, 0.6, 1])
    ]
    assert seen == [0, 0.6]
    assert states == pytest.approx([0.1, 0.3, 0.6, 0.6 + 0.4 * 1.6])


def test_beta_changes_layout_and_only_layout() -> None:
    """The leaves are independent here, so the layout predictor cannot affect shape through the dynamics."""

    def run(beta: float) -> dict[str, Tensor]:
        solver = Euler()
        put_on(solver, stride(3, {"shape": {"name": "taylor"}, "layout": {"name": "anchored", "beta": beta}}))
        return final(solver, bent)

    low, high = run(0.2), run(0.8)
    assert torch.equal(low["shape"], high["shape"])
    for name in ("scale", "translation"):
        assert not torch.equal(low[name], high[name])


def test_the_last_step_is_evaluated_for_any_count() -> None:
    for steps in range(1, 30):
        solver = Euler()
        _, report = put_on(solver, stride(4))
        final(solver, bent, time_grid(steps, 3.0).tolist())
        assert report.solves[0].evaluated[-1] == steps - 1
        assert report.solves[0].complete


@pytest.mark.parametrize("last", [False, True])
def test_a_schedule_is_asked_after_the_first_step_and_perhaps_not_for_the_last(last: bool) -> None:
    asked: list[int] = []

    class Noting(When):
        name, evaluates_last = "noting", last

        def start(self, times: Any, guidance: Any = None) -> Decide:
            return lambda step, history, x: bool(asked.append(step))

    solver, report = Euler(), Report()
    seam = SolveSeam(solver, STAGE)
    seam.add(Layer(report, True, replace(build_stage_method({}, STAGE.groups), when=Noting())))
    final(solver, bent, TIMES[:6])
    assert asked == ([1, 2, 3] if last else [1, 2, 3, 4])
    assert report.solves[0].calls == 1 + last


def test_arguments_and_keywords_reach_the_dynamics() -> None:
    solver, got = Euler(), []
    put_on(solver, stride(3))

    def dynamics(x: dict[str, Tensor], t: float, d: float, cond: Tensor, flag: str = "") -> dict[str, Tensor]:
        got.append((d, cond, flag))
        return linear(x, t)

    cond = torch.ones(2)
    list(solver.solve_iter(dynamics, state(), TIMES, 0.0, cond, flag="on"))
    assert len(got) == 10
    assert all(d == 0.0 and c is cond and flag == "on" for d, c, flag in got)


@pytest.mark.parametrize("times", [torch.tensor(TIMES), torch.tensor(TIMES, dtype=torch.float64), TIMES])
def test_grids_of_tensors_and_of_floats(times: Any) -> None:
    solver = Euler()
    _, report = put_on(solver, stride(3, {"name": "taylor"}))
    yielded = [t for _, t in solver.solve_iter(linear, state(), list(times) if isinstance(times, list) else times)]
    assert len(yielded) == 25
    assert [s.t for s in report.solves[0].steps] == pytest.approx(TIMES[:-1])
    assert report.solves[0].syncs == 1, "of the result: a grid on the host is not read from a device"


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_velocity_keeps_its_container_and_dtype(kind: type) -> None:
    kinds: list[tuple[type, torch.dtype]] = []

    class Spy(Euler):
        def step(self, dynamics_fn: Any, x_t: Any, t: Any, dt: Any, *args: Any, **kwargs: Any) -> Any:
            v = dynamics_fn(x_t, t)
            kinds.append((type(v), v["shape"].dtype))
            assert list(v) == list(reversed(list(x_t)))
            return {name: x_t[name] + v[name] * dt for name in x_t}

    def dynamics(x: dict[str, Tensor], t: float) -> dict[str, Tensor]:
        return kind((name, x[name].to(torch.bfloat16)) for name in reversed(list(x)))

    solver = Spy()
    _, report = put_on(solver, stride(3, {"name": "taylor"}))
    final(solver, dynamics)
    assert set(kinds) == {(kind, torch.bfloat16)}
    assert len(report.solves[0].evaluated) == 10


def test_a_prediction_that_is_not_finite_is_replaced_by_the_last_velocity() -> None:
    """Float16 velocities whose line overflows: 0 then 60000 extrapolates past 65504."""
    solver = Euler()
    _, report = put_on(solver, stride(3, {"name": "taylor"}), ONE_LEAF)
    ran: list[float] = []

    def dynamics(x: Tensor, t: float) -> Tensor:
        ran.append(t)
        return torch.tensor([0.0 if t == 0 else 60000.0 if t == 0.1 else 1.0], dtype=torch.float16)

    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0]
    result = final(solver, dynamics, times, torch.zeros(1))
    solve = report.solves[0]
    assert result.item() == pytest.approx(3 * 0.1 * 60000 + 0.6)
    assert ran == [0.0, 0.1, 0.4, 0.5]
    assert [s.step for s in solve.steps if s.fallback] == [2, 3]
    assert (solve.fallbacks, solve.saved) == (2, 2)
    assert solve.syncs == 1  # not one for each step


def test_non_finite_network_output_is_passed_through() -> None:
    solver = Euler()
    put_on(solver, stride(3))
    result = final(solver, lambda x, t: {name: leaf * float("nan") for name, leaf in x.items()})
    assert all(torch.isnan(leaf).all() for leaf in result.values())


def test_interleaved_solves_are_independent() -> None:
    solver = Euler()
    _, report = put_on(solver, stride(3, {"name": "taylor"}))
    alone = [
        [x for x, _ in solver.solve_iter(bent, start, times)]
        for start, times in [(state(), TIMES), ({k: -v for k, v in state().items()}, time_grid(17, 1.0).tolist())]
    ]
    first = solver.solve_iter(bent, state(), TIMES)
    second = solver.solve_iter(bent, {k: -v for k, v in state().items()}, time_grid(17, 1.0).tolist())
    mixed: list[list[Any]] = [[], []]
    for _ in range(25):
        for out, iterator in zip(mixed, (first, second), strict=True):
            step = next(iterator, None)
            if step is not None:
                out.append(step[0])
    assert [len(m) for m in mixed] == [25, 17]
    assert all(same(a, b) for m, n in zip(alone, mixed, strict=True) for a, b in zip(m, n, strict=True))
    assert len(report.solves) == 4
    assert [s.complete for s in report.solves[:2]] == [True, True]


def test_aborted_solve_leaves_no_state() -> None:
    solver = Euler()
    _, report = put_on(solver, stride(3, {"name": "taylor"}))
    expected = final(solver, bent)
    iterator = solver.solve_iter(bent, {k: v + 9 for k, v in state().items()}, TIMES)
    for _ in range(6):
        next(iterator)
    iterator.close()  # type: ignore[attr-defined]

    def failing(x: dict[str, Tensor], t: float) -> dict[str, Tensor]:
        if t > 0.2:
            raise KeyboardInterrupt
        return bent(x, t)

    with pytest.raises(KeyboardInterrupt):
        final(solver, failing)
    assert same(final(solver, bent), expected)
    assert [s.complete for s in report.solves] == [True, False, False, True]
    assert len(report.solves[1].steps) == 6


def test_reads_of_the_device_are_counted_for_the_step_that_makes_them() -> None:
    solver = Euler()
    _, report = put_on(solver, {"when": {"name": "budget", "warmup": 3}})
    final(solver, bent)
    reads = [step.syncs for step in report.solves[0].steps]
    assert reads[1:-1] == [1] * 23, "the size of the change, at every step but the first and the last"
    assert report.solves[0].syncs == sum(reads) + 1, "and whether the result is finite"


def test_unknown_state_type_runs_unaccelerated() -> None:
    """As in the stock `log_likelihood`, which solves for {x, log_p: float} on the same solver."""
    solver = Euler()
    _, report = put_on(solver, stride(3))
    ran: list[float] = []

    def dynamics(x: dict[str, Any], t: float) -> dict[str, Any]:
        ran.append(t)
        return {"x": x["x"], "log_p": 1.0}

    result = final(solver, dynamics, TIMES, {"x": torch.ones(1), "log_p": 0.0})
    assert len(ran) == 25
    assert result["log_p"] == pytest.approx(1.0)
    assert report.solves[0].saved == 0


@pytest.mark.parametrize("steps", [25, 12, 24])
def test_a_measured_path_warns_on_a_run_of_other_steps(steps: int, caplog: pytest.LogCaptureFixture) -> None:
    solver = Euler()
    _, report = put_on(solver, {"when": {"name": "path", "nodes": [0, 6, 12], "steps": 25, "guided": 0}})
    times = time_grid(steps, 3.0).tolist()
    final(solver, bent, times)
    assert not caplog.text, "the schedule was given by hand"
    report.schedule = "tuned.yaml"
    final(solver, bent, times)
    warned = f"ss: tuned.yaml was measured with 25 steps, and this run has {steps}: run with as many"
    assert (warned in caplog.text) == (steps != 25)
    caplog.clear()
    final(solver, bent, times, {**state(), "colour": torch.zeros(1, 1, 3)})
    assert "unknown state runs unaccelerated" in caplog.text and "measured" not in caplog.text
    put_on(other := Euler(), stride(3))[1].schedule = "tuned.yaml"
    final(other, bent, times)
    assert "measured" not in caplog.text, "a stride is the same for any number of steps"


def test_unknown_leaf_runs_unaccelerated(caplog: pytest.LogCaptureFixture) -> None:
    solver = Euler()
    _, report = put_on(solver, stride(3))
    x = {**state(), "colour": torch.zeros(1, 1, 3)}
    assert same(final(solver, bent, TIMES, x), final(Euler(), bent, TIMES, x))
    assert report.solves[0].saved == 0
    assert "unknown state runs unaccelerated" in caplog.text


def test_calls_of_unknown_dynamics_are_counted() -> None:
    solver = Euler()
    _, report = put_on(solver, stride(3))
    final(solver, bent)
    solve = report.solves[0]
    assert (solve.calls, solve.saved) == (10, 15)
    assert [s.tokens for s in solve.steps[:3]] == [6, 6, 0]  # 4 of shape, 1 each of scale and translation


def test_a_second_velocity_in_one_step_is_refused() -> None:
    solver = Midpoint()
    put_on(solver, stride(3))
    with pytest.raises(SolverError, match="second velocity in step 0"):
        final(solver, bent)


def test_observing_a_solver_that_is_not_euler() -> None:
    solver = Midpoint()
    _, report = put_on(solver, None)
    assert same(final(solver, bent), final(Midpoint(), bent))
    assert [s.network_calls for s in report.solves[0].steps] == [2] * 25


class Lazy(Euler):
    """An Euler that looks ahead: two velocities per step."""

    def step(self, dynamics_fn: Any, x_t: Any, t: float, dt: float, *args: Any, **kwargs: Any) -> Any:
        dynamics_fn(x_t, t + dt, *args, **kwargs)
        return super().step(dynamics_fn, x_t, t, dt, *args, **kwargs)


class Threefold(Euler):
    """Yields the velocity too, as the Fast-SAM3D fork's."""

    def solve_iter(self, *args: Any, **kwargs: Any) -> Any:
        for state, t in super().solve_iter(*args, **kwargs):
            yield state, t, state


class Renamed(Euler):
    """Still Euler."""


class Far(Euler):
    """Goes twice as far in every step."""

    def step(self, dynamics_fn: Any, x_t: Any, t: float, dt: float, *args: Any, **kwargs: Any) -> Any:
        return super().step(dynamics_fn, x_t, t, 2 * dt, *args, **kwargs)


class Short(Euler):
    """Half as far."""

    def step(self, dynamics_fn: Any, x_t: Any, t: float, dt: float, *args: Any, **kwargs: Any) -> Any:
        return super().step(dynamics_fn, x_t, t, dt / 2, *args, **kwargs)


@pytest.mark.parametrize("kind", [Midpoint, Lazy, Far, Short, object])
def test_other_solvers_are_refused_before_patching(kind: type) -> None:
    solver = kind()
    with pytest.raises(SolverError, match=r"slat: the solver"):
        require_euler(solver, "slat")
    assert not getattr(solver, "__dict__", {})


def test_solver_of_the_fork_is_named() -> None:
    with pytest.raises(SolverError, match=r"slat: the solver Threefold .* yields 3 values .* Fast-SAM3D fork"):
        require_euler(Threefold(), "slat")


def test_euler_check_leaves_no_trace() -> None:
    solver = Renamed()
    rng = torch.get_rng_state()
    require_euler(solver, "ss")
    _, report = put_on(solver, stride(3))
    require_euler(solver, "ss")
    assert report.solves == []
    assert torch.equal(rng, torch.get_rng_state())


def test_copy_uses_its_own_solver() -> None:
    class Scaled(Euler):
        factor = 1.0

        def step(self, dynamics_fn: Any, x_t: Any, t: float, dt: float, *args: Any, **kwargs: Any) -> Any:
            return super().step(dynamics_fn, x_t, t, dt * self.factor, *args, **kwargs)

    solver = Scaled()
    seam, report = put_on(solver, stride(3))
    double = copy.deepcopy(solver)
    double.factor = 2.0
    assert vars(double)["solve_iter"] is not seam
    moved = final(double, linear)["shape"] - state()["shape"]
    torch.testing.assert_close(moved, 2 * (final(solver, linear)["shape"] - state()["shape"]), rtol=1e-4, atol=1e-5)
    assert len(report.solves) == 1  # the copy has its own report


def test_a_patched_solver_can_be_pickled() -> None:
    solver = Euler()
    put_on(solver, stride(3))
    again = pickle.loads(pickle.dumps(solver))
    assert same(final(again, bent), final(solver, bent))
    assert again.solve_iter.owner() is again


def test_seam_creates_no_reference_cycle() -> None:
    solver = Euler()
    put_on(solver, stride(3))
    final(solver, bent)
    alive = weakref.ref(solver)
    gc.disable()
    try:
        del solver
        assert alive() is None
    finally:
        gc.enable()


def test_solve_iter_stays_lazy() -> None:
    """Like the generator function that it replaces: nothing runs before the first state is requested."""
    solver, ran = Euler(), []
    _, report = put_on(solver, stride(3))
    steps = solver.solve_iter(lambda x, t: ran.append(t) or linear(x, t), state(), TIMES)
    assert isinstance(steps, Iterator)
    assert (ran, report.solves) == ([], [])
