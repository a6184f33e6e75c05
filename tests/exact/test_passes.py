"""Reuse of encoder passes on a pipeline of the embedded classes."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.bench.operations import OFF
from fast_sam3d.exact.passes import LIMITS, Pass, Passes, PassSeam, same_bits
from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.patch import seam_at
from tests.beds import EMBEDDED, differing, random_state
from tests.fakes import same_vars, snapshot
from tests.minis import CONFIG, enliven, random_mini, rgba


def only(*savings: str) -> dict[str, Any]:
    return {"exact": {**OFF.settings(), **dict.fromkeys(savings, True)}}


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    """With two embedders of equal weights."""
    torch.manual_seed(0)
    pipeline = random_mini()
    first = pipeline.condition_embedders["ss_condition_embedder"]
    second = ConditionEmbedder(CONFIG.ss_embedder).eval().requires_grad_(False)
    second.load_state_dict(first.state_dict())
    pipeline.condition_embedders["slat_condition_embedder"] = second
    EMBEDDED.run(pipeline)
    return pipeline


@pytest.fixture
def pipeline(shared: Pipeline) -> Iterator[Pipeline]:
    before = snapshot(shared)
    yield shared
    assert same_vars(before, snapshot(shared))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The embedders that actually ran, by identity."""
    ran: list[int] = []
    forward = ConditionEmbedder.forward

    def counting(self: ConditionEmbedder, *args: Any, **kwargs: Any) -> Tensor:
        ran.append(id(self))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ConditionEmbedder, "forward", counting)  # the class: an instance's forward is what is patched
    return ran


def embedders(pipeline: Pipeline) -> tuple[ConditionEmbedder, ConditionEmbedder]:
    return tuple(pipeline.condition_embedders.values())  # type: ignore[return-value]


