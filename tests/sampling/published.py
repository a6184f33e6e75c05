"""Synthetic solves at the published sizes: an analytic velocity in place of the networks, real samplers and guidance.

The structure has the stock leaves (32,768 values of shape), the structured latent 20,000 voxels. As real networks do,
this one computes in the type of autocast and returns it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut
from fast_sam3d.model.solver import Euler, tree_map
from fast_sam3d.telemetry import SolveRecord

LEAVES = {
    "shape": (1, 4096, 8),
    "6drotation_normalized": (1, 1, 6),
    "scale": (1, 1, 3),
    "translation": (1, 1, 3),
    "translation_scale": (1, 1, 1),
}
VOXELS, GRID = 20_000, 64


@dataclass(frozen=True)
class Precision:
    """How a solve is run.

    Args:
        half: the type in which the network computes.
        wide: it hands out its results in float32, and nothing else sees autocast: the reference.
        size: of latents; velocities are several times this.
        device: of everything.
        state: type of the noise, and so of the solver's state.
    """

    half: torch.dtype = torch.float16
    wide: bool = False
    size: float = 1.0
    device: str = "cpu"
    state: torch.dtype = torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """What the whole solve runs in."""
        return nullcontext() if self.wide else torch.autocast(self.device, self.half)


@functools.cache
def voxels() -> Tensor:
    """[20,000, 4] int64 (object, x, y, z), a shell."""
    places = torch.cartesian_prod(*[torch.arange(GRID)] * 3)
    radius = (places - GRID / 2 + 0.5).norm(dim=1)
    shell = places[torch.sort((radius - 28).abs(), stable=True).indices[:VOXELS].sort().values]
    return F.pad(shell, (1, 0))


@functools.cache
def field(leaf: str, channels: int, t: float, cfg: bool, precision: Precision) -> Tensor:
    """[tokens, channels] velocity of each token, of several units, in the type of the network.

    It depends on the time and the token alone. So both runs of a method get the same values from the network, to the
    bit, and what differs is the method's own arithmetic.
    """
    tokens = VOXELS if leaf == "feats" else LEAVES[leaf][1]
    number = torch.arange(tokens)[:, None] * 0.37 + torch.arange(channels) * 1.9
    v = 2 * torch.sin(17 * number) + torch.sin(5 * number + 4 * t) + (0 if cfg else 1.5 * max(0.0, 1 - 3 * t) ** 2)
    return (precision.size * v).to(precision.device, precision.half)


class Network(nn.Module):
    """Velocities of `field`."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.weight = nn.Parameter(torch.eye(2))
        self.broken_from = 2000.0
        """Network time from which one value of each leaf is infinite."""

    def velocity(self, leaf: str, channels: int, t: Tensor, cfg: bool, index: Tensor | slice = slice(None)) -> Tensor:
        """[1, N, channels]."""
        if not self.precision.wide:  # the network runs in the caller's autocast
            assert F.linear(self.weight, self.weight).dtype == self.precision.half
        v = field(leaf, channels, float(t) / 1000, cfg, self.precision)[index][None]
        if float(t) >= self.broken_from:
            v = v.clone()
            v[0, 0, 0] = torch.inf
        return v.float() if self.precision.wide else v


class Structure(Network):
    """Of the leaves of a structure."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(precision)
        self.latent_mapping = nn.ModuleDict({name: nn.Identity() for name in LEAVES})

    def forward(
        self, x: Mapping[str, Tensor], t: Tensor, cond: Tensor, d: Any = 0, cfg: bool = False
    ) -> dict[str, Tensor]:
        return {name: self.velocity(name, leaf.shape[-1], t, cfg) for name, leaf in x.items()}


class Structured(Network):
    """Of the features of voxels."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(precision)
        place = torch.zeros([GRID] * 3, dtype=torch.int64)
        place[tuple(voxels()[:, 1:].unbind(1))] = torch.arange(VOXELS)
        self.register_buffer("place", place)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, coords: Tensor, cfg: bool = False) -> Tensor:
        return self.velocity("feats", 8, t, cfg, self.place[tuple(coords[:, 1:].long().unbind(1))])


