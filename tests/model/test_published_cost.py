"""Operations of the sparse networks at the published sizes equal those of the real ones.

Operations are counted on the meta device over closed spherical shells at 64^3, 2 per multiply-add; nothing is
computed. The expected figures were counted on the public code with its published configuration.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.slat_config import PUBLISHED_MESH, PUBLISHED_SLAT, PUBLISHED_SLAT_CONTEXT
from fast_sam3d.model.slat_decoder import MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.sparse import SparseTensor

# Half-thickness of the shells, in voxels: about 4.35 voxels per packed token.
THICKNESS = 0.92


def linear_flops(flow: StructuredLatentFlow, tokens: int) -> int:
    """Per-token linear layers of the torso: q, k, v, out, cross q and out, MLP."""
    width, config = flow.model_channels, flow.config
    return int(2 * tokens * config.num_blocks * (6 + 2 * config.mlp_ratio) * width * width)


@pytest.mark.parametrize(
    ("radius", "tokens", "gigaflops"), [(14.96, 1_144, 2_209), (20.65, 2_288, 4_121), (29.6, 4_704, 9_006)]
)
def test_cost_of_the_structured_latent_backbone(shell, radius, tokens, gigaflops):
    coords = shell(radius, THICKNESS, 64)
    packed = len(SparseGrid(coords).downsampled()[0])
    assert packed == pytest.approx(tokens, rel=0.015)
    assert 4.2 < len(coords) / packed < 4.45
    with torch.device("meta"):
        flow = StructuredLatentFlow(PUBLISHED_SLAT)
        x, t, cond = torch.empty(1, len(coords), 8), torch.empty(()), torch.empty(1, *PUBLISHED_SLAT_CONTEXT)
    with FlopCounterMode(display=False, depth=None) as counter:
        assert flow(x, t, cond, coords).shape == x.shape
    counted = counter.get_total_flops() / 1e9
    assert counted == pytest.approx(gigaflops, rel=0.05)
    # By hand, from the sizes: the attention must have been counted, and nothing twice.
    depth, width, context = 24, 1024, PUBLISHED_SLAT_CONTEXT[0]
    torso = linear_flops(flow, packed) + depth * width * (4 * packed**2 + 4 * packed * context + 4 * context * width)
    counts = counter.get_flop_counts()
    in_torso = sum(sum(counts[f"StructuredLatentFlow.blocks.{i}"].values()) for i in range(depth))
    assert in_torso == pytest.approx(torso, rel=0.002)


def test_cost_of_the_mesh_decoder(shell):
    coords = shell(29.2, THICKNESS, 64)
    assert len(coords) == pytest.approx(20_000, rel=0.02)
    with torch.device("meta"):
        decoder = MeshDecoder(PUBLISHED_MESH)
        feats = torch.empty(len(coords), 8)
    with FlopCounterMode(display=False) as counter:
        fields = decoder.decode_fields(SparseTensor(feats, coords))
    assert fields.feats.shape == (64 * len(coords), 101)
    assert fields.feats.device.type == "meta"
    assert counter.get_total_flops() / 1e12 == pytest.approx(6.5, rel=0.05)
