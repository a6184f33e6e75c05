"""Training of the occupancy autoencoder, and the latents of all shapes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.mini.data.samples import RESOLUTION
from fast_sam3d.mini.data.shards import Objects
from fast_sam3d.model.ss_vae import SSDecoder, SSEncoder, sample_latent
from fast_sam3d.run.progress import track

SS_KL = 1e-4
SS_DILATION_WEIGHT = 1.0


def occupancy(objects: Objects, indices: list[int]) -> Tensor:
    """Occupancy grids [B, 1, R, R, R] float32 of some objects."""
    grids = torch.zeros(len(indices), 1, RESOLUTION, RESOLUTION, RESOLUTION)
    for row, index in enumerate(indices):
        x, y, z = torch.from_numpy(objects.voxels("coords", index).astype(np.int64)).T
        grids[row, 0, x, y, z] = 1
    return grids


def turn_about_z(grid: Tensor, generator: torch.Generator) -> Tensor:
    """Random rotation about z and mirroring of a batch [B, C, x, y, z], for augmentation."""
    grid = torch.rot90(grid, int(torch.randint(4, (), generator=generator)), (2, 3))
    return grid.flip(2) if torch.rand((), generator=generator) < 0.5 else grid


class SSAutoencoderLoss:
    """Binary cross-entropy and soft Dice loss of the occupancy, and a small KL term."""

    def __init__(self, objects: Objects, encoder: SSEncoder, decoder: SSDecoder, device: torch.device) -> None:
        self.objects, self.encoder, self.decoder, self.device = objects, encoder, decoder, device

    def __call__(self, generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        picked = torch.randint(len(self.objects), (batch,), generator=generator).tolist()
        truth = turn_about_z(occupancy(self.objects, picked), generator).to(self.device)
        mean, logvar = self.encoder(truth)
        mean, logvar = mean.float(), logvar.float()
        latent = sample_latent(mean.cpu(), logvar.cpu(), generator).to(self.device)
        logits = self.decoder(latent).float()
        share = torch.sigmoid(logits)
        overlap = 2 * (share * truth).sum((1, 2, 3, 4)) + 1
        dice = 1 - overlap / ((share + truth).sum((1, 2, 3, 4)) + 1)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {
            "bce": 10 * F.binary_cross_entropy_with_logits(logits, truth),
            "dice": dice.mean(),
            "kl": SS_KL * kl * mean[0].numel() / 64,
        }


@torch.no_grad()
def normalise_latents(objects: Objects, encoder: SSEncoder, decoder: SSDecoder, device: torch.device) -> None:
    """Scale both networks' latent channels so that latents have unit mean square, the scale that the flow expects."""
    count = min(len(objects), 1024)
    means = [encoder(occupancy(objects, list(range(i, min(i + 64, count)))).to(device))[0] for i in range(0, count, 64)]
    gain = torch.cat(means).square().mean((0, 2, 3, 4)).sqrt()
    last = encoder.out_layer[-1]
    n = len(gain)
    last.weight[:n] /= gain[:, None, None, None, None]
    last.bias[:n] /= gain
    last.bias[n:] -= 2 * gain.log()
    decoder.input_layer.weight *= gain[None, :, None, None, None]


@torch.no_grad()
def occupancy_iou(objects: Objects, encoder: SSEncoder, decoder: SSDecoder, device: torch.device) -> float:
    """Mean intersection over union of the voxels decoded from the latent's mean with the true ones."""
    scores = []
    for first in range(0, len(objects), 50):
        truth = occupancy(objects, list(range(first, min(first + 50, len(objects))))).to(device) > 0
        got = decoder(encoder(truth.float())[0]) > 0
        scores.append((got & truth).sum((1, 2, 3, 4)) / (got | truth).sum((1, 2, 3, 4)))
    return float(torch.cat(scores).mean())


def coarse_occupancy(objects: Objects, cells: int) -> Tensor:
    """Occupancy [n, cells^3] bool of all objects on a coarser grid."""
    side = RESOLUTION // cells
    rows = np.zeros((len(objects), cells, cells, cells), bool)
    for index in range(len(objects)):
        x, y, z = (objects.voxels("coords", index) // side).T
        rows[index, x, y, z] = True
    return torch.from_numpy(rows.reshape(len(objects), -1))


@torch.no_grad()
def encode_shapes(objects: Objects, encoder: SSEncoder, device: torch.device) -> Tensor:
    """Latents [n, r^3, 8] float16 of all objects: the encoder's mean as shape tokens."""
    rows = []
    for first in track(range(0, len(objects), 64), "shape latents"):
        grids = occupancy(objects, list(range(first, min(first + 64, len(objects))))).to(device)
        rows.append(encoder(grids)[0].flatten(2).transpose(1, 2).cpu().half())
    return torch.cat(rows)
