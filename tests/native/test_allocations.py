"""The allocation trace against counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fast_sam3d.native.allocations import traced

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


@DEVICES
def test_counts_a_chain_of_temporaries(device: str) -> None:
    x = torch.empty(1000, device=device)
    with traced(watch=[x]) as found:
        y = x + 1
        y = y * 2  # x, x + 1 and the product
        z = y.half()  # x, y, z
    assert found.peak == 12_000
    assert found.live == 4000 + 4000 + 2000
    del z
    assert found.live == 8000
    del x, y
    assert found.live == 0


@DEVICES
def test_views_and_changes_in_place_cost_nothing(device: str) -> None:
    x = torch.zeros(64, 64, device=device)
    with traced(watch=[x, x.view(-1), x.T]) as found:
        x.view(-1)[3:].add_(1)
        parts = x.chunk(4, dim=1)
    assert found.peak == found.live == 64 * 64 * 4
    del x
    assert found.live == 64 * 64 * 4  # its storage is that of the parts
    del parts
    assert found.live == 0


@DEVICES
def test_what_was_there_before_costs_nothing(device: str) -> None:
    x = torch.zeros(1000, device=device)
    with traced() as found:
        part = x[:10].view(2, 5)
        copy = part + 0
    assert found.peak == found.live == 40
    del x, part, copy


def test_meta_stands_for_nothing_where_asked_for() -> None:
    with traced(meta=False) as found:
        kept = torch.zeros(10, device="meta"), torch.zeros(10)
    assert found.live == 40
    del kept


@DEVICES
def test_a_part_of_a_released_tensor_keeps_all_of_it(device: str) -> None:
    with traced() as found:
        row = torch.zeros(100, 10, device=device)[0]
    assert found.live == 4000
    del row


@DEVICES
def test_says_what_was_alive_at_the_peak(device: str) -> None:
    with traced() as found:
        small = torch.zeros(10, device=device)
        large = torch.zeros(5, 100, device=device)
        copy = large.double()
        del large, copy
        after = small + 1
    assert found.peak == 40 + 2000 + 4000 and found.peak_name == "_to_copy"
    assert found.at_peak() == [
        (4000, "_to_copy float64 [5, 100]"), (2000, "zeros float32 [5, 100]"), (40, "zeros float32 [10]"),
    ]  # fmt: skip
    del small, after


@DEVICES
def test_weights_are_counted_once(device: str) -> None:
    layer = nn.Linear(10, 10, device=device)
    twice = nn.Sequential(layer, layer)
    with torch.no_grad(), traced(watch=[*twice.parameters(), *layer.parameters()]) as found:
        twice(torch.zeros(3, 10, device=device))
    assert found.live == 440
    assert found.peak == 440 + 3 * 120  # the input, what is between the layers, and the output


def test_attention_on_meta_is_counted_as_fused() -> None:
    q, k, v = (torch.empty(1, 4, n, 8, device="meta", dtype=torch.half) for n in (1000, 3000, 3000))
    with traced() as found:
        out = F.scaled_dot_product_attention(q, k, v)
    assert out.shape == q.shape and out.dtype == torch.half
    assert found.peak == 1000 * 4 * 8 * 2 + 1000 * 4 * 4  # the result, and a float32 per query and head


def test_attention_with_data_is_counted_as_it_is() -> None:
    q, k, v = (torch.randn(1, 4, n, 8) for n in (1000, 3000, 3000))
    with torch.no_grad(), traced() as found:
        out = F.scaled_dot_product_attention(q, k, v)
    assert out.numel() * 4 <= found.peak < 1000 * 3000 * 4  # no matrix of scores


def test_casts_as_autocast_would_on_meta() -> None:
    layer, x = nn.Linear(100, 200, device="meta"), torch.empty(50, 100, device="meta")
    with torch.no_grad(), traced(torch.float16, watch=[*layer.parameters(), x]) as found:
        y = layer(x)
        normed = F.layer_norm(y, (200,))
    assert y.dtype == torch.float16 and normed.dtype == torch.float32
    kept = (100 * 200 + 200 + 50 * 100) * 4
    cast = (100 * 200 + 200 + 50 * 100) * 2
    assert found.peak == kept + max(cast + y.numel() * 2, y.numel() * (2 + 4 + 4) + 2 * 50 * 4)  # mean and deviation


def test_autocast_on_a_cpu_costs_what_meta_says() -> None:
    shape = (64, 512)
    peaks = []
    for device in ("cpu", "meta"):
        layer = nn.Linear(512, 512, device=device).requires_grad_(False)
        x = torch.zeros(shape, device=device)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), traced(torch.bfloat16) as found:
            layer(x)
        peaks.append(found.peak)
    assert peaks[0] == peaks[1] == (512 * 512 + 512 + 64 * 512 + 64 * 512) * 2


@DEVICES
def test_sorting_counts_its_second_buffer(device: str) -> None:
    x = torch.zeros(1000, dtype=torch.int32, device=device)
    with traced(watch=[x]) as found:
        values, order = x.sort()
    assert found.peak == 4000 + 4000 + 8000 + 4000
    assert found.live == 16_000
    del values, order


def test_an_error_in_the_block_leaves_torch_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), traced() as found:
        raise ZeroDivisionError
    torch.zeros(10)
    assert found.peak == 0
