"""What the structure's decoder makes of an error of the latent, by its direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fast_sam3d.model.ss_vae import fold_cells, tokens_to_grid

NOISE = 0.4
"""Standard deviation of the error around which the decoder is looked at: about what a trained flow leaves."""

SHAPES = 1536


def token_blocks(tokens: Tensor, edge: int) -> Tensor:
    """Shape leaf [B, R**3, C] -> what each block of edge**3 cells holds, [B * (R / edge)**3, C * edge**3]."""
    return fold_cells(tokens_to_grid(tokens), edge).movedim(1, -1).flatten(0, 3)


def sensitivity(decoder: nn.Module, latents: Tensor, edge: int, generator: torch.Generator, device: torch.device,
                batch: int = 64) -> Tensor:  # fmt: skip
    """Fisher information of the decoded occupancy about a block of the latent, averaged over blocks and shapes.

    To second order, an error e of a block costs 0.5 * e @ F @ e nats of the occupancy. It is the mean outer product of
    the gradients that voxels drawn from the decoder's own probabilities have, so one backward pass per shape is enough.

    Args:
        decoder: latent grid [B, C, R, R, R] to logits of the voxels.
        latents: [n, R**3, C], shape leaves of unit mean square; at most `SHAPES` of them are looked at.
        edge: of a block, in cells: those that share a token of the flow.
        generator: of the noise and the drawn voxels.

    Returns:
        [C * edge**3, C * edge**3] float32 on the CPU, symmetric, its mean diagonal 1, in the order of `token_blocks`.
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
        blocks = token_blocks(gradient.cpu(), edge)
        total = total + blocks.T @ blocks
    return total / total.diagonal().mean()


def weighting(information: Tensor, share: float) -> Tensor:
    """Factor L whose |e @ L|**2 is the squared error of a block, `share` of it weighed by what the decoder notices.

    The rest counts all directions alike, so that those it hardly notices are still learnt. Any such weighting has the
    same minimum, the mean velocity: it only says what a network too small for all of it should learn first.

    Args:
        information: [D, D], see `sensitivity`.
        share: 0 <= share < 1.

    Returns:
        [D, D], lower triangular.
    """
    return torch.linalg.cholesky(torch.lerp(torch.eye(len(information)), information, share))
