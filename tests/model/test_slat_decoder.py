"""Encoder and decoders of the structured latent."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fast_sam3d.mini.train.slat_vae import SLatEncoder
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig, SLatEncoderConfig
from fast_sam3d.model.slat_decoder import CELL_ORDER, GaussianDecoder, MeshDecoder
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.sparse_transformer import WindowAttention

MESH = MeshDecoderConfig(resolution=16, model_channels=24, num_heads=2, upsample_channels=(12, 8), window_size=4)
GAUSSIAN = GaussianDecoderConfig(resolution=16, model_channels=24, num_heads=2, window_size=4)


def livened(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every weight random, so that no branch is dead."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def slat(coords: torch.Tensor, seed: int = 1) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    return SparseTensor(torch.randn(len(coords), 8, generator=generator), coords)


@pytest.mark.parametrize("shift", [0, 2])
def test_window_attention_equals_masked_attention(scatter, shift):
    torch.manual_seed(0)
    attention = WindowAttention(12, 3, window_size=4, shift=shift)
    coords = scatter([100, 60], 9)
    x = SparseTensor(torch.randn(160, 12), coords)
    cube = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // 4], dim=1)
    mask = (cube[:, None] == cube[None]).all(dim=-1)
    q, k, v = attention.to_qkv(x.feats).view(160, 3, 3, 4).permute(1, 2, 0, 3).unbind(0)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).flatten(1)
    torch.testing.assert_close(attention(x).feats, attention.to_out(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mesh", "gaussian"])
def test_batched_equals_single(scatter, kind):
    decoder = livened(MeshDecoder(MESH) if kind == "mesh" else GaussianDecoder(GAUSSIAN))
    batch = slat(scatter([70, 40], 10))
    if kind == "mesh":

        def decode(x):
            return torch.cat([f.flatten(1) for f in decoder.fields_per_voxel(x)], dim=1)
    else:

        def decode(x):
            return torch.cat([v.flatten(1) for v in decoder.decode_attributes(x).values()], dim=1)

    together = decode(batch)
    for i, rows in enumerate(batch.layout):
        torch.testing.assert_close(together[rows], decode(batch[i]), atol=1e-5, rtol=1e-5)


def test_cells_are_in_the_order_of_the_training_samples(scatter):
    batch = slat(scatter([20, 30], 10))
    cells = batch.grid.subdivided().subdivided().coords.view(-1, 64, 4)[:, list(CELL_ORDER)]
    inner = torch.tensor([[x, y, z] for x in range(4) for y in range(4) for z in range(4)])
    assert torch.equal(cells[..., 1:], batch.coords[:, None, 1:] * 4 + inner)
    assert torch.equal(cells[..., 0], batch.coords[:, None, 0].expand(-1, 64))


def test_fields_per_voxel_are_the_decoded_fields(scatter):
    decoder = livened(MeshDecoder(MESH))
    batch = slat(scatter([40], 10))
    fields, (sdf, rgb) = decoder.decode_fields(batch), decoder.fields_per_voxel(batch)
    assert sdf.shape == (40, 64)
    assert rgb.shape == (40, 64, 3)
    assert ((rgb > 0) & (rgb < 1)).all()
    place = {tuple(c): i for i, c in enumerate(fields.coords.tolist())}
    for voxel, cell in ((0, 0), (7, 27), (39, 63)):
        inner = [cell // 16, cell // 4 % 4, cell % 4]
        wanted = [0] + [4 * c + i for c, i in zip(batch.coords[voxel, 1:].tolist(), inner, strict=True)]
        row = fields.feats[place[tuple(wanted)]]
        assert torch.equal(row, torch.cat([sdf[voxel, cell, None], rgb[voxel, cell]]))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["mesh", "gaussian"])
def test_gradients_reach_every_parameter(scatter, kind, autocast):
    decoder = livened(MeshDecoder(MESH) if kind == "mesh" else GaussianDecoder(GAUSSIAN))
    batch = slat(scatter([60, 30], 8))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        if kind == "mesh":
            values = decoder.fields_per_voxel(batch)
        else:
            values = decoder.decode_attributes(batch).values()
    sum(v.float().square().mean() for v in values).backward()
    assert not [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_encoder_and_decoder_learn_a_sphere(shell):
    """A few steps on one shell: the field's error falls well below that of a constant."""
    torch.manual_seed(0)
    encoder = SLatEncoder(SLatEncoderConfig(model_channels=32))
    decoder = MeshDecoder(MESH)
    coords = shell(5, 0.8, 16)
    cells = SparseTensor(torch.zeros(len(coords), 1), coords).grid.subdivided().subdivided().coords
    points = (cells[:, 1:].view(-1, 64, 3)[:, list(CELL_ORDER)] + 0.5) / 64 - 0.5
    sdf = ((points.norm(dim=-1) - 5 / 16) * 16).clamp(-1, 1)
    rgb = points + 0.5
    x = SparseTensor(torch.cat([sdf, rgb.mean(dim=1)], dim=1), coords)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    for _ in range(40):
        mean, log_variance = encoder(x)
        assert mean.shape == log_variance.shape == (len(coords), 8)
        got_sdf, got_rgb = decoder.fields_per_voxel(x.replace(mean))
        loss = F.l1_loss(got_sdf, sdf) + F.l1_loss(got_rgb, rgb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert F.l1_loss(got_sdf, sdf) < 0.25 * sdf.abs().mean()
    mesh = decoder(x.replace(mean.detach()))[0]
    assert mesh.success
    assert (mesh.vertices.norm(dim=1) - 5 / 16).abs().mean() < 0.5 / 16


def test_encoder_checks_its_input(scatter):
    with pytest.raises(ValueError, match="67 features"):
        SLatEncoder(SLatEncoderConfig())(slat(scatter([10], 5)))


def test_untrained_decoder_gives_no_mesh(scatter):
    """Fields start at zero distance, which is no surface."""
    meshes = MeshDecoder(MESH)(slat(scatter([10, 10], 8)))
    assert [m.success for m in meshes] == [False, False]
    assert meshes[0].vertices.shape == (0, 3)


def test_gaussians_stay_near_their_voxel(scatter):
    decoder = livened(GaussianDecoder(GAUSSIAN))
    batch = slat(scatter([40, 20], 16))
    first, second = decoder(batch)
    assert len(first) == 160
    assert len(second) == 80
    centres = ((batch.coords[:40, 1:] + 0.5) / 16 - 0.5).repeat_interleave(4, dim=0)
    assert (first.get_xyz - centres).abs().max() <= 1.001 / 16
    assert torch.allclose(first.get_rotation.norm(dim=1), torch.ones(160), atol=1e-5)
    assert ((first.get_opacity > 0) & (first.get_opacity < 1)).all()
    assert (first.get_scaling > 0).all()
    attributes = decoder.decode_attributes(batch)
    rgb = 0.5 + math.sqrt(1 / (4 * math.pi)) * first._features_dc[:, 0]
    torch.testing.assert_close(rgb, attributes["rgb"][:40].flatten(0, 1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MeshDecoderConfig(out_channels=3), "out_channels"),
        (lambda: MeshDecoderConfig(upsample_channels=(8, 0)), "upsample_channels"),
        (lambda: MeshDecoderConfig(min_component=1.0), "min_component"),
        (lambda: GaussianDecoderConfig(num_gaussians=3), "num_gaussians"),
        (lambda: GaussianDecoderConfig(model_channels=10, num_heads=3), "num_heads"),
    ],
)
def test_invalid_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
