"""Structured-latent backbone: shapes, batches, guidance and gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.model.slat_flow import StructuredLatentFlow

TINY = SLatFlowConfig(
    resolution=16, model_channels=36, num_blocks=2, num_heads=3, cond_channels=20, io_channels=12, num_io_blocks=2
)


def tiny_flow(**changes) -> StructuredLatentFlow:
    """Small backbone with every weight random, so that no branch is dead."""
    torch.manual_seed(0)
    flow = StructuredLatentFlow(dataclasses.replace(TINY, **changes))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


def inputs(scatter, counts: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    coords = scatter(counts, 10)
    torch.manual_seed(1)
    x = torch.randn(1, sum(counts), 8)
    t = torch.linspace(100, 800, len(counts))
    return x, t, torch.randn(len(counts), 7, 20), coords


@pytest.mark.parametrize("changes", [{}, {"share_mod": False}, {"num_io_blocks": 1}, {"qk_rms_norm_cross": True}])
def test_batched_equals_single(scatter, changes):
    flow = tiny_flow(**changes)
    x, t, cond, coords = inputs(scatter, [120, 60, 200])
    batched = flow(x, t, cond, coords)
    assert batched.shape == x.shape
    assert batched.dtype == torch.float32
    start = 0
    for b, count in enumerate((120, 60, 200)):
        rows = slice(start, start + count)
        own = coords[rows] - torch.tensor([b, 0, 0, 0], dtype=torch.int32)
        single = flow(x[:, rows], t[b], cond[b : b + 1], own)
        torch.testing.assert_close(batched[:, rows], single, atol=1e-5, rtol=1e-5)
        start += count


def test_coords_as_array_tensor_or_grid_are_equivalent(scatter):
    flow = tiny_flow()
    x, t, cond, coords = inputs(scatter, [150])
    expected = flow(x, t[0], cond, coords)
    assert torch.equal(flow(x, t[0], cond, coords.numpy()), expected)
    assert torch.equal(flow(x, t[0], cond, coords.numpy().astype(np.int64)), expected)
    assert torch.equal(flow(x, t[0], cond, SparseGrid(coords)), expected)


def test_unconditional_call_ignores_the_context(scatter):
    flow = tiny_flow()
    x, t, cond, coords = inputs(scatter, [150])
    free = flow(x, t, cond, coords, cfg=True)
    assert torch.equal(free, flow(x, t, torch.zeros_like(cond), coords))
    assert torch.equal(free, flow(x, t, cond * 3, coords, cfg=True))
    assert not torch.allclose(free, flow(x, t, cond, coords), atol=1e-3)


def test_output_depends_on_time_and_place(scatter):
    flow = tiny_flow()
    x, t, cond, coords = inputs(scatter, [150])
    base = flow(x, t, cond, coords)
    assert (flow(x, t + 100, cond, coords) - base).abs().max() > 1e-3
    moved = coords + torch.tensor([0, 2, 0, 0], dtype=torch.int32)
    assert (flow(x, t, cond, moved) - base).abs().max() > 1e-3


def test_full_attention_reaches_every_voxel(scatter):
    """A change of one voxel reaches all others of its object and none of another."""
    flow = tiny_flow()
    x, t, cond, coords = inputs(scatter, [80, 80])
    changed = x.clone()
    changed[0, 3] += 1
    difference = (flow(changed, t, cond, coords) - flow(x, t, cond, coords)).abs().amax(dim=2)[0]
    assert (difference[:80] > 0).all()
    assert (difference[80:] == 0).all()


def test_order_of_voxels_does_not_matter(scatter):
    flow = tiny_flow()
    x, t, cond, coords = inputs(scatter, [150])
    order = torch.randperm(150, generator=torch.Generator().manual_seed(2))
    shuffled = flow(x[:, order], t, cond, coords[order])
    torch.testing.assert_close(shuffled, flow(x, t, cond, coords)[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_every_parameter(scatter, autocast):
    flow = tiny_flow(share_mod=False)
    x, t, cond, coords = inputs(scatter, [120, 60])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = flow(x, t, cond, coords)
    assert out.dtype == torch.float32
    out.square().mean().backward()
    dead = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters())


def test_initial_velocity_is_zero(scatter):
    torch.manual_seed(0)
    x, t, cond, coords = inputs(scatter, [50])
    assert not StructuredLatentFlow(TINY)(x, t, cond, coords).any()


def test_parameter_count_of_the_embedded_model():
    with torch.device("meta"):
        flow = StructuredLatentFlow(SLatFlowConfig())
    assert sum(p.numel() for p in flow.parameters()) <= 3_000_000


def test_invalid_inputs_are_refused(scatter):
    flow = tiny_flow()
    x, t, cond, coords = inputs(scatter, [30, 30])
    with pytest.raises(ValueError, match="60 rows of features for 59 voxels"):
        flow(x, t, cond, coords[1:])
    with pytest.raises(ValueError, match="x must be"):
        flow(x[0], t, cond, coords)
    with pytest.raises(ValueError, match="3 contexts for 2 objects"):
        flow(x, t, cond[[0, 1, 1]], coords)
    with pytest.raises(ValueError, match="at least one active voxel"):
        flow(x[:, :30], t, cond, coords[30:])
    with pytest.raises(ValueError, match="num_heads"):
        SLatFlowConfig(model_channels=30, num_heads=4)
