"""Sparse structures of several objects, sampled in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.model.flow import FlowMatching
from fast_sam3d.model.solver import tree_map
from fast_sam3d.model.ss_vae import tokens_to_grid
from fast_sam3d.model.stages import Stages

__all__ = ["BatchedStructure", "sample_structures"]


@dataclass(frozen=True, slots=True, eq=False)
class BatchedStructure:
    """One object's part of a batch; a `common.SolvedStructure`.

    Args:
        condition: [1, L, C] context tokens of the object.
        settings: of the sampler.
        before, after: state of torch's generator before and after the object's noise was drawn.
        latents: the sampled leaves, [1, ...] each.
        times: [steps + 1] grid of the solve.
        voxels: number of occupied voxels that the latents decode to.
    """

    condition: Tensor
    settings: tuple[Any, ...]
    before: Tensor
    after: Tensor
    latents: Mapping[str, Tensor]
    times: Sequence[float]
    voxels: int

    def latents_for(self, sampler: FlowMatching, condition: Tensor) -> Mapping[str, Tensor] | None:
        """The latents, if condition, sampler settings and random state are those of the batch; else None.

        The random state then advances as if the noise had been drawn here.
        """
        alike = self.settings == _settings(sampler) and self.condition.shape == condition.shape
        if not (alike and torch.equal(self.condition, condition) and torch.equal(self.before, torch.get_rng_state())):
            return None
        torch.set_rng_state(self.after)
        return self.latents


def sample_structures(
    pipeline: Stages, objects: Sequence[tuple[Any, Any, Any]], seed: int, inference_steps: int | None = None
) -> list[BatchedStructure]:
    """Sample the sparse structures of several objects in one batch, each from the same noise as in its own run.

    The latents equal those of single runs to about 1e-6, not bit by bit: matrix products of other sizes round
    differently.

    Args:
        pipeline: samples the structures.
        objects: image, mask and pointmap of each, as for `run`.
        seed, inference_steps: as for `run`.

    Returns:
        One per object; empty if the sampler has its own random generator.

    Raises:
        InputError: one of the objects cannot be used.
    """
    sampler = pipeline.generator("ss")
    if sampler._random_generator is not None:
        return []
    sampler.no_shortcut = True
    embedder, conditions = pipeline.condition_embedders["ss_condition_embedder"], []
    shapes = {name: (1, *shape) for name, shape in pipeline.config.ss_flow.leaf_shapes.items()}
    with pipeline.sampling(sampler, inference_steps, pipeline.ss_cfg_strength):
        for image, mask, pointmap in objects:
            _, _, scene, seen = pipeline.see(image, mask, pointmap)
            given = pipeline.preprocess_image(seen, pipeline.ss_preprocessor, scene["pointmap"], scene["guessed"])
            (tokens,), _ = pipeline.get_condition_input(embedder, given, pipeline.ss_condition_input_mapping)
            conditions.append(tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            noise = sampler._generate_noise(shapes, pipeline.device)
            after = torch.get_rng_state()
        x_0 = tree_map(lambda leaf: leaf.repeat(len(conditions), 1, 1), noise)
        leaves = sampler.solve(x_0, torch.cat(conditions))
        settings, times = _settings(sampler), sampler._prepare_t()
        single = [tree_map(lambda leaf, i=i: leaf[i : i + 1].clone(), leaves) for i in range(len(conditions))]
        voxels = [int((pipeline.models["ss_decoder"](tokens_to_grid(each["shape"])) > 0).sum()) for each in single]
    return [
        BatchedStructure(tokens, settings, before, after, own, times, count)
        for tokens, own, count in zip(conditions, single, voxels, strict=True)
    ]


def _settings(sampler: FlowMatching) -> tuple[Any, ...]:
    """What a solve depends on besides condition and noise."""
    guidance = sampler.guidance
    interval = None if guidance.interval is None else tuple(guidance.interval)
    return (sampler.inference_steps, sampler.rescale_t, sampler.no_shortcut, guidance.strength, interval)
