"""A texture optimised until the textured mesh looks like the gaussians from all around."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.surface import TexturedMesh
from fast_sam3d.texture.gate import BackwardGate
from fast_sam3d.texture.views import views_around

if TYPE_CHECKING:
    import torch

__all__ = ["BakeReport", "BakeSettings", "optimised"]


@dataclass(frozen=True, slots=True)
class BakeSettings:
    """Of an optimisation.

    Args:
        gate: "skipgs": `BackwardGate` decides about backward passes; "none": every step has one.
        steps: of Adam, each on one view.
        views: from all around.
        pixels: of a view's side; None: half of the texture's.
        warmup: steps before the gate decides.
        rate: learning rate of the first step; it falls to a hundredth along a cosine.
        seed: of the order of the views.
    """

    gate: str = "skipgs"
    steps: int = 600
    views: int = 32
    pixels: int | None = None
    warmup: int = 200
    rate: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.gate not in ("skipgs", "none"):
            raise ExportError(f"there is no gate {self.gate!r} of a bake: give skipgs or none")
        if min(self.steps, self.views) < 1 or self.warmup < 0 or not 0 < self.rate < math.inf:
            raise ExportError("a bake needs at least one step and one view, and a learning rate above 0")


@dataclass(frozen=True, slots=True)
class BakeReport:
    """What an optimisation did.

    Args:
        steps: forward passes. backward: passes that were not skipped.
        before, after: mean absolute difference to the gaussians over all views, of 1.
        view_seconds: for rendering the views. seconds: for the optimisation.
    """

    steps: int
    backward: int
    before: float
    after: float
    view_seconds: float
    seconds: float


def optimised(
    mesh: TexturedMesh, gaussians: Any, settings: BakeSettings | None = None, device: str = "cpu"
) -> tuple[TexturedMesh, BakeReport]:
    """Optimise a mesh's texture against views of gaussians: Adam on the mean absolute difference, a view a step.

    Texels that no view shows keep their colour. The same inputs and settings give the same texture on one device.

    Args:
        mesh: with a first texture, see `fast_sam3d.texture.textured`.
        gaussians: see `GaussianCloud.of`, in the mesh's coordinates.
        device: of the optimisation; the views are rendered on the CPU.

    Raises:
        ExportError: no view shows gaussians on the surface.
    """
    import torch

    settings = settings or BakeSettings()
    begin = time.perf_counter()
    pixels = settings.pixels or max(mesh.texture.shape[0] // 2, 64)
    views = list(views_around(mesh, GaussianCloud.of(gaussians), settings.views, pixels))
    if not views:  # also where all of them are transparent
        raise ExportError("the gaussians cover no part of the mesh")
    seen = [(torch.from_numpy(view.uv).to(device), torch.from_numpy(view.rgb).to(device)) for view in views]
    rendered = time.perf_counter()
    texture = torch.from_numpy(mesh.texture.astype(np.float32) / 255).to(device).permute(2, 0, 1)[None].contiguous()
    texture.requires_grad_(True)
    before = _mean_loss(texture, seen)
    adam = torch.optim.Adam([texture], lr=settings.rate, betas=(0.9, 0.99))
    gate = BackwardGate(len(seen), settings.warmup if settings.gate == "skipgs" else settings.steps)
    order = np.random.default_rng(settings.seed)
    started = time.perf_counter()
    for step in range(settings.steps):
        if step % len(seen) == 0:
            turn = order.permutation(len(seen))
        view = int(turn[step % len(seen)])
        loss = _loss(texture, *seen[view])
        if not gate.needs_backward(view, loss.item()):
            continue
        adam.param_groups[0]["lr"] = settings.rate * (0.505 + 0.495 * math.cos(math.pi * step / settings.steps))
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    done = time.perf_counter()
    after = _mean_loss(texture, seen)
    colours = texture.detach()[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    report = BakeReport(settings.steps, gate.passes, before, after, rendered - begin, done - started)
    return replace(mesh, texture=colours), report


def _loss(texture: torch.Tensor, uv: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of a texture [1, 3, H, W], sampled bilinearly at [P, 2], to colours [P, 3]."""
    from torch.nn.functional import grid_sample

    found = grid_sample(texture, (uv * 2 - 1)[None, None], padding_mode="border", align_corners=False)
    return (found[0, :, 0].T - rgb).abs().mean()


def _mean_loss(texture: torch.Tensor, seen: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    import torch

    with torch.no_grad():
        return sum(_loss(texture, *view).item() for view in seen) / len(seen)
