"""Flow-matching loss of the sparse-structure generator, and parts that both generators share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.mini.data.shards import Objects
from fast_sam3d.mini.train.conditions import crops, layout_targets, standardise
from fast_sam3d.model.config import LAYOUT_CHANNELS
from fast_sam3d.model.latents import grid_patches

DROP = 0.1  # share of samples that are trained without condition
LAYOUT_WEIGHT = 0.4  # of each layout leaf, relative to the shape
READOUT_WEIGHT = 0.5
COLOUR_READOUT_WEIGHT = 3.0


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Times [count] in (0, 1): half uniform, half logit-normal around 0.5.

    Near the data the network needs no condition, near the noise it has nothing else. Trained mostly near the data, as
    is common for image latents, this network never learned to use the picture.
    """
    logit = torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, uniform, logit).clamp(1e-4, 1 - 1e-4)


def keep_condition(count: int, generator: torch.Generator) -> Tensor:
    """[count, 1, 1]: 1 where the condition is kept, 0 where it is dropped."""
    return (torch.rand(count, 1, 1, generator=generator) >= DROP).float()


class Readout(nn.Module):
    """Auxiliary predictions of layout, coarse occupancy and colours from the context tokens, in training only.

    With the flow's loss alone, the embedder first becomes constant, because its tokens are noise until attention has
    learned to use them. The direct predictions keep it informative. Shape and layout need no colour, but the structured
    latent uses the same tokens and does.

    Args:
        channels: width of the tokens.
        cells: edge of the coarse occupancy grid.
    """

    PARTS = 2
    """Colours are predicted for PARTS x PARTS parts of each patch."""

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.layout = sum(LAYOUT_CHANNELS.values())
        self.net = nn.Sequential(
            nn.Linear(2 * channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, self.layout + cells**3)
        )
        self.colour = nn.Linear(channels, 3 * self.PARTS**2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions from the tokens.

        Args:
            tokens: [B, L, channels], the descriptor's token last.

        Returns:
            Standardised layout [B, 13], logits of the coarse cells [B, cells^3], and colours in 0..1
            [B, 3, S, S] of the S = PARTS * (L - 1)**0.5 parts along each side of the crop.
        """
        out = self.net(torch.cat([tokens.mean(1), tokens[:, -1]], 1)).float()
        patches = self.colour(tokens[:, :-1]).float()
        side = round(patches.shape[1] ** 0.5)
        colours = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (side, side)), self.PARTS)
        return out[:, : self.layout], out[:, self.layout :], colours

    @staticmethod
    def colour_error(predicted: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of predicted colours against the mean object pixel of each part; empty parts are ignored.

        Args:
            predicted: [B, 3, S, S].
            image: [B, 3, H, H] in 0..1, H a multiple of S.
            mask: [B, 1, H, H] in 0..1.
        """
        pool = image.shape[-1] // predicted.shape[-1]
        cover = F.avg_pool2d(mask, pool)
        mean = F.avg_pool2d(image * mask, pool) / cover.clamp_min(1e-6)
        seen = (cover > 0).float()
        return ((predicted - mean).square() * seen).sum() / (3 * seen.sum()).clamp_min(1)


class SSFlowLoss:
    """Mean squared velocity error of shape and layout leaves, and the auxiliary losses of `Readout`.

    Args:
        objects: with the views' arrays.
        latents: [n, tokens, 8] float16, of the objects.
        coarse: [n, cells^3] bool, occupancy of each cell of the latent grid.
        statistics: of the layout leaves.
        backbone, embedder, readout: trained networks.
        weighting: [D, D] of the shape's error in a block of the grid's cells, see `sensitivity.weighting_factor`; the
            block's size follows from D.
        draws: noise samples per crop; the embedder runs once for all of them.
    """

    def __init__(self, objects: Objects, latents: Tensor, coarse: Tensor, statistics: dict, backbone: nn.Module,
                 embedder: nn.Module, readout: Readout, weighting: Tensor, device: torch.device,
                 draws: int = 2) -> None:  # fmt: skip
        self.objects, self.latents, self.coarse, self.statistics = objects, latents, coarse, statistics
        self.backbone, self.embedder, self.readout, self.device, self.draws = backbone, embedder, readout, device, draws
        self.weighting = weighting.to(device)
        self.edge = round((len(weighting) / latents.shape[-1]) ** (1 / 3))

    def batch(self, generator: torch.Generator, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Crops, clean leaves and coarse occupancy of `count` random views."""
        rows = torch.randint(len(self.objects) * self.objects.n_views, (count,), generator=generator)
        pose = self.objects.arrays["pose"][rows.numpy()]
        leaves = standardise(layout_targets(pose), self.statistics)
        leaves["shape"] = self.latents[rows // self.objects.n_views].float()
        return crops(self.objects, rows, generator), leaves, self.coarse[rows // self.objects.n_views].float()

    def __call__(self, generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        inputs, clean, coarse = self.batch(generator, batch // self.draws)
        layout = torch.cat([clean[name][:, 0] for name in LAYOUT_CHANNELS], 1).to(self.device)
        clean = {name: leaf.repeat(self.draws, 1, 1).to(self.device) for name, leaf in clean.items()}
        count = len(clean["shape"])
        t = sample_times(count, generator)
        keep = keep_condition(count, generator).to(self.device)
        noise = {name: torch.randn(clean[name].shape, generator=generator).to(self.device) for name in sorted(clean)}
        tokens = self.embedder(**{name: value.to(self.device) for name, value in inputs.items()})
        context = tokens.repeat(self.draws, 1, 1) * keep
        at = t.to(self.device)[:, None, None]
        mixed = {name: torch.lerp(noise[name], clean[name], at) for name in clean}
        velocity = self.backbone(mixed, t.to(self.device) * 1000, context)
        layout_guess, cells_guess, colours_guess = self.readout(tokens)
        colour = self.readout.colour_error(colours_guess, *(inputs[n].to(self.device) for n in ("image", "mask")))
        losses = {
            "readout_layout": READOUT_WEIGHT * (layout_guess - layout).square().mean(),
            "readout_cells": READOUT_WEIGHT * F.binary_cross_entropy_with_logits(cells_guess, coarse.to(self.device)),
            "readout_colours": COLOUR_READOUT_WEIGHT * colour,
        }
        errors = {name: velocity[name].float() - (clean[name] - noise[name]) for name in ("shape", *LAYOUT_CHANNELS)}
        with torch.autocast(self.device.type, enabled=False):
            shape = (grid_patches(errors.pop("shape"), self.edge) @ self.weighting).square().mean()
        layout_errors = {name: LAYOUT_WEIGHT * error.square().mean() for name, error in errors.items()}
        return losses | {"shape": shape} | layout_errors
