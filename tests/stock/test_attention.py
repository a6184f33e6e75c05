"""Sparse attention without masks against the stock one, bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.exact import Exact, attention
from fast_sam3d.exact.attention import AttentionSeam, without_masks
from tests.beds import differing
from tests.contract import alone
from tests.stock.build import STOCK
from tests.stock.stand_ins import importable

HEADS, WIDTH = 2, 32


def sparse() -> Any:
    with importable():
        from sam3d_objects.model.backbone.tdfy_dit.modules import sparse

        return sparse


def voxels(count: int, resolution: int = 64, objects: int = 1) -> Tensor:
    """[count * objects, 4] distinct voxels of a slab."""
    generator = torch.Generator().manual_seed(count)
    places = torch.randperm(resolution**2 * 4, generator=generator)[:count].sort().values
    one = torch.stack([places // (4 * resolution), places // 4 % resolution, places % 4], dim=1)
    return torch.cat([torch.cat([torch.full_like(one[:, :1], i), one], dim=1) for i in range(objects)]).int()


def layer(kind: str, mode: str = "full", **options: Any) -> Any:
    torch.manual_seed(0)
    module = sparse().SparseMultiHeadAttention(
        WIDTH * HEADS, HEADS, ctx_channels=24 if kind == "cross" else None, type=kind, attn_mode=mode, **options
    )
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("make", "count", "saves"),
    [
        (lambda: layer("self", qk_rms_norm=True), 1700, True),
        (lambda: layer("self"), 1, True),
        (lambda: layer("cross"), 1300, True),
        (lambda: layer("self", "windowed", window_size=8, shift_window=(0, 0, 0)), 5000, True),
        (lambda: layer("self", "windowed", window_size=8, shift_window=(4, 4, 4), qk_rms_norm=True), 1537, True),
        (lambda: layer("self", "windowed", window_size=8, shift_window=(4, 4, 4)), 1500, False),
    ],
    ids=["full", "one voxel", "cross", "windows", "shifted", "few"],
)
def test_bit_identical_to_the_stock_code(make: Callable[[], Any], count: int, saves: bool, dtype: torch.dtype) -> None:
    module = make().to(dtype)
    x = sparse().SparseTensor(torch.randn(count, WIDTH * HEADS).to(dtype), voxels(count))
    context = (torch.randn(1, 77, 24).to(dtype),) if module._type == "cross" else ()
    expected, peak = module(x, *context), largest_mask(lambda: module(x, *context))
    got = without_masks(module.forward)(x, *context)
    assert got.feats.dtype == expected.feats.dtype and torch.equal(got.feats, expected.feats)
    small = largest_mask(lambda: without_masks(module.forward)(x, *context))
    assert peak == count * (77 if context else count)
    assert (small < max(peak, 2)) == saves
    if saves and module.attn_mode == "full":
        assert small == (77 if context else count)


def largest_mask(call: Callable[[], Any]) -> int:
    """Number of elements of the largest attention mask."""
    sizes: list[int] = []
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def noting(*args: Any, attn_mask: Any = None, **kwargs: Any) -> Tensor:
        sizes.append(0 if attn_mask is None else attn_mask.numel())
        return sdpa(*args, attn_mask=attn_mask, **kwargs)

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", noting):
        call()
    return max(sizes)


@pytest.mark.parametrize("settings", [{}, {"mode": "windowed", "window_size": 8, "shift_window": (0, 0, 0)}])
def test_inside_another_default_device(settings: dict[str, Any]) -> None:
    """As in the stock pipeline: no tensor may be created on the default device by accident."""
    module = layer("self", **settings)
    x = sparse().SparseTensor(torch.randn(1700, WIDTH * HEADS), voxels(1700))
    expected = module(x)
    attention._same_bits.cache_clear()
    with torch.device("meta"):
        got = without_masks(module.forward)(x)
    assert torch.equal(got.feats, expected.feats)
    assert attention._same_bits.cache_info().currsize == 1


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_several_objects_use_the_stock_code(kind: str) -> None:
    module = layer(kind)
    x = sparse().SparseTensor(torch.randn(60, WIDTH * HEADS), voxels(20, objects=3))
    context = (torch.randn(3, 7, 24),) if kind == "cross" else ()
    assert torch.equal(without_masks(module.forward)(x, *context).feats, module(x, *context).feats)


def test_gradients_use_the_stock_code() -> None:
    module = layer("self").requires_grad_(True)
    x = sparse().SparseTensor(torch.randn(40, WIDTH * HEADS), voxels(40))
    gradients = []
    for call in (module.forward, without_masks(module.forward)):
        call(x).feats.square().sum().backward()
        gradients.append(module.to_qkv.weight.grad.clone())
        module.zero_grad()
    assert torch.equal(*gradients)


def test_differing_bits_disable_the_saving(caplog: pytest.LogCaptureFixture) -> None:
    """As on a device with kernels of other block sizes."""
    module = layer("self", "windowed", window_size=8, shift_window=(0, 0, 0))
    x = sparse().SparseTensor(torch.randn(5000, WIDTH * HEADS), voxels(5000))
    expected = module(x)
    attention._same_bits.cache_clear()
    with caplog.at_level(logging.WARNING), mock.patch.object(attention, "KEYS", 100):
        for _ in range(2):
            got = without_masks(module.forward)(x)
    attention._same_bits.cache_clear()
    assert torch.equal(got.feats, expected.feats)
    assert len(caplog.records) == 1
    assert "exact.attention stays off for windows, because torch.float32 on cpu differ by" in caplog.records[0].message


def test_acts_on_the_enabled_parts_of_a_pipeline() -> None:
    pipeline = STOCK.build()
    plain = STOCK.run(pipeline, formats=("mesh", "gaussian"))
    blocks = pipeline.models["slat_generator"].reverse_fn.backbone.blocks
    places = [blocks[0].self_attn, blocks[0].cross_attn, pipeline.models["slat_decoder_mesh"].blocks[0].attn]
    without = {"exact": {**Exact().settings(), "attention": False}}
    with (
        mock.patch.object(attention, "attend", wraps=attention.attend) as attend,
        fast_sam3d.accelerated(pipeline, without),
    ):
        STOCK.run(pipeline)
        assert not attend.called
        with fast_sam3d.accelerated(pipeline, alone("attention")):
            assert all(isinstance(vars(place)["forward"], AttentionSeam) for place in places)
            assert differing(STOCK.run(pipeline, formats=("mesh", "gaussian")), plain) == set()
        assert attend.called
    assert not any("forward" in vars(module) for module in pipeline.models.modules())


def test_another_backend_is_skipped_with_a_log_message(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = STOCK.build()
    with importable(), ExitStack() as stack, caplog.at_level(logging.INFO, "fast_sam3d"):
        from sam3d_objects.model.backbone.tdfy_dit.modules.sparse.attention import (
            full_attn,
            serialized_attn,
            windowed_attn,
        )

        for module in (full_attn, serialized_attn, windowed_attn):
            stack.enter_context(mock.patch.object(module, "masked_sdpa", None))
        stack.enter_context(fast_sam3d.accelerated(pipeline, alone("attention")))
        assert not any(isinstance(vars(m).get("forward"), AttentionSeam) for m in pipeline.models.modules())
    said = [record.message for record in caplog.records]
    assert said == [
        f"{row}: exact.attention stays off, because no part of it attends through `masked_sdpa`"
        for row in ("slat", "mesh decoder", "gaussian decoder", "gaussian_4 decoder")
    ]
