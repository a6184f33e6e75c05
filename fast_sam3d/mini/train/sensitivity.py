"""Sensitivity of the structure's decoder to errors of the latent, by direction, and the loss weighting from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fast_sam3d.mini.train.loop import step_generator
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.model.latents import grid_patches
from fast_sam3d.model.ss_vae import SSDecoder, tokens_to_grid

NOISE = 0.4
"""Standard deviation of the latent noise at which the decoder is evaluated: about the error of a trained flow."""

SHAPES = 1536


def sensitivity(decoder: nn.Module, latents: Tensor, edge: int, generator: torch.Generator, device: torch.device,
                batch: int = 64) -> Tensor:  # fmt: skip
    """Fisher information of the decoded occupancy about a block of the latent, averaged over blocks and shapes.

    To second order, an error e of a block costs 0.5 * e @ F @ e nats of occupancy. F is the mean outer product of the
    log-likelihood gradients of voxels sampled from the decoder's probabilities: one backward pass per shape.

    Args:
        decoder: latent grid [B, C, R, R, R] to logits of the voxels.
        latents: [n, R**3, C], shape leaves of unit mean square; at most `SHAPES` of them are used.
        edge: of a block in cells; a block is one token of the flow.
        generator: of the noise and the sampled voxels.

    Returns:
        [edge**3 * C, edge**3 * C] float32 on the CPU, symmetric, its mean diagonal 1, in the order of
        `latents.grid_patches`.
    """
    picked = torch.randperm(len(latents), generator=generator)[:SHAPES]
    total = torch.zeros(())
    for rows in picked.split(batch):
        clean = latents[rows].float()
        noisy = (clean + NOISE * torch.randn(clean.shape, generator=generator)).to(device).requires_grad_()
        logits = decoder(tokens_to_grid(noisy)).float()
        share = torch.sigmoid(logits.detach())
        drawn = torch.bernoulli(share.cpu(), generator=generator).to(device)
        (gradient,) = torch.autograd.grad((logits * (drawn - share)).sum(), noisy)
        blocks = grid_patches(gradient.cpu(), edge).flatten(0, 1)
        total = total + blocks.T @ blocks
    return total / total.diagonal().mean()


def weighting_factor(information: Tensor, share: float) -> Tensor:
    """Factor L of the weighted squared error |e @ L|**2 of a block: F for `share` of it, the identity for the rest.

    The identity keeps directions of low sensitivity trained. Any such weighting has the same minimum, the mean
    velocity: it only sets the priorities of a network with limited capacity.

    Args:
        information: [D, D], see `sensitivity`.
        share: 0 <= share < 1.

    Returns:
        [D, D], lower triangular.
    """
    return torch.linalg.cholesky(torch.lerp(torch.eye(len(information)), information, share))


def error_weighting(recipe: Recipe, encoded: Mapping[str, Any], seed: int, device: torch.device) -> Tensor:
    """`weighting_factor` of a trained occupancy autoencoder.

    Args:
        encoded: result of the stage ss_vae: latents, and the decoder's state.
        seed: of the training run.
    """
    config = recipe.pipeline
    decoder = SSDecoder(config.ss_decoder).to(device)
    decoder.load_state_dict(encoded["decoder"])
    chance = step_generator(seed, "sensitivity", 0)
    information = sensitivity(decoder.eval(), encoded["latents"], config.ss_flow.patch_size, chance, device)
    return weighting_factor(information, recipe.decoder_share)
