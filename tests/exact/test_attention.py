"""Attention without masks: which queries see which keys. `tests/stock/test_attention.py` has the stock attention."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.exact import Exact
from fast_sam3d.exact.attention import KEYS, ROWS, _runs, _same_bits, attend, fits, without_masks
from tests.fakes import FakePipeline
from tests.minis import random_mini

ONLY = {"exact": {name: name == "attention" for name in Exact().settings()}}


def masked_sdpa(q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Full attention with a mask, which the saving avoids."""
    number, other = (torch.arange(len(n)).repeat_interleave(torch.tensor(n)) for n in (q_lengths, lengths))
    mask = torch.zeros(len(number), len(other), dtype=q.dtype).masked_fill(number[:, None] != other, float("-inf"))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None, None]).transpose(1, 2)[0]


def tensors(*counts: int, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(sum(counts))
    return tuple(torch.randn(1, count, 3, 32, generator=generator).to(dtype) for count in counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 900), (5, 7), (300, 1030), (1500, 1500), (33, 4097)])
def test_single_sequence_equals_masked_attention(queries: int, keys: int, dtype: torch.dtype) -> None:
    given = tensors(queries, keys, keys, dtype=dtype)
    assert torch.equal(attend(masked_sdpa, *given, [queries], [keys]), masked_sdpa(*given, [queries], [keys]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("longest", [3, 60, 512, 2000])
def test_windows_equal_masked_attention(longest: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(longest)
    lengths = torch.randint(1, longest, (5000 // longest + 2,), generator=generator).tolist()
    given = tensors(*[sum(lengths)] * 3, dtype=dtype)
    assert torch.equal(attend(masked_sdpa, *given, lengths, lengths), masked_sdpa(*given, lengths, lengths))


def test_attention_that_differs_is_kept_with_a_log_message(caplog: pytest.LogCaptureFixture) -> None:
    def other(*given: Any) -> Tensor:
        return masked_sdpa(*given) + 1

    given, lengths = tensors(*[2 * ROWS] * 3), [ROWS, ROWS]
    for several in ([2 * ROWS], lengths):
        assert torch.equal(attend(other, *given, several, several), other(*given, several, several))
    assert "a single sequence" in caplog.messages[0] and "windows" in caplog.messages[1]
    assert all("stays off" in message and "differ by 1.0e+00" in message for message in caplog.messages)


def test_blocks_are_multiples_of_those_of_the_kernels() -> None:
    assert ROWS % 256 == KEYS % 512 == 0
    assert [rows.stop - rows.start for rows, _ in _runs([ROWS, ROWS])] == [ROWS, ROWS]


@pytest.mark.parametrize("seed", range(8))
def test_blocks_cover_their_windows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10 * 4**seed % 3000 + 2, (40,), generator=generator).tolist()
    total, number = sum(lengths), torch.arange(40).repeat_interleave(torch.tensor(lengths))
    runs = list(_runs(lengths))
    assert [row for rows, _ in runs for row in range(total)[rows]] == list(range(total))
    for rows, keys in runs:
        assert rows.start % ROWS == 0 and (rows.stop - rows.start >= ROWS or len(runs) == 1)
        assert rows.stop - rows.start < 2 * ROWS
        assert keys.start % KEYS == 0 and (keys.stop % KEYS == 0 or keys.stop == total)
        seen = torch.isin(number, number[rows])
        assert seen[keys].sum() == seen.sum()
        first, last = int(seen.nonzero().min()), int(seen.nonzero().max())
        assert keys.start > first - KEYS and keys.stop <= last + KEYS  # and no more than that


class Attention(nn.Module):
    """Same structure as the stock one, with the functions in this module's globals."""

    def forward(self, x: Tensor) -> Tensor:
        return sparse_attention(x)


def sparse_attention(x: Tensor) -> Tensor:
    """Of one sequence to itself."""
    return masked_sdpa(x, x, x, [x.shape[1]], [x.shape[1]])


def test_the_original_forward_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noting(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        seen.append(mask.numel())
        return F.scaled_dot_product_attention(q[0], k[0], v[0])

    module, (x,) = Attention(), tensors(40)
    assert fits(module)
    _same_bits.cache_clear()  # of earlier tests
    assert torch.equal(without_masks(module.forward)(x), module(x))
    monkeypatch.setattr("fast_sam3d.exact.attention._sdpa", noting)
    without_masks(module.forward)(x)
    module(x)
    assert seen == [40]
    assert module.forward.__func__ is Attention.forward
    assert not fits(nn.Linear(1, 1))
    assert without_masks(len) is len


def test_a_network_of_another_kind_is_skipped_with_a_log_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(FakePipeline(), ONLY):
        pass
    said = [record.message for record in caplog.records]
    assert len(said) == len(set(said)) == 3
    assert "slat: exact.attention stays off, because no part of it attends through `masked_sdpa`" in said


def test_the_embedded_model_has_no_masks(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = random_mini()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, ONLY):
        assert not any("forward" in vars(block) for block in pipeline.models["slat_generator"].reverse_fn.modules())
    assert not caplog.records
