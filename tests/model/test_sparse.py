"""Sparse layers against dense ones, and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fast_sam3d.geometry import sparse_grid
from fast_sam3d.geometry.sparse_grid import CHILDREN, SparseGrid
from fast_sam3d.model import sparse
from fast_sam3d.model.sparse import SparseConv3d, SparseDownsample, SparseSubdivide, SparseTensor, SparseUpsample


def dense_conv(x: SparseTensor, conv: SparseConv3d, resolution: int) -> torch.Tensor:
    """The same convolution through `conv3d` on the whole grid."""
    batch, i, j, k = x.coords.long().T
    grid = x.feats.new_zeros(x.shape[0], resolution, resolution, resolution, x.feats.shape[1])
    grid = grid.index_put((batch, i, j, k), x.feats)
    kernel = conv.weight.view(3, 3, 3, *conv.weight.shape[1:]).permute(4, 3, 0, 1, 2)
    out = F.conv3d(grid.permute(0, 4, 1, 2, 3), kernel, conv.bias, padding=1)
    return out.permute(0, 2, 3, 4, 1)[batch, i, j, k]


@pytest.fixture(params=["pairs", "gather"])
def method(request, monkeypatch) -> str:
    """Both ways of computing a convolution."""
    monkeypatch.setattr(sparse, "GATHER_CHANNELS", 0 if request.param == "pairs" else 1 << 30)
    monkeypatch.setattr(sparse, "GATHER_ROWS", 50)
    return request.param


@pytest.mark.parametrize("table_cells", [1 << 25, 0])
def test_convolution_equals_dense(scatter, method, monkeypatch, table_cells):
    monkeypatch.setattr(sparse_grid, "MAX_TABLE_CELLS", table_cells)
    torch.manual_seed(0)
    conv = SparseConv3d(5, 7)
    torch.nn.init.normal_(conv.bias)
    x = SparseTensor(torch.randn(290, 5, requires_grad=True), scatter([90, 200], 8))
    got, expected = conv(x).feats, dense_conv(x, conv, 8)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected)
    inputs = [x.feats, conv.weight, conv.bias]
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_convolution_of_a_subdivided_grid_equals_dense(scatter, method):
    """Its pairs come from the parents' pairs, not from a search."""
    torch.manual_seed(0)
    x = SparseTensor(torch.randn(60, 3), scatter([20, 40], 6))
    x = SparseSubdivide()(SparseSubdivide()(x))
    x = x.replace(torch.randn(len(x), 3))
    conv = SparseConv3d(3, 2)
    torch.testing.assert_close(conv(x).feats, dense_conv(x, conv, 24), atol=1e-5, rtol=1e-5)


def pair_count(grid: SparseGrid) -> int:
    return sum(len(source) for source, _ in grid.pairs("cpu"))


def test_subdivided_pairs_equal_searched_pairs(shell):
    fine = SparseGrid(shell(4, 0.8, 12)).subdivided()
    searched = SparseGrid(fine.coords)
    assert pair_count(fine) == pair_count(searched)
    assert torch.equal(fine.neighbours(), searched.neighbours())