class Guided(ClassifierFreeGuidance):
    """Mixes in float32, and hands out what the network does."""

    def inner_forward(self, x: Any, t: Tensor, is_cond: bool, strength: float, *args: Any, **kwargs: Any) -> Any:
        precision = self.backbone.precision

        def wide(*given: Any, **more: Any) -> Any:
            return tree_map(Tensor.float, self.backbone(*given, **more))

        conditional = wide(x, t, *args, **kwargs)
        if is_cond:
            mixed = conditional
        else:
            unconditional = wide(x, t, *args, **kwargs, cfg=True)
            mixed = tree_map(lambda c, u: (1 + strength) * c - strength * u, conditional, unconditional)
        half = tree_map(lambda v: v.to(precision.half), mixed)
        return tree_map(Tensor.float, half) if precision.wide else half


class Decoder(nn.Module):
    """Logits [1, 1, 64, 64, 64] of a latent [1, 8, 16, 16, 16], the same in every precision."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.weight = nn.Parameter(torch.eye(2))
        self.calls = 0

    def forward(self, latent: Tensor) -> Tensor:
        self.calls += 1
        if not self.precision.wide:  # as the network, it runs in the caller's autocast
            assert F.linear(self.weight, self.weight).dtype == self.precision.half
        return F.interpolate(latent.float().mean(1, keepdim=True), scale_factor=4, mode="nearest")


class Spy(Euler):
    """Records the types of the velocities that it is given."""

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()

    def step(self, dynamics_fn: Any, x_t: Any, t: float, dt: float, *args: Any, **kwargs: Any) -> Any:
        def seen(*given: Any, **more: Any) -> Any:
            velocity = dynamics_fn(*given, **more)
            leaves = [velocity] if isinstance(velocity, Tensor) else velocity.values()
            self.dtypes |= {leaf.dtype for leaf in leaves}
            return velocity

        return super().step(seen, x_t, t, dt, *args, **kwargs)


class Published:
    """The surface of a pipeline around these networks."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self.solvers = {"ss": Spy(), "slat": Spy()}
        ss, slat = (Guided(kind(precision), strength=s) for kind, s in ((Structure, 7.0), (Structured, 1.0)))
        self.models = nn.ModuleDict(
            {
                "ss_generator": ShortCut(ss, rescale_t=3.0, solver_method=self.solvers["ss"]),
                "slat_generator": FlowMatching(slat, solver_method=self.solvers["slat"]),
                "ss_decoder": Decoder(precision),
            }
        ).eval()
        self.models.requires_grad_(False).to(precision.device)
        self.coords = voxels().int().to(precision.device)

    def run(self, stage: str) -> Tensor:
        """The final latent of one stage, [N, C] float32: the shape, or the features of the voxels."""
        generator, device = self.models[f"{stage}_generator"], self.precision.device
        cond = torch.zeros(1, 1, 1, device=device)
        shapes: Any = LEAVES if stage == "ss" else (1, VOXELS, 8)
        self.solvers[stage].dtypes.clear()  # of the probe at installation
        torch.manual_seed(0)
        noise = generator._generate_noise(shapes, device)
        noise = tree_map(lambda leaf: (self.precision.size * leaf).to(self.precision.state), noise)
        with torch.no_grad(), self.precision.autocast():
            if stage == "ss":
                return generator.solve(noise, cond)["shape"][0].float()
            self.models["ss_decoder"](torch.randn(1, 8, 16, 16, 16, device=device))
            return generator.solve(noise, cond, self.coords)[0].float()


@contextmanager
def accelerated(precision: Precision, method: Mapping[str, Any]) -> Iterator[tuple[Published, fast_sam3d.Report]]:
    """A pipeline with a method."""
    pipeline = Published(precision)
    with fast_sam3d.accelerated(pipeline, method) as handle:
        yield pipeline, handle.report


def decisions(record: SolveRecord, tokens: bool = True) -> list[tuple[Any, ...]]:
    """What a method decided at each step; `tokens`: also how many ran."""
    return [
        (s.evaluated, s.network_calls, s.network_calls_saved, s.tokens if tokens else 0, s.fallback)
        for s in record.steps
    ]
