"""Sparse structures of several objects, sampled in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fast_sam3d.model.flow import FlowMatching
from fast_sam3d.model.ss_vae import tokens_to_grid
from fast_sam3d.model.tree import tree_map
from fast_sam3d.sampling.batch import Solved, decides_alike, method_on, tell

if TYPE_CHECKING:
    from fast_sam3d.model.pipeline import MiniPipeline

__all__ = ["known_solve", "solve_structures"]


def solve_structures(
    pipeline: MiniPipeline, objects: Sequence[tuple[Any, Any, Any]], seed: int, inference_steps: int | None = None
) -> list[Solved]:
    """Sample the sparse structures of several objects in one batch, each from the noise it would have alone.

    Put into the pipeline's `solved_ahead`, they stand for the solves of the `run`s of these objects with this seed. The
    latents are those of single solves to about 1e-6, not to the bit: matrix products of another size round differently.

    Args:
        objects: image, mask and pointmap of each, as `run` takes them.
        seed, inference_steps: as of `run`.

    Returns:
        one per object; none where the sampler's method may decide differently for different objects.

    Raises:
        InputError: one of the objects cannot be used.
    """
    generator = pipeline.generator("ss")
    if not decides_alike(method_on(generator._solver)) or generator._random_generator is not None:
        return []
    from fast_sam3d.report import observe

    generator.no_shortcut = True
    embedder, conditions = pipeline.condition_embedders["ss_condition_embedder"], []
    shapes = {name: (1, *shape) for name, shape in pipeline.config.ss_flow.leaf_shapes.items()}
    with observe(pipeline) as report, pipeline.sampling(generator, inference_steps, pipeline.ss_cfg_strength):
        for image, mask, pointmap in objects:
            _, _, scene, seen = pipeline.see(image, mask, pointmap)
            given = pipeline.preprocess_image(seen, pipeline.ss_preprocessor, scene["pointmap"], scene["guessed"])
            (tokens,), _ = pipeline.get_condition_input(embedder, given, pipeline.ss_condition_input_mapping)
            conditions.append(tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            noise = generator._generate_noise(shapes, pipeline.device)
            after = torch.get_rng_state()
        x_0 = tree_map(lambda leaf: leaf.repeat(len(conditions), 1, 1), noise)
        leaves = generator.solve(x_0, torch.cat(conditions))
        settings, times = _settings(generator), generator._prepare_t()
        single = [tree_map(lambda leaf, i=i: leaf[i : i + 1].clone(), leaves) for i in range(len(conditions))]
        voxels = [int((pipeline.models["ss_decoder"](tokens_to_grid(each["shape"])) > 0).sum()) for each in single]
    if report.solves[0].fallbacks:
        return []  # a prediction was not finite, for one object, and all were evaluated
    steps = report.solves[0].steps
    return [
        Solved(tokens, settings, before, after, own, times, steps, count)
        for tokens, own, count in zip(conditions, single, voxels, strict=True)
    ]


def known_solve(
    solved: Sequence[Solved], generator: FlowMatching, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Mapping[str, Tensor] | None:
    """The latents of a solve that was made ahead, if one has this condition, seed and sampler."""
    if kwargs or not solved:
        return None
    settings = _settings(generator)
    known = next((each for each in solved if each.is_of(args[0], settings)), None)
    if known is None:
        return None
    torch.set_rng_state(known.after)  # what follows is drawn as if the noise had been drawn here
    tell(generator._solver, known)
    return known.leaves


def _settings(generator: FlowMatching) -> tuple[Any, ...]:
    """What else than condition and noise a solve depends on."""
    guidance = generator.guidance
    interval = None if guidance.interval is None else tuple(guidance.interval)
    sampler = (generator.inference_steps, generator.rescale_t, generator.no_shortcut, guidance.strength, interval)
    return (*sampler, method_on(generator._solver))
