"""The published samplers: noise, time, guidance, and what a solve keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.exact import places
from fast_sam3d.model.config_file import SamplingConfig
from fast_sam3d.native.generators import latent_generator, structure_generator
from fast_sam3d.native.settings import PUBLISHED
from fast_sam3d.patch import Seam
from tests.native.flows import (
    BLOCKS,
    CONTEXT,
    SHAPES,
    SLAT,
    SS,
    WIDTH,
    alive,
    assert_equal,
    generator_of,
    given,
    sampled,
)


def test_noise_is_that_of_torchs_default_generator_in_sorted_order() -> None:
    class Still(nn.Module):
        def forward(self, x: dict[str, Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {name: torch.zeros_like(value) for name, value in x.items()}

    generator = generator_of("ss")
    generator.reverse_fn = Still()
    torch.manual_seed(5)
    found = generator(SHAPES, "cpu")
    torch.manual_seed(5)
    for name in sorted(SHAPES):
        assert torch.equal(found[name], torch.randn(SHAPES[name]))
    assert list(found) == list(SHAPES)
    assert sorted(SHAPES)[-1] != "shape"  # the order matters


def test_time_grids() -> None:
    assert structure_generator(SS, SamplingConfig())._prepare_t()[1] == (1 / 25) / (1 + 2 * (1 - 1 / 25))
    grid = latent_generator(SLAT, SamplingConfig(25, 1.0, rescale_t=1.0))._prepare_t()
    assert grid == torch.linspace(0, 1, 26).tolist()
    assert grid != torch.linspace(0, 1, 26, dtype=torch.float64).tolist()


@pytest.mark.parametrize(("stage", "calls"), [("ss", 44), ("slat", 38)])
def test_guidance_is_asked_for_as_often_as_published(stage: str, calls: int) -> None:
    """The structured latent has 25 steps and guidance 1: pipeline.yaml, not the sampler's own yaml, has the say."""
    sampling = PUBLISHED.ss_sampling if stage == "ss" else PUBLISHED.slat_sampling
    with recorded(generator := generator_of(stage, sampling)) as seen:
        sampled(generator, *given(stage, 0)[1:])
    assert len(seen) == calls
    if stage == "ss":
        assert {float(call["d"]) for call in seen} == {0.0}


def test_distillation_passes_the_step_size_and_drops_guidance() -> None:
    generator = generator_of("ss", SamplingConfig(5))
    for distilled in (True, False):
        # As `CommonStages.sample_sparse_structure` sets them.
        generator.no_shortcut, generator.guidance.strength = not distilled, 0.0 if distilled else 7.0
        with recorded(generator) as seen:
            sampled(generator, *given("ss", 0)[1:])
        assert {float(call["d"]) for call in seen} == {200.0 if distilled else 0.0}
        assert len(seen) == (5 if distilled else 9)


@contextmanager
def recorded(generator: Any) -> Iterator[list[dict[str, Any]]]:
    """The keyword arguments of the network's calls."""
    seen: list[dict[str, Any]] = []
    hook = generator.guidance.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    yield seen
    hook.remove()


@contextmanager
def counted(network: nn.Module, *projections: str) -> Iterator[dict[str, list[int]]]:
    """Rows that linear layers were given, by the last part of their names."""
    rows: dict[str, list[int]] = {name: [] for name in projections}
    named = {module: name.split(".")[-1] for name, module in network.named_modules()}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        rows[named[module]].append(inputs[0].shape[-2])

    hooks = [module.register_forward_hook(record) for module, name in named.items() if name in projections]
    yield rows
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_keys_and_values_are_computed_once_per_solve_and_freed(stage: str) -> None:
    generator, _ = alive(stage, 0)
    network, (_, cond, rest) = generator.guidance.backbone, given(stage, 0)
    users = BLOCKS * (2 if stage == "ss" else 1)
    network.keep_context = False
    with counted(network, "to_kv") as rows:
        plain = sampled(generator, cond, rest)
    assert rows["to_kv"].count(CONTEXT) == 4 * users
    network.keep_context = True
    for _ in range(2):
        with counted(network, "to_kv") as rows:
            assert_equal(sampled(generator, cond, rest), plain)
        assert rows["to_kv"].count(CONTEXT) == users
        assert network.context_bytes == 0
    iterator = generator.generate_iter(SHAPES if stage == "ss" else (1, 60, 8), "cpu", cond, *rest)
    with torch.no_grad():
        next(iterator)
    assert network.context_bytes == users * CONTEXT * 2 * WIDTH * 4
    iterator.close()
    assert network.context_bytes == 0
    assert not network._grids


