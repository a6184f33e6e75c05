"""Recorded solves put together and taken apart, and a structured latent that is sampled again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fast_sam3d.adapters.latent import latents_kept
from fast_sam3d.adapters.layout import _to_leaves, _to_tokens
from fast_sam3d.adapters.solves import RecordedSolve, merged, record
from fast_sam3d.bench.objects import BenchObject
from fast_sam3d.bench.runs import Given
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.driver import SolveStage
from fast_sam3d.sampling.precision import Autocast
from fast_sam3d.tune.problem import collect
from tests.beds import EMBEDDED
from tests.trellis_like import picture, random_image

STAGE = SolveStage("ss", "x", {"x": ("x",)})


def solve(value: float, objects: int = 1, **changes: Any) -> RecordedSolve:
    """v = c - x t, with the condition c [objects, 3], a time step size, and a label."""

    def dynamics(x: Tensor, t: float, condition: Tensor, label: str, d: Tensor) -> Tensor:
        assert label == "same" and d.shape == (1,)
        return condition - x * t

    start = torch.full((objects, 3), value) + torch.arange(objects)[:, None]
    made = RecordedSolve(
        STAGE, dynamics, start, [0.0, 0.5, 1.0], (10 * start, "same"), {"d": torch.ones(1)}, {}, Autocast(start.device),
        lambda call: call(),
    )  # fmt: skip
    return replace(made, **changes)


def test_a_merged_solve_takes_its_objects_from_each_and_gives_them_back() -> None:
    parts = [solve(1.0).solved(), solve(5.0, objects=2).solved()]
    both = merged(parts)
    assert both.objects == 3 and both.condition_shapes == ((3,), None, ())
    assert both.start.tolist() == [[1.0] * 3, [5.0] * 3, [6.0] * 3]
    for row, alone in ((0, parts[0]), (2, parts[1].some([1]))):
        one = both.some([row])
        assert one.objects == 1 and torch.equal(one.args[0], alone.args[0]) and one.args[1] == "same"
        assert torch.equal(one.kwargs["d"], torch.ones(1)), "has no row for each object"
        for state, expected in zip(one.states, alone.states, strict=True):
            assert torch.equal(state["x"], expected["x"])
        assert torch.equal(one.solved().states[-1]["x"], alone.states[-1]["x"])
    assert merged(parts[:1]) is parts[0] and parts[0].some([0]) is parts[0]


def test_a_solve_follows_euler_steps_on_its_grid() -> None:
    """From x = 1 with c = 10: 1 + .5 * 10 = 6, and 6 + .5 (10 - 6 * .5) = 9.5."""
    assert [state["x"].tolist() for state in solve(1.0).solved().states] == [[[1.0] * 3], [[6.0] * 3], [[9.5] * 3]]
    assert solve(1.0).calls == [1, 1]


def test_several_states_of_each_object_have_its_condition() -> None:
    both = solve(1.0, objects=2)
    states = torch.arange(12.0).reshape(4, 3)  # the first ones of both objects, then the second ones
    velocity = both.velocity({"x": states}, 1)["x"]
    assert torch.equal(velocity, both.args[0].repeat(2, 1) - states * 0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"times": [0.0, 0.4, 1.0]}, "different samplers"),
        ({"guidance": {"strength": 3.0}}, "different samplers"),
        ({"args": (torch.ones(1, 4), "same")}, "conditions of different shapes"),
    ],
)
def test_solves_that_do_not_fit_together_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FastSam3dError, match=f"ss: objects with {says}"):
        merged([solve(1.0), solve(2.0, **change)])
    assert merged([solve(1.0, **change), solve(2.0, **change)]).objects == 2


class Pipeline:
    device = torch.device("cpu")
    slat_mean, slat_std = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])

    def __init__(self) -> None:
        self.steps: list[int | None] = []

    def sample_slat(self, slat_input: Tensor, coords: Tensor, inference_steps: int | None = None) -> Any:
        self.steps.append(inference_steps)
        feats = (torch.randn(len(coords), 2) + slat_input) * self.slat_std + self.slat_mean
        return SimpleNamespace(feats=feats.half())


def test_a_latent_is_sampled_again_from_the_same_noise_and_the_generator_goes_on_as_before() -> None:
    pipeline, coords = Pipeline(), torch.zeros(5, 4)
    with latents_kept(SimpleNamespace(_pipeline=pipeline), seed=3) as kept:
        assert kept == []
        torch.manual_seed(8)
        latent = pipeline.sample_slat(torch.ones(1), coords, inference_steps=12)
    (sampling,) = kept
    assert "sample_slat" not in vars(pipeline)
    torch.manual_seed(3)
    expected = torch.randn(5, 2) + 1
    torch.testing.assert_close(sampling.feats, expected, atol=0.01, rtol=0)
    assert sampling.feats.dtype == torch.float32 and latent.feats.dtype == torch.float16
    before = torch.get_rng_state()
    assert torch.equal(sampling.again(), sampling.feats) and torch.equal(sampling.again(6), sampling.feats)
    assert torch.equal(torch.get_rng_state(), before)
    assert pipeline.steps == [12, None, 6]
    assert all(seconds > 0 for seconds in sampling.ended)


def test_what_had_replaced_the_sampling_is_restored() -> None:
    pipeline = Pipeline()
    pipeline.sample_slat = other = lambda *args, **kwargs: SimpleNamespace(feats=torch.ones(1, 2))  # type: ignore
    with pytest.raises(KeyError), latents_kept(pipeline) as kept:
        pipeline.sample_slat(1, 2)
        raise KeyError
    assert pipeline.sample_slat is other and kept[0].feats.tolist() == [[0.0, -0.25]]


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_the_layout_enters_and_leaves_in_the_networks_types(dtype: torch.dtype | None) -> None:
    """The latents project up to one channel more, and back."""
    latents = [
        SimpleNamespace(
            to_input=lambda x: torch.nn.functional.pad(x, (0, 1)), to_output=lambda x: x[..., :-1],
            out_layer=torch.nn.Linear(1, 1),
        )
        for _ in range(2)
    ]  # fmt: skip
    leaves = {"scale": torch.rand(2, 1, 3), "translation": torch.rand(2, 2, 3)}
    tokens = _to_tokens(list(leaves), latents, dtype, leaves)
    assert tokens.shape == (2, 3, 4) and tokens.dtype == (dtype or torch.float32)
    back = _to_leaves(list(leaves), latents, [1, 2], dtype, tokens)
    for name, leaf in leaves.items():
        assert back[name].dtype == torch.float32
        torch.testing.assert_close(back[name], leaf, atol=1e-3, rtol=0)


def test_solves_of_trellis_are_put_together_and_take_another_guidance() -> None:
    pipeline = random_image()
    pixels = np.asarray(picture())
    both = [BenchObject(str(k), Given(np.roll(pixels[..., :3], k, 0), pixels[..., 3])) for k in (0, 3)]
    solves = [collect(pipeline, item, seed) for seed, item in enumerate(both)]
    together = merged([each["ss"] for each in solves])
    assert together.calls == [2, 2, 2, 2, 2, 2, 2, 1]
    for number, each in enumerate(solves):
        one = each["ss"]
        torch.testing.assert_close(one.solved().states[-1], one.states[-1])
        twice = {name: torch.cat([leaf, leaf]) for name, leaf in together.states[3].items()}
        own = one.velocity(one.states[3], 3)["shape"]
        torch.testing.assert_close(together.velocity(twice, 3)["shape"][number::2], torch.cat([own, own]), rtol=1e-4,
                                   atol=1e-4)  # fmt: skip
    for stage, last in (("ss", 7), ("slat", 5)):
        one = solves[0][stage]
        other = one.under(one.grid, strength=0.0, interval=(0.9, 1.0))
        assert sum(other.calls) < sum(one.calls)
        name = one.stage.bare
        assert not torch.equal(other.velocity(one.leaves, 0)[name], one.velocity(one.leaves, 0)[name])
        torch.testing.assert_close(other.velocity(one.leaves, last)[name], one.velocity(one.leaves, last)[name])


def test_a_latent_of_trellis_is_sampled_again_from_the_same_noise() -> None:
    pipeline = random_image()
    with latents_kept(pipeline, seed=3) as kept:
        pipeline.run(picture(), formats=())
    assert torch.equal(kept[0].again(), kept[0].feats)
    assert not torch.equal(kept[0].again(3), kept[0].feats)
    assert "sample_slat" not in vars(pipeline)


@pytest.mark.parametrize("solve", [False, True])
def test_the_last_solve_is_only_begun_where_its_steps_are_not_wanted(solve: bool) -> None:
    pipeline = EMBEDDED.build()
    found = record(pipeline, lambda: EMBEDDED.raw(pipeline), solve=solve)
    assert found["ss"].states and bool(found["slat"].states) == solve
