"""Losses of the structured latent's autoencoder, of the gaussians, and of the flow over the latent."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.mini.data.samples import RESOLUTION
from fast_sam3d.mini.data.shards import Objects
from fast_sam3d.mini.train.conditions import crops
from fast_sam3d.mini.train.flows import keep_condition, sample_times
from fast_sam3d.mini.train.slat_vae import SLatEncoder
from fast_sam3d.mini.train.surface_targets import gaussian_loss, surface_targets
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.ss_vae import sample_latent
from fast_sam3d.run.progress import track

SLAT_KL = 5e-4
COLOUR_WEIGHT = 2.0  # of the three channels in which colour starts
NEAR = 0.5  # voxels; distances smaller than this have `NEAR_WEIGHT` times the weight
NEAR_WEIGHT = 4.0


def coords_of(objects: Objects, indices: list[int]) -> Tensor:
    """[N, 4] int32 (batch, x, y, z) of some objects."""
    rows = []
    for row, index in enumerate(indices):
        xyz = objects.voxels("coords", index).astype(np.int32)
        rows.append(np.concatenate([np.full((len(xyz), 1), row, np.int32), xyz], 1))
    return torch.from_numpy(np.concatenate(rows))


def contents_of(objects: Objects, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Distances [N, 64] in voxels, within -1..1, and colours [N, 3] in 0..1, of some objects' voxels."""
    sdf = np.concatenate([objects.voxels("sdf", i) for i in indices])
    rgb = np.concatenate([objects.voxels("rgb", i) for i in indices])
    return torch.from_numpy(sdf).float() / 127, torch.from_numpy(rgb).float() / 255


class SLatAutoencoderLoss:
    """Loss of distance and colour of every fine cell, of the gaussians' attributes, and a small KL term."""

    def __init__(self, objects: Objects, encoder: SLatEncoder, mesh: MeshDecoder, gaussians: dict[str, GaussianDecoder],
                 device: torch.device) -> None:  # fmt: skip
        self.objects, self.encoder, self.mesh, self.gaussians, self.device = objects, encoder, mesh, gaussians, device

    def __call__(self, generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        picked = torch.randint(len(self.objects), (batch,), generator=generator).tolist()
        coords = coords_of(self.objects, picked).to(self.device)
        sdf, rgb = (x.to(self.device) for x in contents_of(self.objects, picked))
        voxels = SparseTensor(torch.cat([sdf, rgb], 1), coords)
        mean, logvar = (x.float() for x in self.encoder(voxels))
        latent = voxels.replace(sample_latent(mean.cpu(), logvar.cpu(), generator).to(self.device))
        got, colour = self.mesh.fields_per_voxel(latent)
        weight = torch.where(sdf.abs() < NEAR, NEAR_WEIGHT, 1.0)
        distance = F.smooth_l1_loss(got.float().clamp(-1.5, 1.5), sdf, reduction="none", beta=0.05)
        losses = {
            "sdf": 5 * (weight * distance).mean(),
            "rgb": (colour.float() - rgb[:, None]).square().mean() * 10,
            "kl": SLAT_KL * 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean(),
        }
        flat = rgb[:, None].expand(-1, sdf.shape[1], -1)
        detached = latent.replace(latent.feats.detach())
        for name, decoder in self.gaussians.items():
            target = surface_targets(sdf, flat, decoder.num_gaussians, RESOLUTION, decoder.config.reach)
            losses[name] = gaussian_loss(decoder.decode_attributes(detached), target, coords, RESOLUTION)
        return losses


@torch.no_grad()
def encode_contents(objects: Objects, encoder: SLatEncoder, device: torch.device) -> Tensor:
    """Latents [all voxels, 8] float16: the encoder's mean."""
    rows = []
    for first in track(range(0, len(objects), 16), "voxel latents"):
        picked = list(range(first, min(first + 16, len(objects))))
        sdf, rgb = (x.to(device) for x in contents_of(objects, picked))
        mean, _ = encoder(SparseTensor(torch.cat([sdf, rgb], 1), coords_of(objects, picked).to(device)))
        rows.append(mean.cpu().half())
    return torch.cat(rows)


@torch.no_grad()
def field_error(objects: Objects, encoder: SLatEncoder, mesh: MeshDecoder, device: torch.device) -> dict[str, float]:
    """Mean absolute error near the surface: distance in voxels, colour in 0..1."""
    errors = []
    for index in range(min(len(objects), 50)):
        sdf, rgb = (x.to(device) for x in contents_of(objects, [index]))
        voxels = SparseTensor(torch.cat([sdf, rgb], 1), coords_of(objects, [index]).to(device))
        got, colour = mesh.fields_per_voxel(voxels.replace(encoder(voxels)[0]))
        errors.append([(got - sdf).abs()[sdf.abs() < NEAR].mean(), (colour - rgb[:, None]).abs().mean()])
    distance, colour = torch.tensor(errors).mean(0).tolist()
    return {"distance_mae_voxels": distance, "colour_mae": colour}


class SLatFlowLoss:
    """Mean squared velocity error over the voxels of a batch of objects.

    Args:
        objects: with the views' arrays and coords.
        latents: [all voxels, 8] float16.
        mean, std: [8], of the latents.
        backbone: trained.
        embedder: of the condition.
    """

    def __init__(self, objects: Objects, latents: Tensor, mean: Tensor, std: Tensor, backbone: nn.Module,
                 embedder: nn.Module, device: torch.device) -> None:  # fmt: skip
        self.objects, self.latents, self.mean, self.std = objects, latents, mean, std
        self.backbone, self.embedder, self.device = backbone, embedder, device

    def __call__(self, generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        rows = torch.randint(len(self.objects) * self.objects.n_views, (batch,), generator=generator)
        picked = (rows // self.objects.n_views).tolist()
        starts = self.objects.starts
        clean = torch.cat([self.latents[starts[i] : starts[i + 1]].float() for i in picked])
        clean = ((clean - self.mean) / self.std).to(self.device)
        coords = coords_of(self.objects, picked).to(self.device)
        t = sample_times(batch, generator)
        at = t.to(self.device)[coords[:, 0].long()][:, None]
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        inputs = {name: value.to(self.device) for name, value in crops(self.objects, rows, generator).items()}
        context = self.embedder(**inputs) * keep_condition(batch, generator).to(self.device)
        velocity = self.backbone(torch.lerp(noise, clean, at)[None], t.to(self.device) * 1000, context, coords)
        error = (velocity[0].float() - (clean - noise)).square().mean(0)
        return {"slat": error[:-3].mean(), "slat_colour": COLOUR_WEIGHT * error[-3:].mean()}
