"""Sparse-structure backbone and autoencoder: structure, cost, and dependencies between streams."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fast_sam3d.model.config import (
    LAYOUT_CHANNELS,
    PUBLISHED_SS,
    PUBLISHED_SS_CONTEXT,
    SSDecoderConfig,
    SSEncoderConfig,
    SSFlowConfig,
)
from fast_sam3d.model.latents import grid_patches, patches_to_grid
from fast_sam3d.model.layers import CrossAttention, HeadRMSNorm
from fast_sam3d.model.ss_flow import JointSelfAttention, SparseStructureFlow
from fast_sam3d.model.ss_vae import (
    SSDecoder,
    SSEncoder,
    fold_cells,
    grid_to_tokens,
    sample_latent,
    tokens_to_grid,
    unfold_cells,
)

TINY = SSFlowConfig(
    model_channels=24, num_blocks=2, num_heads=2, cond_channels=16, resolution=4, latent_channels=3, patch_size=2
)


def tiny_flow(**changes) -> SparseStructureFlow:
    """Small backbone with random weights in place of zero-initialised ones, so that no branch is dead."""
    torch.manual_seed(0)
    flow = SparseStructureFlow(SSFlowConfig(**{**vars(TINY), **changes}))
    with torch.no_grad():
        for parameter in flow.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return flow.eval()


def leaves(flow: SparseStructureFlow, batch: int, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in flow.leaf_shapes.items()}


def test_operations_at_the_published_size() -> None:
    with torch.device("meta"):
        flow = SparseStructureFlow(PUBLISHED_SS)
        x = {name: torch.empty(1, *shape) for name, shape in flow.leaf_shapes.items()}
        context = torch.empty(1, *PUBLISHED_SS_CONTEXT)
        with FlopCounterMode(display=False) as counter:
            flow(x, torch.zeros(1), context, d=torch.zeros(1))
        assert counter.get_total_flops() == pytest.approx(9090e9, rel=0.02)
        block = flow.blocks[0]
        tokens = torch.empty(1, 4096, 1024)
        with FlopCounterMode(display=False) as counter:
            block.cross_attn["shape"].to_kv(context)
        assert 24 * counter.get_total_flops() == pytest.approx(758e9, rel=0.01)
        with FlopCounterMode(display=False) as counter:
            block.self_attn({"shape": tokens, "6drotation_normalized": torch.empty(1, 4, 1024)})
        assert 24 * counter.get_total_flops() == pytest.approx((825 + 1651) * 1e9, rel=0.01)
        with FlopCounterMode(display=False) as counter:
            block.mlp["shape"](tokens)
        assert 24 * counter.get_total_flops() == pytest.approx(1651e9, rel=0.01)

        def gigaflops(**flags: bool) -> int:
            with FlopCounterMode(display=False) as counter:
                flow(x, torch.zeros(1), context, d=torch.zeros(1), **flags)
            return round(counter.get_total_flops() / 1e9)

        flow.keep_context = flow.constant_unconditional = True
        with flow.keeping(context):
            assert [gigaflops(), gigaflops(), gigaflops(cfg=True)] == [9_090, 7_574, 4_128]
            assert flow.context_bytes == 4 * 24 * 2 * 7528 * 2 * 1024  # blocks, streams, keys and values


def test_leaf_shapes_and_names() -> None:
    flow = SparseStructureFlow()
    expected = {"shape": (512, 8), **{name: (1, channels) for name, channels in LAYOUT_CHANNELS.items()}}
    assert flow.leaf_shapes == expected == flow.config.leaf_shapes
    out = flow(leaves(flow, 2), torch.tensor([3.0, 900.0]), torch.randn(2, 65, 192))
    assert {name: tuple(v.shape[1:]) for name, v in out.items()} == expected
    for latent in flow.latent_mapping.values():
        stream_tokens = latent.to_input(torch.zeros(1, *latent.latent_shape)).shape[1]
        assert latent.pos_emb.shape == (stream_tokens, 192)
    with torch.device("meta"):
        published = SparseStructureFlow(PUBLISHED_SS).latent_mapping
    assert published["shape"].latent_shape == (4096, 8)
    for latent in published.values():
        # For a patch size of 1, the shape of a leaf is read as in the stock code.
        assert latent.latent_shape == (latent.pos_emb.shape[0], latent.input_layer.in_features)


def test_untrained_velocity_is_zero() -> None:
    flow = SparseStructureFlow(TINY)
    out = flow(leaves(flow, 1), torch.tensor(500.0), torch.randn(1, 5, 16))
    assert not any(v.any() for v in out.values())


def test_shape_is_independent_of_layout_but_not_vice_versa() -> None:
    flow = tiny_flow()
    x, t, cond = leaves(flow, 1), torch.tensor([300.0]), torch.randn(1, 5, 16)
    base = flow(x, t, cond)
    moved = flow({**x, "scale": x["scale"] + 1}, t, cond)
    assert torch.equal(base["shape"], moved["shape"])
    assert not torch.equal(base["translation"], moved["translation"])
    moved = flow({**x, "shape": x["shape"] + torch.randn_like(x["shape"])}, t, cond)
    assert not torch.equal(base["shape"], moved["shape"])
    assert not torch.equal(base["translation"], moved["translation"])


@pytest.mark.parametrize("qk_rms_norm", [False, True])
def test_joint_attention_equals_masked_attention_over_all_tokens(qk_rms_norm: bool) -> None:
    """Oracle: one attention over the joined sequence with the protected pairs masked out."""
    torch.manual_seed(0)
    attention = JointSelfAttention(16, 2, qk_rms_norm).double()
    x = {"shape": torch.randn(2, 6, 16).double(), "6drotation_normalized": torch.randn(2, 3, 16).double()}
    q, k, v = [], [], []
    for name, tokens in x.items():
        parts = attention.to_qkv[name](tokens).reshape(2, -1, 3, 2, 8)
        for index, store in enumerate((q, k, v)):
            part = parts[:, :, index].transpose(1, 2)
            if qk_rms_norm and index < 2:
                part = part / part.pow(2).mean(-1, keepdim=True).add(torch.finfo(torch.float32).eps).sqrt()
            store.append(part)
    q, k, v = (torch.cat(parts, dim=2) for parts in (q, k, v))
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[:6, 6:] = False
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf)
    joined = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 9, 16)
    out = attention(x)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}  # the norm computes in float32
    torch.testing.assert_close(out["shape"], attention.to_out["shape"](joined[:, :6]), **tolerance)
    layout = attention.to_out["6drotation_normalized"](joined[:, 6:])
    torch.testing.assert_close(out["6drotation_normalized"], layout, **tolerance)


def test_cross_attention_norms_queries_and_keys() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(8, 6, 2, qk_rms_norm=True)
    x, context = torch.randn(1, 3, 8), torch.randn(1, 4, 6)
    base = attention(x, context)
    with torch.no_grad():
        attention.to_q.weight.mul_(7)
        attention.to_q.bias.mul_(7)
    torch.testing.assert_close(attention(x, context), base, rtol=1e-4, atol=1e-5)
    norm = HeadRMSNorm(2, 4)
    assert norm(torch.randn(1, 2, 5, 4)).pow(2).mean(-1).sub(1).abs().max() < 1e-3


def test_unconditional_call_equals_a_zero_context() -> None:
    flow = tiny_flow()
    x, t, cond = leaves(flow, 1), torch.tensor([300.0]), torch.randn(1, 5, 16)
    unconditional, zeroed = flow(x, t, cond, cfg=True), flow(x, t, torch.zeros_like(cond))
    conditional = flow(x, t, cond)
    for name in x:
        assert torch.equal(unconditional[name], zeroed[name])
        assert not torch.equal(unconditional[name], conditional[name])


def test_missing_step_size_equals_zero() -> None:
    flow = tiny_flow()
    x, t, cond = leaves(flow, 1), torch.tensor([300.0]), torch.randn(1, 5, 16)
    absent, zero, half = (flow(x, t, cond, d=d) for d in (None, torch.zeros(1), torch.tensor([500.0])))
    assert torch.equal(absent["shape"], zero["shape"])
    assert not torch.equal(absent["shape"], half["shape"])


@pytest.mark.parametrize("share_mod", [False, True])
def test_batched_equals_single(share_mod: bool) -> None:
    flow = tiny_flow(share_mod=share_mod, qk_rms_norm_cross=True, layout_mlp_ratio=1.0)
    x, t, cond = leaves(flow, 3), torch.tensor([0.0, 10.0, 999.0]), torch.randn(3, 5, 16)
    together = flow(x, t, cond)
    for i in range(3):
        alone = flow({name: v[i : i + 1] for name, v in x.items()}, t[i], cond[i : i + 1])
        for name in x:
            torch.testing.assert_close(together[name][i : i + 1], alone[name], rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient_also_under_autocast() -> None:
    flow = tiny_flow(share_mod=True)
    x, t, cond = leaves(flow, 2), torch.tensor([10.0, 999.0]), torch.randn(2, 5, 16)
    exact = flow(x, t, cond, d=torch.tensor([1.0, 2.0]))
    with torch.autocast("cpu", torch.bfloat16):
        out = flow(x, t, cond, d=torch.tensor([1.0, 2.0]))
    for name in x:
        torch.testing.assert_close(out[name].float(), exact[name], rtol=0.1, atol=0.1)
    sum(v.float().square().sum() for v in out.values()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_wrong_leaves_are_refused() -> None:
    flow = tiny_flow()
    x = leaves(flow, 1)
    del x["scale"]
    with pytest.raises(ValueError, match="latent leaves"):
        flow(x, torch.zeros(1), torch.randn(1, 5, 16))


def test_patches_hold_neighbouring_cells() -> None:
    x = torch.randn(2, 64, 3)
    patches = grid_patches(x, 2)
    grid = x.reshape(2, 4, 4, 4, 3)
    torch.testing.assert_close(patches[:, 5], grid[:, 2:4, 0:2, 2:4].reshape(2, -1))
    assert torch.equal(patches_to_grid(patches, 2), x)


@pytest.mark.parametrize("bad", [{"num_heads": 5}, {"patch_size": 3}, {"num_blocks": 0}, {"layout_mlp_ratio": -1.0}])
def test_invalid_sizes_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SSFlowConfig(**bad)


def test_fold_cells_round_trip() -> None:
    grid = torch.randn(2, 1, 8, 8, 8)
    folded = fold_cells(grid, 4)
    assert folded.shape == (2, 64, 2, 2, 2)
    torch.testing.assert_close(folded[:, :, 1, 0, 1], grid[:, 0, 4:8, 0:4, 4:8].flatten(1))
    assert torch.equal(unfold_cells(folded, 4), grid)


def test_tokens_are_row_major() -> None:
    grid = torch.randn(1, 3, 4, 4, 4)
    tokens = grid_to_tokens(grid)
    assert torch.equal(tokens[0, 1 * 16 + 2 * 4 + 3], grid[0, :, 1, 2, 3])
    assert torch.equal(tokens_to_grid(tokens), grid)
    with pytest.raises(ValueError, match="cubic"):
        tokens_to_grid(torch.zeros(1, 65, 3))


@pytest.mark.parametrize("refine", [0, 8])
def test_autoencoder_overfits_a_cube(refine: int) -> None:
    """A few steps on one batch must beat the best constant by far."""
    torch.manual_seed(0)
    encoder = SSEncoder(SSEncoderConfig(resolution=8, patch_size=4, model_channels=16, num_res_blocks=1))
    decoder = SSDecoder(
        SSDecoderConfig(resolution=8, patch_size=4, model_channels=16, num_res_blocks=1, refine_channels=refine)
    )
    occupancy = torch.zeros(4, 1, 8, 8, 8)
    for i in range(4):
        occupancy[i, :, i : i + 4, 2:6, 3 - i // 2 : 6] = 1
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-2)
    for _ in range(120):
        mean, logvar = encoder(occupancy)
        loss = F.binary_cross_entropy_with_logits(decoder(sample_latent(mean, logvar - 6)), occupancy)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = decoder(encoder(occupancy)[0])
    assert logits.shape == occupancy.shape
    assert ((logits > 0) == occupancy.bool()).float().mean() > 0.97  # all empty: 0.89
