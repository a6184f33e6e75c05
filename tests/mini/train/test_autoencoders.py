"""The occupancy autoencoder's loss and latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast_sam3d.mini.train import autoencoders
from fast_sam3d.mini.train.autoencoders import SSAutoencoderLoss
from fast_sam3d.model.ss_vae import SSDecoder, SSEncoder, tokens_to_grid

CPU = torch.device("cpu")


@pytest.fixture
def networks(tiny) -> tuple[SSEncoder, SSDecoder]:
    torch.manual_seed(0)
    return SSEncoder(tiny.ss_encoder), SSDecoder(tiny.pipeline.ss_decoder)


def test_occupancy_grid_of_voxels(objects):
    grids = autoencoders.occupancy(objects, [2, 0])
    assert grids.shape == (2, 1, 32, 32, 32)
    np.testing.assert_array_equal(np.argwhere(grids[0, 0].numpy() > 0), objects.voxels("coords", 2))
    assert grids[1].sum() == len(objects.voxels("coords", 0))


def test_coarse_occupancy_against_pooling(objects):
    coarse = autoencoders.coarse_occupancy(objects, 8)
    pooled = torch.nn.functional.max_pool3d(autoencoders.occupancy(objects, list(range(len(objects)))), 4)
    assert coarse.dtype == torch.bool
    assert torch.equal(coarse, pooled.flatten(1) > 0)
    assert 0 < coarse.float().mean() < 1


def test_augmentation_keeps_the_height_of_every_voxel():
    # Random, because an object may equal its rotated and mirrored copies.
    grid = (torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    seen = set()
    for seed in range(40):
        turned = autoencoders.turn_about_z(grid, torch.Generator().manual_seed(seed))
        assert torch.equal(turned.sum((2, 3)), grid.sum((2, 3)))
        seen.add(turned.numpy().tobytes())
    assert len(seen) == 8


def test_loss_has_gradients_in_both_networks(objects, networks):
    encoder, decoder = networks
    loss = SSAutoencoderLoss(objects, encoder, decoder, CPU)
    losses = loss(torch.Generator().manual_seed(0), 2)
    assert set(losses) == {"bce", "dice", "kl"} and all(v.isfinite() and v > 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters()) for net in networks)
    again = loss(torch.Generator().manual_seed(0), 2)
    assert all(torch.equal(losses[name], again[name]) for name in losses)


def test_normalising_latents_does_not_change_the_decoded_shape(objects, networks):
    encoder, decoder = networks
    with torch.no_grad():
        encoder.out_layer[-1].weight[:8] *= torch.arange(1, 9)[:, None, None, None, None] * 0.7
        grids = autoencoders.occupancy(objects, list(range(len(objects))))
        mean, logvar = encoder(grids)
        before = decoder(mean)
        gain = mean.square().mean((0, 2, 3, 4)).sqrt()
        autoencoders.normalise_latents(objects, encoder, decoder, CPU)
        normal, spread = encoder(grids)
    assert (gain - 1).abs().max() > 0.2, "nothing to normalise"
    torch.testing.assert_close(normal.square().mean((0, 2, 3, 4)), torch.ones(8))
    torch.testing.assert_close(normal, mean / gain[None, :, None, None, None])
    torch.testing.assert_close((0.5 * (logvar - spread)).exp(), gain[None, :, None, None, None].expand_as(mean))
    with torch.no_grad():
        torch.testing.assert_close(decoder(normal), before, atol=1e-4, rtol=1e-4)


def test_latents_are_the_encoders_mean_as_tokens(objects, networks):
    encoder, _ = networks
    tokens = autoencoders.encode_shapes(objects, encoder, CPU)
    assert tokens.shape == (len(objects), 512, 8) and tokens.dtype == torch.float16
    with torch.no_grad():
        mean = encoder(autoencoders.occupancy(objects, [0, 1, 2, 3]))[0]
    torch.testing.assert_close(tokens_to_grid(tokens.float()), mean, atol=2e-3, rtol=2e-3)


def test_iou_of_perfect_and_full_predictions(objects):
    def identity(grids: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grids, None

    assert autoencoders.occupancy_iou(objects, identity, lambda x: x - 0.5, CPU) == 1.0
    full = autoencoders.occupancy_iou(objects, identity, lambda x: x + 0.5, CPU)
    share = np.mean([len(objects.voxels("coords", i)) / 32**3 for i in range(len(objects))])
    assert full == pytest.approx(share, rel=1e-5)
