"""Merging of cells against a slow implementation over voxels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.adapters.samplers import only_voxels, voxels_of
from fast_sam3d.errors import ConfigError
from fast_sam3d.model.solver import Euler
from fast_sam3d.patch import Layer
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.driver import SolveSeam, SolveStage
from fast_sam3d.sampling.exchange import Exchange
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.where import Merged
from fast_sam3d.sampling.where.tome import MergeCells
from fast_sam3d.telemetry import Report, SolveRecord

STAGE = SolveStage("slat", "feats", {"feats": ("feats",)}, coords=voxels_of, subset=only_voxels)


def voxels(count: int = 150, seed: int = 0, edge: int = 8) -> Tensor:
    grid = torch.argwhere(torch.ones(edge, edge, edge, dtype=torch.bool)).int()
    rows = grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(seed))[:count]]
    return torch.cat([torch.zeros(count, 1, dtype=torch.int32), rows], 1)


def history(coords: Tensor, seed: int = 1) -> History[Evaluation]:
    generator = torch.Generator().manual_seed(seed)
    x, v = (torch.randn(1, len(coords), 4, generator=generator) for _ in range(2))
    return History(1, [Evaluation(0.3, {"feats": x}, {"feats": v})])


def slow_merge(coords: Tensor, data: Tensor, share: float) -> tuple[list[int], list[int]]:
    """The voxels that enter, and for each voxel the one that it copies."""
    place = [tuple(row[1:]) for row in coords.tolist()]
    cell = [tuple(c // 2 for c in p) for p in place]
    block = {c: tuple(a // 2 for a in c) for c in cell}
    destination = {b: min(c for c in block if block[c] == b) for b in set(block.values())}
    mean = {c: torch.stack([data[i] for i in range(len(cell)) if cell[i] == c]).mean(0) for c in block}

    def likeness(c: tuple[int, ...]) -> float:
        return float(torch.cosine_similarity(mean[c], mean[destination[block[c]]], dim=0))

    sources = sorted((c for c in block if destination[block[c]] != c), key=lambda c: (-likeness(c), c))
    gone = set(sources[: int(share * len(block))])
    answers = []
    for i, c in enumerate(cell):
        if c not in gone:
            answers.append(i)
            continue
        target = destination[block[c]]

        def steps(j: int, i: int = i) -> tuple[int, int]:
            corner = [[p % 2 for p in place[k]] for k in (i, j)]
            return sum(a != b for a, b in zip(*corner, strict=True)), 4 * corner[1][0] + 2 * corner[1][1] + corner[1][2]

        answers.append(min((j for j in range(len(cell)) if cell[j] == target), key=steps))
    return [i for i, c in enumerate(cell) if c not in gone], answers


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("count", [40, 150])
def test_merging_against_a_slow_reference(share: float, count: int) -> None:
    coords = voxels(count)
    past = history(coords)
    merged = MergeCells(share, warmup=1).start(Tokens(coords))(4, past)
    assert isinstance(merged, Merged)
    data = (past[0].x["feats"] + 0.7 * past[0].v["feats"])[0]
    enters, answers = slow_merge(coords, data, share)
    assert merged.index.tolist() == enters
    assert merged.index[merged.source].tolist() == answers


def test_predicted_data_is_copied_instead_of_the_velocity() -> None:
    """By hand: two tokens at t = 0.5, both take the second's result, and end at 1 + 0.5 * 6 = 4."""
    merged = Merged(torch.tensor([1]), torch.tensor([0, 0]))
    x, fresh = torch.tensor([[[3.0], [1.0]]]), torch.tensor([[[6.0]]])
    velocity = merged.spread(x, fresh, 0.5)
    assert velocity.flatten().tolist() == [2.0, 6.0]
    assert (x + 0.5 * velocity).flatten().tolist() == [4.0, 4.0]


def solve(method: dict[str, Any] | None, coords: Tensor, targets: Tensor, steps: int = 12) -> tuple[Tensor, Any]:
    """Flow from noise to fixed data per voxel."""
    solver, report = Euler(), Report()
    seam = SolveSeam(solver, STAGE)
    seam.add(
        Layer(
            report, method is not None, None if method is None else build_stage_method(method, STAGE.groups), Exchange()
        )
    )
    lookup = {tuple(row): target for row, target in zip(coords.tolist(), targets, strict=True)}

    def network(x: Tensor, t: float, rows: Tensor) -> Tensor:
        data = torch.stack([lookup[tuple(row)] for row in rows.tolist()])[None]
        return (data - x) / (1 - t)

    x = torch.randn(1, len(coords), 4, generator=torch.Generator().manual_seed(2))
    return solver.solve(network, x, [i / steps for i in range(steps + 1)], coords), report.solves[0]


def test_merged_tokens_take_the_data_of_their_destination() -> None:
    """Data that are equal in each block, so merging loses nothing but noise."""
    coords = voxels(400)
    block = (coords[:, 1:] // 4).float()
    targets = torch.stack([block[:, 0], block[:, 1], block[:, 2], block.sum(1)], dim=1)
    method = {"where": {"name": "tome", "merge": 0.6, "warmup": 2}}
    result, record = solve(method, coords, targets)
    torch.testing.assert_close(result[0], targets, rtol=0, atol=1e-5)
    assert isinstance(record, SolveRecord)
    tokens = [step.tokens for step in record.steps]
    assert tokens[:2] == [400, 400] and tokens[-1] == 400
    assert all(100 < count < 240 for count in tokens[2:-1])


def test_last_step_restores_detail_lost_by_merging() -> None:
    coords = voxels(100)
    targets = torch.randn(100, 4, generator=torch.Generator().manual_seed(3))
    result, _ = solve({"where": {"name": "tome", "merge": 0.5}}, coords, targets)
    torch.testing.assert_close(result[0], targets, rtol=0, atol=1e-5)  # this network is exact at any step


def test_merge_of_zero_is_bit_exact() -> None:
    coords = voxels(100)
    targets = torch.randn(100, 4, generator=torch.Generator().manual_seed(3))
    plain, _ = solve(None, coords, targets)
    for where in ({"name": "tome", "merge": 0.0}, {"name": "tome", "warmup": 99}):
        assert torch.equal(solve({"where": where}, coords, targets)[0], plain)
    apart = torch.tensor([[0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 8, 0]], dtype=torch.int32)
    assert MergeCells(0.8, warmup=1).start(Tokens(apart))(3, history(apart)) is None


@pytest.mark.parametrize("settings", [{"merge": 0.9}, {"merge": -0.1}, {"warmup": 0}])
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} is"):
        MergeCells(**settings)
