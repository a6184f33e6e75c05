"""Kernels summed beforehand. `tests/stock/test_subdivision.py` has the stock block."""

from __future__ import annotations

import itertools
import logging
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.exact import Exact, subdivision
from fast_sam3d.exact.subdivision import SubdivisionSeam, convolve, fits, folded, taps
from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.slat_decoder import SubdivideBlock
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.patch import seam_at
from tests.minis import picture, random_mini

ONLY = {"exact": {name: name == "subdivision" for name in Exact().settings()}}


def dense(feats: Tensor, coords: Tensor, weight: Tensor) -> Tensor:
    """[8 N, out]: each child's sum over its 27 neighbours, one by one."""
    there = {tuple(place): row for row, place in enumerate(coords.tolist())}
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    out = []
    for batch, *voxel in coords.tolist():
        for child in itertools.product((0, 1), repeat=3):
            total = torch.zeros(weight.shape[2], dtype=torch.float64)
            for tap, step in enumerate(steps):
                fine = [2 * v + c + s for v, c, s in zip(voxel, child, step, strict=True)]
                row = there.get((batch, *(f // 2 for f in fine)))
                if row is not None:
                    total += feats[row].double() @ weight[tap].double()
            out.append(total)
    return torch.stack(out).float()


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_every_child_gets_its_27_products(monkeypatch, chunk):
    monkeypatch.setitem(subdivision.CHUNK, "cpu", chunk)
    torch.manual_seed(0)
    places = [(i, *p) for i in (0, 1) for p in itertools.product(range(4), repeat=3) if torch.rand(()) < 0.5]
    coords = torch.tensor(places)
    feats, weight = torch.randn(len(coords), 4), torch.randn(27, 4, 3)
    got = convolve(feats, SparseGrid(coords).neighbours(), weight)
    torch.testing.assert_close(got, dense(feats, coords, weight), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folded_kernels_keep_the_sum_of_weights(dtype):
    weight = torch.randn(27, 4, 3, dtype=dtype)
    torch.testing.assert_close(folded(weight).sum(1), weight.sum(0).expand(8, 4, 3))


def test_empty_input_gives_empty_output():
    assert convolve(torch.zeros(0, 4), torch.zeros(0, 27, dtype=torch.int32), torch.randn(27, 4, 3)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_object_is_equal_up_to_rounding_and_restored(dtype):
    pipeline = random_mini()
    decoder = pipeline.models["slat_decoder_mesh"]
    blocks = [part for part in decoder.modules() if isinstance(part, SubdivideBlock)]
    for block in blocks:
        nn.init.normal_(block.conv2.weight, std=0.05)  # initialised to zero, which would hide differences
    coords = torch.nonzero(torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(3)) < 0.3)
    coords = torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1)
    given = SparseTensor(torch.randn(len(coords), decoder.input_layer.in_features), coords)

    def fields() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return decoder.decode_fields(given).feats.float()

    want = fields()
    handle = fast_sam3d.accelerate(pipeline, ONLY)
    assert all(seam_at(block, "widen") for block in blocks)
    got = fields()
    assert not torch.equal(got, want)  # otherwise the saving had no effect
    torch.testing.assert_close(got, want, atol=1e-5 if dtype is torch.float32 else 5e-2, rtol=1e-4)
    handle.remove()
    assert not any(seam_at(block, "widen") for block in blocks)
    assert torch.equal(fields(), want)


def test_decoder_of_another_kind_is_skipped(caplog):
    pipeline = random_mini()
    pipeline.models["slat_decoder_mesh"].upsample = nn.ModuleList()
    caplog.set_level(logging.INFO, "fast_sam3d")
    with fast_sam3d.accelerated(pipeline, ONLY):
        pass
    assert "exact.subdivision stays off, because its decoder has no subdividing blocks" in caplog.text


def test_voxels_and_poses_are_unchanged():
    pipeline, given = random_mini(), picture()
    want = pipeline.run(*given, seed=1)
    with fast_sam3d.accelerated(pipeline, ONLY):
        got = pipeline.run(*given, seed=1)
    for name in ("coords", "rotation", "translation", "scale"):
        assert torch.equal(got[name], want[name])


class Copies(nn.Module):
    """Attributes named as in a stock block."""

    def forward(self, x: Any) -> Any:
        return Voxels(x.feats.repeat_interleave(8, 0), x.coords.repeat_interleave(8, 0))


Copies.__name__ = "SparseSubdivide"


class Block(nn.Module):
    """Like the stock block, with a forward that `factor` and `dtype` change."""

    def __init__(self, factor: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.act_layers, self.sub, self.skip_connection = nn.Identity(), Copies(), nn.Identity()
        self.out_layers = nn.ModuleList([nn.Module()])
        self.out_layers[0].conv = Conv()
        self.factor, self.dtype, self.calls = factor, dtype, 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        conv, copies = self.out_layers[0].conv, self.sub(x)
        feats = dense(x.feats, x.coords, taps(conv)) + conv.bias
        return copies.replace((feats * self.factor + copies.feats).to(self.dtype))


class Conv(nn.Module):
    in_channels, out_channels = 3, 3

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(shape or (3, 3, 3, 3, 3))), nn.Parameter(torch.zeros(3))


class Voxels:
    def __init__(self, feats: Tensor, coords: Tensor) -> None:
        self.feats, self.coords = feats, coords

    def replace(self, feats: Tensor) -> Voxels:
        return Voxels(feats, self.coords)

    def __add__(self, other: Voxels) -> Voxels:
        return self.replace(self.feats + other.feats)


def line(count: int = 4) -> Voxels:
    return Voxels(torch.randn(count, 3), torch.tensor([[0, 0, 0, i] for i in range(count)]).reshape(count, 4))


def test_block_is_checked_once_on_a_few_voxels(monkeypatch):
    monkeypatch.setattr(subdivision, "TRIAL_VOXELS", 3)
    block, x, sizes = Block(), line(), []
    block.act_layers.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0].feats)))
    want, seam = block(x).feats, SubdivisionSeam(block)
    for _ in range(2):
        torch.testing.assert_close(seam(x).feats, want)
    assert block.calls == 2 and sizes == [3, 4, 4]


