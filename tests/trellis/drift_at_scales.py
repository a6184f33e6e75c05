"""How far a preset's latents are from those of the full run, on TRELLIS's own classes with random weights.

    PYTHONPATH=.:<a clone of microsoft/TRELLIS> python -m tests.trellis.drift_at_scales

prints a table: for each scale of the weights, stage and configuration the network calls of one object and the drift,
the distance of the final latents relative to their length. The grid is the published one: 25 steps, rescale_t 3,
guidance of strength 5 at t >= 0.5, so 44 calls.

The path must be curved but smooth, or the comparison is of a stiff equation or of a straight line. The weights of the
constructors plus noise of standard deviation (fan-in)^-1/2 / 2, also on those that start at zero, give one: from the
first step to the middle the velocity turns by a cosine of 0.96 to 0.98, it jumps (cosine 0.6) where guidance ends, and
25 Euler steps end within 2 % of 200. Its velocity is two to three times as long as the noise. `SCALES` has two calmer
ones, with a velocity about as long as the noise, as a trained flow's is: one of them with more effect of the time and
of the blocks, which turns by 0.95.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

import fast_sam3d
from tests.trellis.build import random_image
from tests.trellis.stand_ins import on_cpu
from tests.trellis_like.beds import NETWORKS
from tests.trellis_like.pipelines import picture

STEPS: dict[str, Any] = {"steps": 25, "rescale_t": 3.0, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0]}
SCALES = {
    "as drawn": (1.0, 1.0, 1.0, 1.0),
    "short velocity": (0.5, 1.0, 1.0, 1.0),
    "strong time": (0.5, 2.0, 3.0, 0.5),
}
"""Factors of the weights of the output layer, of the blocks' branches, of their modulation by time, and of their
cross-attention, on which the effect of guidance depends."""

RIVAL = {"ss": ("stride", (3, 4, 5, 6)), "slat": ("threshold", (0.5, 1.0, 1.5, 2.0, 3.0, 5.0))}
"""Fast-TRELLIS's settings, and other numbers in the place of one of them: those published are 4 and 5.0."""


@torch.no_grad()
def scaled(scale: Sequence[float]) -> Any:
    """A pipeline with these factors, see `SCALES`."""
    pipeline = random_image()
    pipeline.sparse_structure_sampler_params = pipeline.slat_sampler_params = STEPS
    out, branch, time, cross = scale
    for name in NETWORKS.values():
        network = pipeline.models[name]
        factors = {network.out_layer: out}
        for block in network.blocks:
            factors |= {block.self_attn.to_out: branch, block.mlp.mlp[-1]: branch, block.cross_attn.to_out: cross}
            block.adaLN_modulation[-1].weight.mul_(time)
        for layer, factor in factors.items():
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
    return pipeline


class Drift:
    """Solves of a pipeline, each stage by itself, so that both have the same noise and voxels with every method."""

    def __init__(self, scale: Sequence[float], seeds: Sequence[int] = (0, 1, 2, 3)) -> None:
        self.pipeline, self.seeds = scaled(scale), seeds
        with on_cpu(), torch.no_grad():
            self.cond = self.pipeline.get_cond([self.pipeline.preprocess_image(picture())])
            torch.manual_seed(0)
            self.coords = self.pipeline.sample_sparse_structure(self.cond)
        self.plain = {stage: self.ends(stage) for stage in NETWORKS}

    @torch.no_grad()
    def ends(self, stage: str) -> list[Tensor]:
        """The latents of each seed."""
        found: list[Tensor] = []
        decoder = self.pipeline.models["sparse_structure_decoder"]
        hook = decoder.register_forward_pre_hook(lambda module, args: found.append(args[0].flatten()))
        with on_cpu():
            for seed in self.seeds:
                torch.manual_seed(seed)
                if stage == "ss":
                    self.pipeline.sample_sparse_structure(self.cond)
                else:
                    found.append(self.pipeline.sample_slat(self.cond, self.coords).feats.flatten())
        hook.remove()
        return found

    def of(self, stage: str, preset: str, overrides: Sequence[str] = ()) -> tuple[float, float]:
        """(network calls, drift) of a stage, means over the seeds."""
        given = ["exact=off", "mesh=off", *overrides]
        with fast_sam3d.accelerated(self.pipeline, preset=preset, overrides=given) as handle:
            ends = self.ends(stage)
        drifts = [float((a - b).norm() / b.norm()) for a, b in zip(ends, self.plain[stage], strict=True)]
        return sum(solve.calls for solve in handle.report.solves) / len(ends), sum(drifts) / len(drifts)

    def rivals(self, stage: str) -> Iterator[tuple[str, float, float]]:
        """(override, calls, drift) of `fast_trellis` with each number of `RIVAL`."""
        name, numbers = RIVAL[stage]
        for number in numbers:
            override = f"{stage}.when.{name}={number}"
            yield override, *self.of(stage, "fast_trellis", [override])


@cache
def drift(scale: str) -> Drift:
    """Of a name in `SCALES`."""
    return Drift(SCALES[scale])


def main() -> None:
    for scale in SCALES:
        for stage in NETWORKS:
            rows = [("default", *drift(scale).of(stage, "default")), *drift(scale).rivals(stage)]
            for name, calls, far in rows:
                print(f"{scale:15} {stage:5} {name:28} {calls:5.1f} calls  {far:.4f}", flush=True)


if __name__ == "__main__":
    main()