def test_convolution_is_reproducible_and_close_in_bfloat16(scatter, method):
    torch.manual_seed(0)
    conv = SparseConv3d(16, 16)
    x = SparseTensor(torch.randn(500, 16, requires_grad=True), scatter([500], 10))
    first, second = conv(x).feats, conv(x).feats
    assert torch.equal(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = conv(x).feats
        assert rough.dtype == torch.bfloat16
    rough.float().square().sum().backward()
    assert conv.weight.grad.dtype == torch.float32
    assert torch.isfinite(conv.weight.grad).all()
    assert (rough.float() - first).abs().max() < 0.05 * first.abs().max()


def test_convolution_on_meta_counts_true_pairs(scatter):
    from torch.utils.flop_counter import FlopCounterMode

    coords = scatter([150], 8)
    conv = SparseConv3d(4, 6).to("meta")
    x = SparseTensor(torch.empty(150, 4, device="meta"), coords)
    with FlopCounterMode(display=False) as counter:
        assert conv(x).feats.device.type == "meta"
    occupied = torch.zeros(8, 8, 8).index_put(tuple(coords[:, 1:].long().T), torch.ones(150))
    around = F.conv3d(occupied[None, None], torch.ones(1, 1, 3, 3, 3), padding=1)[0, 0]
    pairs = int((around * occupied).sum())
    assert pair_count(x.grid) == pairs
    assert counter.get_total_flops() == 2 * pairs * 4 * 6


def test_isolated_voxel_depends_on_itself_only():
    conv = SparseConv3d(2, 3)
    x = SparseTensor(torch.randn(1, 2), torch.tensor([[0, 0, 0, 0]]))
    torch.testing.assert_close(conv(x).feats, x.feats @ conv.weight[13] + conv.bias)


def test_objects_of_a_batch_are_independent(scatter, method):
    """The same voxels in two objects of a batch, next to each other in memory."""
    torch.manual_seed(0)
    one = scatter([80], 6)
    both = torch.cat([one, one + torch.tensor([1, 0, 0, 0], dtype=torch.int32)])
    feats = torch.randn(160, 4)
    conv = SparseConv3d(4, 4)
    batched = conv(SparseTensor(feats, both)).feats
    torch.testing.assert_close(batched[80:], conv(SparseTensor(feats[80:], one)).feats, atol=1e-6, rtol=1e-6)


def test_downsample_by_hand():
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 2, 0, 0], [1, 0, 0, 1]])
    x = SparseTensor(torch.tensor([[1.0], [3.0], [5.0], [7.0]]), coords)
    down = SparseDownsample()(x)
    assert down.coords.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert down.feats.flatten().tolist() == [2.0, 5.0, 7.0]
    up = SparseUpsample()(down)
    assert up.grid is x.grid
    assert up.feats.flatten().tolist() == [2.0, 2.0, 5.0, 7.0]
    with pytest.raises(ValueError, match="SparseDownsample"):
        SparseUpsample()(x)


def test_subdivide_orders_children():
    x = SparseTensor(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]]))
    fine = SparseSubdivide()(x)
    assert fine.coords[:8].tolist() == [[0, 2 + a, 4 + b, 6 + c] for a, b, c in CHILDREN]
    assert fine.feats.flatten().tolist() == [1.0] * 8 + [2.0] * 8
    assert fine.layout == [slice(0, 8), slice(8, 16)]


def test_windows_are_a_partition(scatter):
    coords = scatter([300, 50], 16)
    for shift in (0, 4):
        windows = SparseGrid(coords).windows(8, shift)
        assert torch.equal(windows.order.sort().values, torch.arange(350))
        assert torch.equal(windows.order[windows.inverse], torch.arange(350))
        cubes = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // 8], dim=1)[windows.order]
        start, seen = 0, set()
        for count, size in windows.groups:
            for _ in range(count):
                run = {tuple(c) for c in cubes[start : start + size].tolist()}
                assert len(run) == 1
                assert not run & seen
                seen |= run
                start += size
        assert start == 350


def test_arithmetic_and_shared_grid(scatter):
    x = SparseTensor(torch.randn(30, 8), scatter([10, 20], 5))
    mean, std = torch.randn(1, 8), torch.rand(8)
    assert torch.equal((x * std + mean).feats, x.feats * std + mean)
    assert torch.equal(((x - mean) / std).feats, (x.feats - mean) / std)
    assert torch.equal((2.0 * x + x).feats, 2 * x.feats + x.feats)
    assert x.replace(x.feats * 2).grid is x.grid
    assert x.to(torch.float64).dtype == torch.float64
    assert x.to("meta").grid is x.grid
    assert x.shape == (2, 8)
    assert torch.equal(x[1].feats, x.feats[10:])
    assert x[1].coords[:, 0].unique().tolist() == [0]
    assert torch.equal(x[1].coords[:, 1:], x.coords[10:, 1:])


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.int32), r"\[N, 4\]"),
        (torch.zeros(3, 4), "integers"),
        (torch.zeros(2, 4, dtype=torch.int32), "2 voxels"),
        (torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]), "sorted"),
        (torch.tensor([[0, 0, 0, -1], [0, 0, 0, 0], [0, 0, 0, 1]]), "non-negative"),
    ],
)
def test_invalid_coords_are_refused(coords, message):
    with pytest.raises(ValueError, match=message):
        _ = SparseTensor(torch.zeros(3, 2), coords).layout