def inputs(pipeline: Pipeline, seed: int = 0) -> tuple[Tensor, ...]:
    generator, size = torch.Generator().manual_seed(seed), pipeline.config.ss_embedder.image_size
    shapes = ((3, size, size), (1, size, size), (3, size, size), (pipeline.config.ss_embedder.descriptor_channels,))
    return tuple(torch.rand(1, *shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize(
    ("savings", "made"),
    [((), [2, 2]), (("embedders",), [1, 1]), (("images",), [2, 0]), (("embedders", "images"), [1, 0])],
)
def test_each_input_is_encoded_once(
    savings: tuple[str, ...], made: list[int], pipeline: Pipeline, passes: list[int]
) -> None:
    plain = [EMBEDDED.run(pipeline, seed=seed) for seed in (0, 1)]
    state, counts = random_state(), []
    with fast_sam3d.accelerated(pipeline, only(*savings)):
        for seed in (0, 1):
            passes.clear()
            assert differing(EMBEDDED.run(pipeline, seed=seed), plain[seed]) == set()
            counts.append(len(passes))
    assert counts == made
    assert random_state() == state


def test_shared_embedder_runs_once(passes: list[int]) -> None:
    pipeline = random_mini()
    plain = EMBEDDED.run(pipeline)
    passes.clear()
    with fast_sam3d.accelerated(pipeline, only("embedders")):
        assert differing(EMBEDDED.run(pipeline), plain) == set()
    assert len(passes) == 1


def test_new_image_is_encoded_again(pipeline: Pipeline, passes: list[int]) -> None:
    moved = np.roll(rgba(), 4, axis=1)
    plain = pipeline.run(moved, seed=0, decode_formats=[])
    with fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        EMBEDDED.run(pipeline)
        passes.clear()
        kept = pipeline.run(moved, seed=0, decode_formats=[])
        assert len(passes) == 1
    assert torch.equal(kept["shape"], plain["shape"])


def scaled(second: ConditionEmbedder) -> None:
    with torch.no_grad():
        second.patch_embed.weight[0, 0] += 1e-3


def other_norm(second: ConditionEmbedder) -> None:
    second.blocks[0].norm1.eps = 1e-3


def wrapped(second: ConditionEmbedder) -> None:
    forward = second.blocks[0].mlp.forward
    second.blocks[0].mlp.forward = lambda x: forward(x) * 2


def other_kind(second: ConditionEmbedder) -> None:
    class Doubled(ConditionEmbedder):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return 2 * super().forward(*args, **kwargs)

    second.__class__ = Doubled


def not_kept(second: ConditionEmbedder) -> None:
    second.register_buffer("pos_emb", second.pos_emb * 2, persistent=False)


@pytest.mark.parametrize("change", [scaled, other_norm, wrapped, other_kind, not_kept])
def test_different_embedders_share_no_passes(
    change: Callable[[Any], None],
    shared: Pipeline,
    passes: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipeline = copy.deepcopy(shared)
    change(embedders(pipeline)[1])
    plain = EMBEDDED.run(pipeline)
    passes.clear()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        for count in (2, 2):
            assert differing(EMBEDDED.run(pipeline), plain) == set()
            assert len(passes) == count  # both runs together
    assert len([record for record in caplog.records if "no two image encoders have equal" in record.message]) == 1


@pytest.mark.parametrize("change", [scaled, other_norm, wrapped, other_kind, not_kept])
def test_a_change_between_two_runs_is_detected(
    change: Callable[[Any], None], shared: Pipeline, passes: list[int]
) -> None:
    pipeline = copy.deepcopy(shared)
    with fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        EMBEDDED.run(pipeline)
        change(embedders(pipeline)[1])
        passes.clear()
        after = EMBEDDED.run(pipeline)
        assert passes == [id(embedders(pipeline)[1])]
    assert differing(EMBEDDED.run(pipeline), after) == set()


def with_hooks(embedder: ConditionEmbedder) -> None:
    embedder.blocks[0].register_forward_hook(lambda module, args, output: output * 2)


def in_training(embedder: ConditionEmbedder) -> None:
    embedder.blocks[0].train()


def random(embedder: ConditionEmbedder) -> None:
    class Noisy(ConditionEmbedder):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            tokens = super().forward(*args, **kwargs)
            return tokens + torch.randn(tokens.shape)

    embedder.__class__ = Noisy


def odd(embedder: ConditionEmbedder) -> None:
    class Odd(ConditionEmbedder):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs).expand(2, -1, -1)[:1].as_subclass(Kind)

    embedder.__class__ = Odd


class Kind(Tensor):
    """A tensor subclass with unknown behaviour."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_hooks, "its part 'blocks.0' has hooks"),
        (in_training, "its part 'blocks.0' is in training mode"),
        (random, "it draws random numbers"),
        (odd, "it takes or returns a Kind"),
    ],
)
def test_an_encoder_of_another_kind_is_skipped_with_a_log_message(
    change: Callable[[Any], None],
    reason: str,
    shared: Pipeline,
    passes: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipeline = copy.deepcopy(shared)
    for embedder in embedders(pipeline):
        change(embedder)
    torch.manual_seed(5)
    plain = [EMBEDDED.run(pipeline), EMBEDDED.run(pipeline)]
    torch.manual_seed(5)
    passes.clear()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        got = [EMBEDDED.run(pipeline), EMBEDDED.run(pipeline)]
    assert len(passes) == 4
    assert [differing(a, b) for a, b in zip(got, plain, strict=True)] == [set(), set()]
    said = [record.message for record in caplog.records if reason in record.message]
    assert [line.split(":")[0] for line in said] == ["ss_condition_embedder", "slat_condition_embedder"]


def test_compiled_embedder_shares_no_passes(shared: Pipeline, passes: list[int]) -> None:
    """As the stock compile_model=True leaves them."""
    pipeline = copy.deepcopy(shared)
    first, _ = embedders(pipeline)
    forward = first.forward
    first.forward = lambda *args: forward(*args) * 1.5  # type: ignore[method-assign]
    plain = EMBEDDED.run(pipeline)
    before = snapshot(pipeline)
    with fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        for made in (2, 0):
            passes.clear()
            assert differing(EMBEDDED.run(pipeline), plain) == set()
            assert len(passes) == made
    assert same_vars(before, snapshot(pipeline))


def test_embedders_that_are_called_in_one_are_skipped_with_a_log_message(
    shared: Pipeline, passes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """As the stock `InferencePipeline._compile` leaves them."""
    pipeline = copy.deepcopy(shared)
    embed = pipeline.embed_condition
    pipeline.embed_condition = lambda *args: embed(*args)  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        EMBEDDED.run(pipeline)
        assert not any(isinstance(seam_at(part, "forward"), PassSeam) for part in embedders(pipeline))
    assert len(passes) == 2
    assert [r.message for r in caplog.records if "compiled or wrapped" in r.message]


def test_an_encoder_that_is_compiled_in_place_is_skipped_with_a_log_message(
    shared: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = copy.deepcopy(shared)
    first, second = embedders(pipeline)
    first.compile(backend="eager")
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, only("images")):
        assert seam_at(first, "forward") is None
        assert isinstance(seam_at(second, "forward"), PassSeam)
    assert [r.message for r in caplog.records if r.message.startswith("ss_condition_embedder: ")]


@torch.no_grad()
def test_stored_passes_are_copies(pipeline: Pipeline, passes: list[int]) -> None:
    first, second = embedders(pipeline)
    given = inputs(pipeline)
    want = first(*given)
    passes.clear()
    with fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        for embedder in (first, second, first):
            tokens = embedder(*given)
            assert torch.equal(tokens, want)
            tokens.zero_()  # as the stock embedder adds to its tokens in place
        assert len(passes) == 1
        given[0].mul_(0.5)  # the same tensor with another content
        assert not torch.equal(first(*given), want)
        assert len(passes) == 2


@torch.no_grad()
def test_other_settings_need_another_pass(pipeline: Pipeline, passes: list[int]) -> None:
    first, _ = embedders(pipeline)
    given = inputs(pipeline)
    with fast_sam3d.accelerated(pipeline, only("images")):
        plain = first(*given)
        with torch.autocast("cpu", torch.bfloat16):
            half = first(*given)
            assert torch.equal(first(*given), half)
        assert not torch.equal(half, plain)
        assert torch.equal(first(*given), plain)
    assert len(passes) == 2


def test_stored_tensors_outlive_inference_mode(pipeline: Pipeline, passes: list[int]) -> None:
    first, _ = embedders(pipeline)
    given = inputs(pipeline)
    with fast_sam3d.accelerated(pipeline, only("images")):
        with torch.inference_mode():
            assert first(*given).is_inference()
            assert first(*given).is_inference()
        with torch.no_grad():
            assert not first(*given).is_inference()
        first.requires_grad_(True)
        assert first(*given).requires_grad  # with gradients the pass is not shared
        first.requires_grad_(False)
    assert len(passes) == 2


@torch.no_grad()
def test_the_cache_is_bounded(pipeline: Pipeline, passes: list[int]) -> None:
    first, _ = embedders(pipeline)
    assert LIMITS == {"encoder": 16, "depth": 2}  # of which the docs give the memory
    count = LIMITS["encoder"] + 1
    with fast_sam3d.accelerated(pipeline, only("images")):
        for seed in (*range(count), 1, 0, 1):  # 0 went to make room, and then 2
            first(*inputs(pipeline, seed))
        assert len(passes) == count + 1
        (kept,) = known()
        stored = kept.stored["encoder"]
        assert len(stored) == LIMITS["encoder"]
        assert [tensor.shape for tensor in stored[0].given] == [tensor.shape for tensor in inputs(pipeline)]


def known() -> list[Passes]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is Passes and any(thing.stored.values())]


def test_cache_is_freed_after_runs_without_images_and_on_removal(pipeline: Pipeline) -> None:
    with fast_sam3d.accelerated(pipeline, only("embedders")):
        EMBEDDED.run(pipeline)
        assert known() == []
        decoder = pipeline.models["ss_decoder"]
        hook = decoder.register_forward_pre_hook(lambda module, args: 1 / 0)
        try:
            with pytest.raises(ZeroDivisionError):
                EMBEDDED.run(pipeline)
        finally:
            hook.remove()
        assert known() == []
    handle = fast_sam3d.accelerate(pipeline, only("images"))
    EMBEDDED.run(pipeline)
    assert len(known()) == 1
    replaced = fast_sam3d.accelerate(pipeline, only("images"))
    assert known() == []
    EMBEDDED.run(pipeline)
    replaced.remove()
    assert known() == []
    assert not handle.active  # the handles still exist, and hold nothing


def test_deep_copy_starts_with_an_empty_cache(pipeline: Pipeline, passes: list[int]) -> None:
    with fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        want = EMBEDDED.run(pipeline)
        twin = copy.deepcopy(pipeline)
    passes.clear()
    assert differing(EMBEDDED.run(twin), want) == set()
    assert passes == [id(embedders(twin)[0])]
    with torch.no_grad():
        for embedder in embedders(twin):
            for parameter in embedder.parameters():
                parameter.mul_(1.1)
    assert differing(EMBEDDED.run(twin), want) >= {"shape"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.int32])
def test_results_are_bit_identical(dtype: torch.dtype) -> None:
    a = torch.randn(3, 4).mul(5).to(dtype)
    assert same_bits(a, a.clone())
    assert same_bits(a[0, 0], a[0, 0].clone())
    assert not same_bits(a, a.t().contiguous().t())
    assert not same_bits(a, a.reshape(4, 3))
    b = a.clone()
    b[2, 3] += 1
    assert not same_bits(a, b)
    if dtype.is_floating_point:
        zero, unknown = torch.zeros(2, dtype=dtype), torch.full((2,), torch.nan, dtype=dtype)
        assert not same_bits(zero, -zero)
        assert same_bits(unknown, unknown.clone())


def number(module: nn.Module) -> int:
    return PASSES.number(module, share=True)


PASSES = Passes()


def test_equal_encoders_have_equal_numbers() -> None:
    class Part(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.steps = [1, (size, "a"), {"b": torch.float32}]
            self.layer = nn.Linear(2, 2)

    one, two, three = (Part(size).eval() for size in (1, 1, 2))
    enliven([one])
    two.load_state_dict(one.state_dict())
    three.load_state_dict(one.state_dict())
    assert number(one) == number(two) == number(one)
    assert number(one) != number(three)


@torch.no_grad()
def test_changed_weights_give_another_number() -> None:
    def replace(layer: nn.Linear) -> None:
        layer.weight = nn.Parameter(layer.weight.clone())

    def replace_data(layer: nn.Linear) -> None:
        layer.bias.data = layer.bias.data.clone()

    layer = nn.Linear(2, 2).eval()
    layer.offset, layer.nothing = torch.ones(2), nn.Identity().eval()
    seen = {number(layer)}
    for change in (
        lambda layer: layer.weight.mul_(1.5),
        lambda layer: layer.weight.detach()[0].zero_(),
        lambda layer: layer.load_state_dict(layer.state_dict()),
        replace,
        replace_data,
        lambda layer: layer.half().float(),
        lambda layer: layer.offset.mul_(2),
        lambda layer: setattr(layer, "offset", torch.ones(2)),
        lambda layer: setattr(layer, "steps", 3),
    ):
        change(layer)
        assert number(layer) not in seen
        seen.add(number(layer))


def test_networks_whose_weights_are_gone_are_forgotten() -> None:
    passes, network, other = Passes(), nn.Linear(2, 2).eval(), nn.Linear(3, 3).eval()
    stays = passes.number(other, share=True)
    for _ in range(3):
        first = passes.number(network, share=True)
        assert first != stays
        passes.stored["encoder"].append(Pass((first,), []))
        passes.stored["encoder"].append(Pass((stays,), []))
        state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict({name: torch.empty_like(v, device="meta") for name, v in state.items()}, assign=True)
        passes.end(keep=True, complete=True)
        assert {known.key[0] for known in passes.stored["encoder"]} == {stays}
        assert len(passes.numbers) == len(passes.encoders) == 1
        network.load_state_dict(state, assign=True)
    assert passes.number(other, share=True) == stays
