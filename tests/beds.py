"""The pipelines that the contract is checked on: the embedded classes, and the stock ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tests.fakes import snapshot
from tests.minis import random_mini, rgba

STEPS = 8  # of both stages, on every bed


@dataclass(frozen=True)
class Bed:
    """A kind of pipeline.

    Args:
        name: "embedded" or "stock".
        build: a new pipeline with fixed random weights.
        running: what a run needs around it.
        compiling: what a compiled network needs around it.
        whole_grid: what a run needs around it, given the pipeline, for meshes anywhere in the grid.
        rounds: whether exact savings change roundings; not where they are built in.
    """

    name: str
    build: Callable[[], Any]
    running: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiling: Callable[[], AbstractContextManager[Any]] = nullcontext
    whole_grid: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    rounds: bool = True

    pose: ClassVar[frozenset[str]] = frozenset(
        {"6drotation_normalized", "scale", "translation", "translation_scale", "rotation"}
    )
    """Names of tensors of a run that are of the pose."""

    def raw(self, pipeline: Any, seed: int | None = 0, **options: Any) -> dict[str, Any]:
        """A run with the arguments of the stock notebook."""
        with self.running():
            return pipeline.run(
                rgba(),
                None,
                seed=seed,
                with_mesh_postprocess=False,
                with_texture_baking=False,
                use_vertex_color=True,
                **options,
            )

    def run(self, pipeline: Any, seed: int = 0, formats: tuple[str, ...] = ("gaussian",)) -> dict[str, Tensor]:
        """Every tensor of a run's result, by name."""
        return tensors(self.raw(pipeline, seed, decode_formats=list(formats)))

    def takes(self, config: Mapping[str, Any]) -> bool:
        """Whether a method fits the model."""
        return True

    def structure(self, pipeline: Any) -> None:
        """The first stage of a run alone."""
        self.raw(pipeline, stage1_only=True)

    def networks(self, pipeline: Any) -> dict[str, Any]:
        """The network of each stage."""
        return {stage: pipeline.models[f"{stage}_generator"].reverse_fn.backbone for stage in ("ss", "slat")}

    def snapshot(self, pipeline: Any) -> dict[str, dict[str, Any]]:
        """vars() of every live object that could have been patched."""
        return snapshot(pipeline)

    def parameters(self, pipeline: Any) -> list[str]:
        """Names of all parameters and buffers."""
        return list(pipeline.models.state_dict())

    @contextmanager
    def latents(self, pipeline: Any, stage: str) -> Iterator[list[Any]]:
        """What the sampler of a stage returns in this block."""
        found: list[Any] = []
        generator = pipeline.models[f"{stage}_generator"]
        hook = generator.register_forward_hook(
            lambda module, args, result: found.append(dict(result) if isinstance(result, dict) else result)
        )  # a copy: stock adds to the dict
        yield found
        hook.remove()

    @contextmanager
    def counted_calls(self, pipeline: Any) -> Iterator[dict[str, int]]:
        """Runs of the networks in this block, by stage, counted in their first block (calls may be substituted)."""
        counts = {"ss": 0, "slat": 0}
        hooks = [
            network.blocks[0].register_forward_pre_hook(
                lambda module, args, stage=stage: counts.__setitem__(stage, counts[stage] + 1)
            )
            for stage, network in self.networks(pipeline).items()
        ]
        try:
            yield counts
        finally:
            for hook in hooks:
                hook.remove()


EMBEDDED = Bed("embedded", random_mini)


def tensors(result: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor of a result, by name; those of the first mesh and the first gaussians too."""
    found = {name: value for name, value in result.items() if isinstance(value, Tensor)}
    if "downsample_factor" in result:
        found["downsample_factor"] = torch.tensor(float(result["downsample_factor"]))
    for name in ("mesh", "gaussian", "gaussian_4"):
        for thing in result.get(name, [])[:1]:
            if name == "mesh":
                parts = {key: getattr(thing, key) for key in ("vertices", "faces", "vertex_attrs")}
            else:
                parts = {
                    "xyz": thing.get_xyz,
                    "opacity": thing.get_opacity,
                    "scaling": thing.get_scaling,
                    "turn": thing.get_rotation,
                    "colour": thing._features_dc,
                }
            found |= {f"{name}.{key}": value for key, value in parts.items()}
    return {name: value.clone() for name, value in found.items()}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors that are not bit-identical; unknown points equal each other."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name].nan_to_num(7.0), b[name].nan_to_num(7.0))}


def random_state() -> tuple[Any, ...]:
    """Of every global generator, in a form that can be compared."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), (kind, keys.tolist(), *rest)
