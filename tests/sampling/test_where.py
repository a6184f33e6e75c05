"""Choices of tokens, as pure functions and under the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.adapters.samplers import only_voxels, voxels_of
from fast_sam3d.model.solver import Euler
from fast_sam3d.patch import Layer
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.driver import SolveSeam, SolveStage
from fast_sam3d.sampling.exchange import Exchange
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.tokens import Tokens, cells, high_frequency
from fast_sam3d.sampling.where import WHERE
from fast_sam3d.sampling.where.everywhere import All
from fast_sam3d.sampling.where.random_cells import RandomCells
from fast_sam3d.sampling.where.saliency import Saliency, unit
from fast_sam3d.telemetry import Report

STAGE = SolveStage("slat", "feats", {"feats": ("feats",)}, coords=voxels_of, subset=only_voxels)


def voxels(count: int = 60, seed: int = 0) -> Tensor:
    grid = torch.argwhere(torch.ones(6, 6, 6, dtype=torch.bool)).int()
    rows = grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(seed))[:count]]
    return torch.cat([torch.zeros(count, 1, dtype=torch.int32), rows], 1)


def history(*velocities: Tensor) -> History[Evaluation]:
    past: History[Evaluation] = History(len(velocities))
    for step, v in enumerate(velocities):
        past.push(Evaluation(step / 10, {"feats": v}, {"feats": v}))
    return past


def velocities(count: int, seed: int) -> Tensor:
    return torch.randn(1, count, 4, generator=torch.Generator().manual_seed(seed))


def chosen_cells(index: Tensor, coords: Tensor) -> set[tuple[int, ...]]:
    return {tuple((row[1:] // 2).tolist()) for row in coords[index]}


def slow_saliency(coords: Tensor, now: Tensor, before: Tensor, detail: Tensor, gamma: float) -> dict[Any, float]:
    """Mean J of every cell, token by token."""

    def scaled(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(v - low) / (high - low) for v in values]

    m = scaled([v.norm().item() for v in now[0]])
    a = scaled([(v - w).norm().item() for v, w in zip(now[0], before[0], strict=True)])
    s = scaled(detail.tolist())
    found: dict[Any, list[float]] = {}
    for i, row in enumerate(coords.tolist()):
        score = 0.5 * (m[i] + gamma * a[i]) + 0.5 * s[i]
        found.setdefault(tuple(c // 2 for c in row[1:]), []).append(score)
    return {cell: sum(scores) / len(scores) for cell, scores in found.items()}


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_saliency_against_a_slow_reference(keep: float, gamma: float) -> None:
    coords, logits = voxels(), torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(5))
    before, now = velocities(60, 1), velocities(60, 2)
    choose = Saliency(keep, gamma, cutoff=0.2, warmup=1).start(Tokens(coords, logits))
    index = choose(4, history(before, now))
    assert index is not None
    scores = slow_saliency(coords, now, before, high_frequency(logits, coords, 0.2), gamma)
    kept = -(-len(scores) * keep // 1)
    best = set(sorted(scores, key=lambda cell: -scores[cell])[: int(kept)])
    assert chosen_cells(index, coords) == best
    assert index.tolist() == [i for i, row in enumerate(coords.tolist()) if tuple(c // 2 for c in row[1:]) in best]


@pytest.mark.parametrize("where", [Saliency(0.2), RandomCells(0.2)])
def test_whole_cells_in_ascending_order(where: Saliency | RandomCells) -> None:
    coords = voxels(120)
    index = where.start(Tokens(coords))(3, history(velocities(120, 1), velocities(120, 2)))
    assert index is not None and index.dtype == torch.int64
    assert index.tolist() == sorted(set(index.tolist()))
    _cell, count = cells(coords)
    inside = chosen_cells(index, coords)
    assert len(inside) == -(-count * 2 // 10)
    assert len(index) == sum(tuple((row[1:] // 2).tolist()) in inside for row in coords)


@pytest.mark.parametrize("where", [All(), Saliency(keep=1.0), RandomCells(keep=1.0), Saliency(keep=0.99)])
def test_keep_of_one_chooses_all_tokens(where: Any) -> None:
    few = voxels(3)
    assert where.start(Tokens(few))(5, history(velocities(3, 0))) is None


@pytest.mark.parametrize("where", [Saliency(0.2, warmup=4), RandomCells(0.2, warmup=4)])
def test_warmup_steps_run_on_all_tokens(where: Any) -> None:
    choose = where.start(Tokens(voxels()))
    past = history(velocities(60, 1), velocities(60, 2))
    assert [choose(step, past) is None for step in range(1, 7)] == [True, True, True, False, False, False]


def test_unknown_voxels_choose_all_tokens() -> None:
    for kind in WHERE.values():
        assert kind().start(None)(9, history(velocities(6, 0))) is None


def test_equal_scores_choose_the_first_cells() -> None:
    coords = voxels()
    still = torch.ones(1, 60, 4)
    index = Saliency(0.25).start(Tokens(coords))(9, history(still, still))
    assert index is not None
    cell, _ = cells(coords)
    assert set(cell[index].tolist()) == set(range(len(set(cell[index].tolist()))))
    assert unit(torch.full((3,), 2.0)).tolist() == [0, 0, 0]


def test_random_cells_change_per_step_and_repeat_with_the_seed() -> None:
    coords, past, state = voxels(), history(velocities(60, 1)), torch.get_rng_state()

    def two(seed: int) -> list[list[int]]:
        choose = RandomCells(0.3, seed, warmup=1).start(Tokens(coords))
        return [index.tolist() for index in (choose(3, past), choose(4, past)) if index is not None]

    assert two(0) == two(0) != two(1)
    assert two(0)[0] != two(0)[1]
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------- the driver


class Network:
    """A velocity per voxel that depends on its position; records its inputs."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, x: Tensor, t: float, cond: Tensor, coords: Any) -> Tensor:
        coords = torch.as_tensor(coords)
        assert x.shape[1] == len(coords)
        self.given.append(coords.clone())
        return torch.sin(3 * x + t) + coords[None, :, 1:].float().sum(-1, keepdim=True) * 0.1 + cond