def test_one_streams_keys_and_values_are_kept() -> None:
    generator, _ = alive("ss", 0)
    network, (_, cond, rest) = generator.guidance.backbone, given("ss", 0)
    plain = sampled(generator, cond, rest)
    network.keep_context = ("shape",)
    with counted(network, "to_kv") as rows:
        assert_equal(sampled(generator, cond, rest), plain)
    assert rows["to_kv"].count(CONTEXT) == BLOCKS * (1 + 4)


def test_a_changed_condition_and_interleaved_solves_keep_their_own() -> None:
    generator, _ = alive("ss", 0)
    conditions = [given("ss", seed)[1] for seed in (0, 1)]
    alone = [sampled(generator, cond, ()) for cond in conditions]
    with torch.no_grad():
        torch.manual_seed(0)
        first = generator.generate_iter(SHAPES, "cpu", conditions[0])
        states = [next(first)]
        torch.manual_seed(0)
        second = generator.generate_iter(SHAPES, "cpu", conditions[1])
        for one, other in zip(second, [*first, None], strict=True):
            states = [other or states[0], one]
    for (_, state, _), expected in zip(states, alone, strict=True):
        assert_equal(state, expected)


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_unconditional_cross_attention_is_one_vector(stage: str) -> None:
    generator, _ = alive(stage, 0)
    network, (x, cond, rest) = generator.guidance.backbone, given(stage, 0)
    call = {"cfg": True, **({"d": torch.zeros(1)} if stage == "ss" else {})}
    with torch.no_grad(), counted(network, "to_q") as rows:
        short = network(x, torch.tensor(300.0), cond, *rest, **call)
        assert rows["to_q"] == []
        network.constant_unconditional = False
        plain = network(x, torch.tensor(300.0), cond, *rest, **call)
        assert len(rows["to_q"]) == BLOCKS * (2 if stage == "ss" else 1)
    pack = (lambda v: v) if stage == "ss" else (lambda v: {"feats": v})
    assert_equal(pack(short), pack(plain), rtol=0, atol=1e-5)


EXACT = {"exact": {"context": True, "unconditional": True}}


@pytest.mark.parametrize("built_in", [False, True])
@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_seams_of_the_exact_savings_give_equal_results_on_top(stage: str, built_in: bool) -> None:
    pipeline = SimpleNamespace(models={f"{name}_generator": alive(name, 0)[0] for name in ("ss", "slat")})
    generator = pipeline.models[f"{stage}_generator"]
    network, (_, cond, rest) = generator.guidance.backbone, given(stage, 0)
    network.keep_context, network.constant_unconditional = None, False
    plain = sampled(generator, cond, rest)
    if built_in:
        network.keep_context, network.constant_unconditional = True, True
    with mock.patch.object(places, "_built_in", return_value=False), fast_sam3d.accelerated(pipeline, EXACT):
        attention = dict(network.cross_attentions()) if stage == "ss" else {"": network.blocks[0].cross_attn}
        for part in attention.values():
            assert isinstance(vars(part)["forward"], Seam)
            assert isinstance(vars(part.to_kv)["forward"], Seam)
        assert_equal(sampled(generator, cond, rest), plain, rtol=1e-5, atol=2e-5)


def test_exact_savings_add_nothing_to_what_is_built_in() -> None:
    pipeline = SimpleNamespace(models={f"{name}_generator": alive(name, 0)[0] for name in ("ss", "slat")})
    network = pipeline.models["slat_generator"].guidance.backbone
    assert network.built_in_savings == ("attention", "context", "unconditional")
    attention = network.blocks[0].cross_attn
    with fast_sam3d.accelerated(pipeline, EXACT):
        assert not {"forward"} & (set(vars(attention)) | set(vars(attention.to_kv)))
    network.keep_context = None  # left to `exact.context`
    with fast_sam3d.accelerated(pipeline, EXACT):
        assert "forward" in vars(attention.to_kv)
        assert "forward" not in vars(attention)
