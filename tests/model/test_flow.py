"""Generators, solvers and guidance on velocities in closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut, interpolate, time_grid
from fast_sam3d.model.solver import Euler, Midpoint, tree_map, tree_randn

SHAPES = {"shape": (1, 4, 2), "6drotation_normalized": (1, 1, 6)}


class Recorder(nn.Module):
    """Backbone that returns `value` (times 10 for the unconditional call) and records its calls."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value
        self.calls: list[dict] = []

    def forward(self, x, t, *args, **kwargs):
        self.calls.append({"t": t, "args": args, **kwargs})
        value = self.value * 10 if kwargs.get("cfg") else self.value
        return tree_map(lambda leaf: torch.full_like(leaf, value), x)


def test_time_grid_equals_the_published_one() -> None:
    grid = time_grid(25, 3.0)
    s = torch.arange(26, dtype=torch.float64) / 25
    torch.testing.assert_close(grid, s / (3 - 2 * s))
    assert grid[0] == 0
    assert grid[-1] == 1
    torch.testing.assert_close(time_grid(4), torch.tensor([0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 1"):
        time_grid(0)


def test_guidance_calls_the_network_44_times_in_25_steps() -> None:
    """25 steps, interval [0, 500], rescale_t 3: steps 0..18 are guided."""
    backbone = Recorder()
    generator = ShortCut(ClassifierFreeGuidance(backbone, strength=7.0), inference_steps=25, rescale_t=3.0)
    generator(SHAPES, "cpu", torch.ones(1))
    assert len(backbone.calls) == 44
    guided = [i for i, call in enumerate(backbone.calls) if call.get("cfg")]
    assert guided == list(range(1, 38, 2))


def test_guided_velocity_covers_every_leaf() -> None:
    guidance = ClassifierFreeGuidance(Recorder(2.0), strength=3.0)
    x = tree_randn(SHAPES, "cpu", torch.Generator())
    inside = guidance(x, torch.tensor([500.0]), torch.ones(1))
    outside = guidance(x, torch.tensor([500.1]), torch.ones(1))
    for name in SHAPES:
        torch.testing.assert_close(inside[name], torch.full(SHAPES[name], 4 * 2.0 - 3 * 20.0))
        torch.testing.assert_close(outside[name], torch.full(SHAPES[name], 2.0))


def test_guidance_does_not_modify_the_callers_keywords() -> None:
    backbone = Recorder()
    guidance = ClassifierFreeGuidance(backbone, strength=1.0)
    guidance({"shape": torch.zeros(1)}, torch.zeros(1), torch.ones(1), d=torch.zeros(1))
    assert "cfg" not in backbone.calls[0]
    assert backbone.calls[1]["cfg"] is True
    assert all("d" in call for call in backbone.calls)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="add_flag"):
        ClassifierFreeGuidance(Recorder(), unconditional_handling="zeros")
    with pytest.raises(ValueError, match="euler"):
        FlowMatching(Recorder(), solver_method="rk4")


@pytest.mark.parametrize("kind", [FlowMatching, ShortCut])
def test_constant_velocity_is_integrated_exactly(kind: type[FlowMatching]) -> None:
    generator = kind(Recorder(2.0), inference_steps=7, rescale_t=3.0, random_generator=torch.Generator())
    generator.random_generator.manual_seed(3)
    noise = tree_randn(SHAPES, "cpu", torch.Generator().manual_seed(3))
    result = generator(SHAPES, "cpu")
    for name in SHAPES:
        torch.testing.assert_close(result[name], noise[name] + 2.0)


def test_times_and_step_size_reach_the_network() -> None:
    backbone = Recorder()
    generator = ShortCut(backbone, inference_steps=4, no_shortcut=False)
    times = [t for t, _, _ in generator.generate_iter({"shape": (1, 2, 2)}, "cpu", "condition")]
    assert times == [0.0, 0.25, 0.5, 0.75]
    assert [call["t"].tolist() for call in backbone.calls] == [[0.0], [250.0], [500.0], [750.0]]
    assert all(call["d"].tolist() == [250.0] and call["args"] == ("condition",) for call in backbone.calls)
    generator.no_shortcut = True
    generator({"shape": (1, 2, 2)}, "cpu")
    assert backbone.calls[-1]["d"].tolist() == [0.0]
    flow = FlowMatching(backbone, inference_steps=2)
    flow((1, 3, 8), "cpu", "condition", "coords")
    assert backbone.calls[-1]["t"].shape == ()
    assert "d" not in backbone.calls[-1]


def test_solvers_have_their_order_of_convergence() -> None:
    """dx/dt = x from 1 to e; halving the step halves Euler's error and quarters the midpoint rule's."""

    def error(solver, steps: int) -> float:
        end = solver.solve(lambda x, t: x, torch.ones(1, dtype=torch.float64), time_grid(steps).tolist())
        return abs(float(end) - 2.718281828459045)

    assert 1.9 < error(Euler(), 40) / error(Euler(), 80) < 2.1
    assert 3.8 < error(Midpoint(), 40) / error(Midpoint(), 80) < 4.2


def test_noise_follows_the_default_generator_even_after_a_deep_copy() -> None:
    generator = copy.deepcopy(FlowMatching(Recorder(0.0), inference_steps=1))
    torch.manual_seed(5)
    first = generator(SHAPES, "cpu")
    torch.manual_seed(5)
    rotation, shape = torch.randn(1, 1, 6), torch.randn(1, 4, 2)
    assert torch.equal(first["6drotation_normalized"], rotation), "leaves are drawn in sorted key order"
    assert torch.equal(first["shape"], shape)
    assert list(first) == list(SHAPES)


def test_interpolate_matches_the_definition() -> None:
    data = {"b": torch.randn(3, 2, 4), "a": torch.randn(3, 1, 1)}
    noise = {"a": torch.randn(3, 1, 1), "b": torch.randn(3, 2, 4)}
    t = torch.tensor([0.0, 0.25, 1.0])
    x, v = interpolate(noise, data, t)
    for name in data:
        expected = (1 - t)[:, None, None] * noise[name] + t[:, None, None] * data[name]
        torch.testing.assert_close(x[name], expected)
        torch.testing.assert_close(v[name], data[name] - noise[name])