def solve(method: Mapping[str, Any] | None, coords: Any, steps: int = 12) -> tuple[Tensor, Network, Report]:
    solver, network, report = Euler(), Network(), Report()
    if method is not None:
        seam = SolveSeam(solver, STAGE)
        seam.add(Layer(report, True, build_stage_method(method, STAGE.groups), Exchange()))
    x = torch.randn(1, len(coords), 4, generator=torch.Generator().manual_seed(9))
    times = [i / steps for i in range(steps + 1)]
    return solver.solve(network, x, times, torch.ones(1), coords), network, report


@pytest.mark.parametrize("as_array", [True, False])
def test_only_chosen_voxels_reach_the_network(as_array: bool) -> None:
    coords = voxels(120)
    given = coords.numpy() if as_array else coords
    _, network, report = solve({"where": {"name": "saliency", "keep": 0.25, "warmup": 2}}, given)
    sizes = [len(rows) for rows in network.given]
    assert sizes[:2] == [120, 120] and sizes[-1] == 120
    assert all(size < 60 for size in sizes[2:-1])
    assert [record.tokens for record in report.solves[0].steps] == sizes
    assert report.solves[0].saved == 0


def test_a_method_for_all_tokens_does_not_look_at_voxels(caplog: pytest.LogCaptureFixture) -> None:
    _, network, report = solve({"when": {"name": "stride"}}, voxels(120)[:, :3])
    assert not caplog.text and report.solves[0].saved > 0
    assert {len(rows) for rows in network.given} == {120}


def test_other_voxels_keep_their_velocity() -> None:
    """Compared with a plain Euler loop that uses masks."""
    coords, steps = voxels(120), 12
    where = RandomCells(0.4, seed=3, warmup=2)
    got, _, _ = solve({"where": {"name": "random", "keep": 0.4, "seed": 3, "warmup": 2}}, coords, steps)
    x = torch.randn(1, 120, 4, generator=torch.Generator().manual_seed(9))
    choose, network, v = where.start(Tokens(coords)), Network(), torch.zeros_like(x)
    for step in range(steps):
        fresh = network(x, step / steps, torch.ones(1), coords)
        index = None if step in (0, steps - 1) else choose(step, history(v))
        if index is None:
            v = fresh
        else:
            v = v.clone()
            v[:, index] = fresh[:, index]
        x = x + v * (1 / steps)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-5)


def test_all_voxels_is_bit_exact() -> None:
    coords = voxels(120)
    plain, _, _ = solve(None, coords)
    kept, _, _ = solve({"where": {"name": "saliency", "keep": 1.0}}, coords)
    assert torch.equal(plain, kept)


def test_step_caching_combined_with_token_choice() -> None:
    method = {
        "when": {"name": "budget", "threshold": 0.3, "warmup": 3},
        "where": {"name": "saliency", "keep": 0.25},
        "predict": {"name": "offset"},
    }
    result, network, report = solve(method, voxels(120), 25)
    (record,) = report.solves
    tokens = [step.tokens for step in record.steps]
    assert tokens[:3] == [120] * 3 and tokens[-1] == 120
    assert 0 in tokens[3:-1] and any(0 < count < 120 for count in tokens[3:-1])
    assert len(network.given) == len(record.evaluated) < 25
    assert result.isfinite().all()


def test_mismatched_coords_run_all_tokens(caplog: pytest.LogCaptureFixture) -> None:
    solver, report = Euler(), Report()
    seam = SolveSeam(solver, STAGE)
    seam.add(Layer(report, True, build_stage_method({"where": {"name": "saliency"}}, STAGE.groups), Exchange()))
    sizes = []

    def dynamics(x: Tensor, t: float, coords: Tensor) -> Tensor:
        sizes.append(x.shape[1])
        return x

    solver.solve(dynamics, torch.ones(1, 50, 4), [i / 9 for i in range(10)], voxels(49))
    assert sizes == [50] * 9
    assert "so all tokens run" in caplog.text


def test_voxels_passed_as_a_keyword() -> None:
    coords = voxels(10)
    index = torch.tensor([2, 5])
    assert voxels_of(None, (), {"coords": coords}) is coords
    x = torch.randn(1, 10, 3)
    few, args, kwargs = only_voxels(x, ("cond",), {"coords": coords, "d": 1}, index, index)
    assert torch.equal(few, x[:, index])
    assert args == ("cond",) and kwargs["d"] == 1
    assert torch.equal(kwargs["coords"], coords[index])
    assert voxels_of(None, (torch.ones(3),), {}) is None