@pytest.mark.parametrize(
    ("block", "message"),
    [(Block(factor=1.01), "of the largest"), (Block(dtype=torch.float64), r"float32 for \[32, 3\] of torch.float64")],
    ids=["values", "type"],
)
def test_block_with_other_results_is_not_replaced(block, message, caplog):
    assert fits(block)
    seam, x = SubdivisionSeam(block), line()
    want = block(x).feats
    for _ in range(2):
        assert torch.equal(seam(x).feats, want)
    assert caplog.text.count("exact.subdivision stays off in a block, because a trial on 4 voxels fails") == 1
    assert re.search(message, caplog.text)


def test_modules_of_another_structure_do_not_fit():
    for layers in (nn.Sequential(nn.Identity()), nn.Identity()):  # no convolution first, not a list
        block = Block()
        del block.out_layers
        block.out_layers = layers
        assert not fits(block)


def test_in_a_type_without_a_tolerance_only_equal_results_replace_a_block(caplog):
    block, x = Block(factor=1.01, dtype=torch.float64).double(), line()
    x.feats = x.feats.double()
    want = block(x).feats
    assert torch.equal(SubdivisionSeam(block)(x).feats, want) and "of the largest" in caplog.text


def test_inconclusive_check_does_not_disable_a_block(caplog):
    block, bad = Block(), line()
    seam = SubdivisionSeam(block)
    bad.feats[0] = float("nan")
    assert seam(bad).feats.isnan().any() and not seam.works
    seam(line())
    assert list(seam.works.values()) == [True] and not caplog.records


def test_each_dtype_is_checked_separately(caplog):
    block, x = Block(), line()
    seam, short = SubdivisionSeam(block), line()
    seam(x)
    block.bfloat16().dtype = torch.bfloat16
    short.feats = short.feats.bfloat16()
    seam(short)
    assert {kind[1]: agreed for kind, agreed in seam.works.items()} == {torch.float32: True, torch.bfloat16: True}
    seam(short)
    assert block.calls == 2  # each for its trial


def test_compiled_decoder_is_skipped(monkeypatch, caplog):
    monkeypatch.setattr("fast_sam3d.exact.places.compiled", lambda module: True)
    caplog.set_level(logging.INFO, "fast_sam3d")
    pipeline = random_mini()
    with fast_sam3d.accelerated(pipeline, ONLY):
        assert not any(seam_at(part, "widen") for part in pipeline.models["slat_decoder_mesh"].modules())
    assert "exact.subdivision stays off, because its decoder is compiled" in caplog.text


def convolution(weight: Tensor) -> Any:
    conv = Conv()
    conv.in_channels, conv.out_channels, conv.weight = 3, 5, nn.Parameter(weight)
    return conv


def test_weights_are_read_as_spconv_stores_them():
    known = torch.randn(27, 3, 5)
    assert torch.equal(taps(convolution(known.view(3, 3, 3, 3, 5).permute(4, 0, 1, 2, 3).contiguous())), known)


def test_one_tap_is_read_as_in_by_out_in_memory():
    known = torch.randn(3, 5)
    assert torch.equal(taps(convolution(known.reshape(5, 1, 1, 1, 3))), known[None])


@pytest.mark.parametrize("shape", [(27, 3, 5), (3, 3, 3, 3, 5), (4, 3, 3, 3, 3)], ids=str)
def test_weights_in_another_layout_are_refused(shape):
    with pytest.raises(ValueError, match="3 to 5 channels"):
        taps(convolution(torch.randn(shape)))
