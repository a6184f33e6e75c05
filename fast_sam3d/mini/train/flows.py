"""Flow-matching losses of the two generators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fast_sam3d.mini.data.shards import Objects
from fast_sam3d.mini.pose import LAYOUT_LEAVES
from fast_sam3d.mini.train.conditions import crops, layout_targets, standardise

DROP = 0.1  # share of samples trained without condition
LAYOUT_WEIGHT = 0.4  # of each layout leaf against the shape


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Times [count] in (0, 1): logit-normal around 0.73, a quarter uniform so that the noisy end is learnt too."""
    logit = torch.sigmoid(1 + torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.25, uniform, logit).clamp(1e-4, 1 - 1e-4)


def keep_condition(count: int, generator: torch.Generator) -> Tensor:
    """1 where the condition stays, 0 where it is dropped, [count, 1, 1]."""
    return (torch.rand(count, 1, 1, generator=generator) >= DROP).float()


class SSFlowLoss:
    """Mean squared velocity error of shape and layout leaves.

    Args:
        objects: with the views' arrays.
        latents: [n, tokens, 8] float16, of the objects.
        statistics: of the layout leaves.
        backbone, embedder: what is trained.
        draws: noises per crop; the embedder runs once for all of them.
    """

    def __init__(self, objects: Objects, latents: Tensor, statistics: dict, backbone: nn.Module, embedder: nn.Module,
                 device: torch.device, draws: int = 2) -> None:  # fmt: skip
        self.objects, self.latents, self.statistics = objects, latents, statistics
        self.backbone, self.embedder, self.device, self.draws = backbone, embedder, device, draws

    def batch(self, generator: torch.Generator, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Crops and clean leaves of `count` random views."""
        rows = torch.randint(len(self.objects) * self.objects.n_views, (count,), generator=generator)
        pose = self.objects.arrays["pose"][rows.numpy()]
        leaves = standardise(layout_targets(pose), self.statistics)
        leaves["shape"] = self.latents[rows // self.objects.n_views].float()
        return crops(self.objects, rows, generator), leaves

    def __call__(self, generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        inputs, clean = self.batch(generator, batch // self.draws)
        clean = {name: leaf.repeat(self.draws, 1, 1).to(self.device) for name, leaf in clean.items()}
        count = len(clean["shape"])
        t = sample_times(count, generator)
        keep = keep_condition(count, generator).to(self.device)
        noise = {
            name: torch.randn(clean[name].shape, generator=generator).to(self.device) for name in sorted(clean)
        }
        tokens = self.embedder(**{name: value.to(self.device) for name, value in inputs.items()})
        context = tokens.repeat(self.draws, 1, 1) * keep
        at = t.to(self.device)[:, None, None]
        mixed = {name: torch.lerp(noise[name], clean[name], at) for name in clean}
        velocity = self.backbone(mixed, t.to(self.device) * 1000, context)
        return {
            name: (1.0 if name == "shape" else LAYOUT_WEIGHT)
            * (velocity[name].float() - (clean[name] - noise[name])).square().mean()
            for name in ("shape", *LAYOUT_LEAVES)
        }
