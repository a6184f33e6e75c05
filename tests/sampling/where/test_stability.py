"""Holding of settled tokens against the rule written out step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fast_sam3d.errors import ConfigError
from fast_sam3d.model.solver import Euler
from fast_sam3d.patch import Layer
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.driver import SolveSeam, SolveStage
from fast_sam3d.sampling.exchange import Exchange
from fast_sam3d.sampling.where.stability import Stability
from fast_sam3d.telemetry import Report

EDGE, STEPS = 4, 25
TOKENS = EDGE**3
GRID = [s / (3 - 2 * s) for s in (i / STEPS for i in range(STEPS + 1))]
TARGET = torch.randn(1, TOKENS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def decode(decoder: Any, latent: Tensor) -> Tensor:
    """A token to the 8 voxels of its cell."""
    grid = latent[..., 0].reshape(1, 1, EDGE, EDGE, EDGE)
    for axis in (2, 3, 4):
        grid = grid.repeat_interleave(2, dim=axis)
    return grid


STAGE = SolveStage("ss", "shape", {"shape": ("shape",), "layout": ("scale",)}, decode=decode)


class Decoder:
    """Replaces the seam on the decoder."""

    def original(self) -> None:
        return None


def network(x: dict[str, Tensor], t: float) -> dict[str, Tensor]:
    t = float(t)
    data = TARGET + 2 * (1 - t) * torch.sin(60 * t + x["shape"])
    return {"shape": data - x["shape"] * (1 - t), "scale": x["scale"] * 0 + 1}


def start() -> dict[str, Tensor]:
    noise = torch.randn(1, TOKENS, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"shape": noise, "scale": torch.zeros(1, 1, 3, dtype=torch.float64)}


def solve(where: dict[str, Any], when: str = "always", decoder: Any = None) -> tuple[dict[str, Tensor], Any]:
    solver, report, scene = Euler(), Report(), Exchange()
    scene.decoder = Decoder() if decoder is None else decoder
    seam = SolveSeam(solver, STAGE)
    seam.add(
        Layer(
            report,
            True,
            build_stage_method({"when": {"name": when}, "where": where}, STAGE.groups, voxels=False),
            scene,
        )
    )
    return solver.solve(network, start(), GRID), report.solves[0]


def slow(full: float, decay: float, refresh: int, longest: int) -> tuple[np.ndarray, list[int]]:
    """The state at the end, and how many tokens were held at each step."""
    x, runs = start()["shape"][0].numpy(), [0] * TOKENS
    seen: list[tuple[np.ndarray, np.ndarray]] = []  # of every step: data, velocity
    counts, first = [], max(2, math.ceil(full * STEPS))
    flips = 0
    for step in range(STEPS):
        t = GRID[step]
        v = network({"shape": torch.as_tensor(x)[None], "scale": torch.zeros(1)}, t)["shape"][0].numpy()
        held: list[int] = []
        if step == 2:
            flips = 8 * int(((seen[1][0][:, 0] > 0) != (seen[0][0][:, 0] > 0)).sum())
        if first <= step < STEPS - 1 and (step - first) % refresh:
            budget = int(TOKENS - flips * math.exp(-decay * (step - 1)) / 8)
            size = np.linalg.norm(seen[-1][1], axis=1)
            change = np.linalg.norm(seen[-1][1] - seen[-2][1], axis=1)
            score = 0.3 * (size - size.min()) / (size.max() - size.min())
            if change.max() > change.min():  # not where all were held
                score = score + 0.7 * (change - change.min()) / (change.max() - change.min())
            free = [i for i in np.argsort(score, kind="stable").tolist() if runs[i] < longest]
            held = free[: max(0, budget)]
        elif step < STEPS - 1:
            runs = [0] * TOKENS
        if step < STEPS - 1:
            runs = [run + 1 if i in held else 0 for i, run in enumerate(runs)]
        v = v.copy()
        for i in held:
            v[i] = seen[-1][1][i]
        seen.append((x + (1 - t) * v, v))
        counts.append(len(held))
        x = x + (GRID[step + 1] - t) * v
    return x, counts


@pytest.mark.parametrize(
    ("full", "decay", "refresh", "longest"), [(0.2, 0.07, 8, 3), (0.1, 0.0, 4, 1), (0.4, 1, 30, 9)]
)
def test_solve_equals_the_slow_reference(full: float, decay: float, refresh: int, longest: int) -> None:
    settings = {"full": full, "decay": decay, "refresh": refresh, "longest": longest}
    got, record = solve({"name": "stability", **settings})
    expected, counts = slow(**settings)
    assert sum(count > 0 for count in counts) > 5 and len(set(counts)) > 2  # none, all, and a part
    np.testing.assert_allclose(got["shape"][0].numpy(), expected, rtol=0, atol=1e-5)
    assert record.evaluated == list(range(STEPS))
    assert torch.equal(got["scale"], torch.full((1, 1, 3), got["scale"].flatten()[0].item(), dtype=torch.float64))
    assert float(got["scale"][0, 0, 0]) == pytest.approx(1)


def test_only_late_steps_are_saved() -> None:
    _, record = solve({"name": "stability"}, when="late")
    assert record.evaluated == [*range(19), 21, 24]
    assert record.saved == 4


def test_full_is_bit_exact() -> None:
    plain = Euler().solve(network, start(), GRID)
    assert torch.equal(solve({"name": "stability", "full": 1.0})[0]["shape"], plain["shape"])
    assert torch.equal(solve({"name": "stability", "refresh": 1})[0]["shape"], plain["shape"])


def test_shape_that_cannot_be_decoded_runs_all_tokens(caplog: pytest.LogCaptureFixture) -> None:
    solver = Euler()
    seam = SolveSeam(solver, STAGE)
    seam.add(Layer(Report(), True, build_stage_method({"where": {"name": "stability"}}, STAGE.groups), Exchange()))
    assert torch.equal(solver.solve(network, start(), GRID)["shape"], Euler().solve(network, start(), GRID)["shape"])
    assert "cannot be decoded" in caplog.text


def test_refused_for_a_stage_of_voxels() -> None:
    with pytest.raises(ConfigError, match=r"slat\.where\.name is 'stability', which decodes .*: it fits ss, not slat"):
        build_stage_method({"where": {"name": "stability"}}, {"feats": ("feats",)}, path="slat", voxels=True)


@pytest.mark.parametrize("settings", [{"full": 2}, {"decay": -1}, {"refresh": 0}, {"longest": 0}, {"change": 1.1}])
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} is"):
        Stability(**settings)
