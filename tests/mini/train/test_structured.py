"""Losses of the structured latent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fast_sam3d.mini.train import structured
from fast_sam3d.mini.train.slat_vae import SLatEncoder
from fast_sam3d.mini.train.structured import SLatAutoencoderLoss, SLatFlowLoss
from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow

CPU = torch.device("cpu")


@pytest.fixture
def autoencoder(objects, tiny) -> SLatAutoencoderLoss:
    torch.manual_seed(0)
    config = tiny.pipeline
    gaussians = {
        "slat_decoder_gs": GaussianDecoder(config.slat_decoder_gs),
        "slat_decoder_gs_4": GaussianDecoder(config.slat_decoder_gs_4),
    }
    return SLatAutoencoderLoss(
        objects, SLatEncoder(tiny.slat_encoder), MeshDecoder(config.slat_decoder_mesh), gaussians, CPU
    )


@pytest.fixture
def flow(objects, tiny) -> SLatFlowLoss:
    torch.manual_seed(0)
    config = tiny.pipeline
    latents = torch.randn(int(objects.starts[-1]), 8).half()
    return SLatFlowLoss(
        objects,
        latents,
        torch.full((8,), 0.5),
        torch.full((8,), 2.0),
        StructuredLatentFlow(config.slat_flow),
        ConditionEmbedder(config.ss_embedder),
        CPU,
    )


def grad(module: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_voxels_of_picked_objects(objects):
    coords = structured.coords_of(objects, [3, 1])
    sdf, rgb = structured.contents_of(objects, [3, 1])
    count = len(objects.voxels("coords", 3))
    assert coords.dtype == torch.int32
    assert coords[:count, 0].eq(0).all() and coords[count:, 0].eq(1).all()
    np.testing.assert_array_equal(coords[count:, 1:], objects.voxels("coords", 1))
    assert sdf.shape == (len(coords), 64) and rgb.shape == (len(coords), 3)
    assert -1 <= sdf.min() < 0 < sdf.max() <= 1 and rgb.min() >= 0 and rgb.max() <= 1
    np.testing.assert_allclose(sdf[:count] * 127, objects.voxels("sdf", 3), atol=1e-4)


def test_autoencoder_loss_has_gradients_in_every_network(autoencoder):
    losses = autoencoder(torch.Generator().manual_seed(0), 1)
    assert set(losses) == {"sdf", "rgb", "kl", "slat_decoder_gs", "slat_decoder_gs_4"}
    assert all(value.isfinite() and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(grad(m) > 0 for m in (autoencoder.encoder, autoencoder.mesh, *autoencoder.gaussians.values()))


def test_gaussian_loss_has_no_gradient_in_the_latent(autoencoder):
    losses = autoencoder(torch.Generator().manual_seed(0), 1)
    (losses["slat_decoder_gs"] + losses["slat_decoder_gs_4"]).backward()
    assert grad(autoencoder.encoder) == grad(autoencoder.mesh) == 0
    assert all(grad(decoder) > 0 for decoder in autoencoder.gaussians.values())


def test_batched_encoding_equals_single_encoding(objects, autoencoder):
    latents = structured.encode_contents(objects, autoencoder.encoder, CPU)
    assert latents.shape == (objects.starts[-1], 8) and latents.dtype == torch.float16
    sdf, rgb = structured.contents_of(objects, [2])
    voxels = structured.SparseTensor(torch.cat([sdf, rgb], 1), structured.coords_of(objects, [2]))
    with torch.no_grad():
        alone = autoencoder.encoder(voxels)[0]
    torch.testing.assert_close(latents[objects.starts[2] : objects.starts[3]].float(), alone, atol=4e-3, rtol=4e-3)


def test_field_errors_by_hand(objects, autoencoder):
    error = structured.field_error(objects, autoencoder.encoder, autoencoder.mesh, CPU)
    assert set(error) == {"distance_mae_voxels", "colour_mae"}
    assert all(0 < value < 2 for value in error.values())


def test_flow_loss_has_gradients(flow):
    losses = flow(torch.Generator().manual_seed(0), 2)
    assert losses["slat"].isfinite() and losses["slat"] > 0
    losses["slat"].backward()
    assert grad(flow.backbone) > 0
    again = flow(torch.Generator().manual_seed(0), 2)["slat"]
    assert torch.equal(losses["slat"], again)


class Oracle(nn.Module):
    """The velocity towards known clean latents."""

    def __init__(self, loss: SLatFlowLoss) -> None:
        super().__init__()
        self.loss, self.coords = loss, None

    def forward(self, mixed, t, context, coords):
        self.coords = coords
        store, objects = self.loss, self.loss.objects
        clean = []
        for row in range(int(coords[:, 0].max()) + 1):
            own = coords[coords[:, 0] == row][:, 1:].numpy()
            index = next(i for i in range(len(objects)) if np.array_equal(objects.voxels("coords", i), own))
            latent = store.latents[objects.starts[index] : objects.starts[index + 1]].float()
            clean.append((latent - store.mean) / store.std)
        at = (t / 1000)[coords[:, 0].long()][:, None]
        return ((torch.cat(clean) - mixed[0]) / (1 - at))[None]


def test_loss_of_the_true_velocity_is_zero(flow):
    flow.backbone = oracle = Oracle(flow)
    assert flow(torch.Generator().manual_seed(4), 3)["slat"].item() == pytest.approx(0, abs=1e-4)
    assert int(oracle.coords[:, 0].max()) == 2
