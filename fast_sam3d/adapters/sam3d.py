"""Adapter of SAM 3D Objects: of the stock pipeline and of the embedded one, which has the same interface.

Names of attributes and methods match sam3d_objects/pipeline/inference_pipeline.py (`InferencePipeline`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.adapters.base import Adapter, NotAPipelineError, compiled
from fast_sam3d.adapters.layout import no_layout_stream
from fast_sam3d.adapters.samplers import LAYOUT, SHAPE, count_calls, sampling_stages
from fast_sam3d.sampling.stage import SolveStage

__all__ = ["Sam3d", "missing", "refuse_fork"]

_GENERATORS = {"ss": "ss_generator", "slat": "slat_generator"}

# method of the pipeline -> row of the report
_PIPELINE_STAGES = {
    "run": "other",
    "compute_pointmap": "pointmap",
    "preprocess_image": "preprocess",
    "get_condition_input": "condition",
    "sample_sparse_structure": "ss",
    "sample_slat": "slat",
    "postprocess_slat_output": "postprocess",
    "refine_layout": "layout",  # the embedded pipeline's
    "run_post_optimization": "layout",  # the stock one's
}
_MODEL_STAGES = {
    "ss_decoder": "ss_decoder",
    "slat_decoder_mesh": "mesh",
    "slat_decoder_gs": "gaussian",
    "slat_decoder_gs_4": "gaussian",
}
_FORMATS = {"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs", "gaussian_4": "slat_decoder_gs_4"}


class Sam3d(Adapter):
    """A pipeline of SAM 3D Objects, stock, native or embedded."""

    posed = True

    @property
    def stages(self) -> dict[str, SolveStage]:
        """The sampling stages by name."""
        return sampling_stages(self._layout_leaves())

    @property
    def runtime(self) -> str:
        """Whose classes run: "native", "embedded" (the embedded model's), or "stock" for all others."""
        package = ".".join(type(self.pipeline).__module__.split(".")[:2])
        return {"fast_sam3d.native": "native", "fast_sam3d.model": "embedded"}.get(package, "stock")

    def generator(self, stage: str) -> Any:
        """The sampler of a stage: called as (shape of the noise, device, *condition) for the latents of one solve."""
        return self.pipeline.models[_GENERATORS[stage]]

    def guidance(self, stage: str) -> Any:
        """The module that mixes the velocities of a stage's network; called once per evaluated step."""
        return self.generator(stage).reverse_fn

    def solver(self, stage: str) -> Any:
        """The ODE solver of a stage; its `solve_iter` is where steps are decided."""
        return self.generator(stage)._solver

    def networks(self, stage: str) -> list[Any]:
        """See `Adapter`."""
        network = getattr(self.guidance(stage), "backbone", None)
        return [] if network is None else [network]

    def network_calls(self, stage: str, steps: int | None = None) -> tuple[int, int]:
        """Conditional and unconditional network calls of one solve without acceleration; steps: None: its own."""
        generator = self.generator(stage)
        calls = [count_calls(generator._generate_dynamics, float(t)) for t in generator._prepare_t(steps)[:-1]]
        return len(calls), sum(calls) - len(calls)

    def sampler(self, stage: str, steps: int | None = None) -> dict[str, Any]:
        """See `Adapter`."""
        generator, guidance = self.generator(stage), self.guidance(stage)
        # A run sets the strength from here.
        strength = getattr(self.pipeline, f"{stage}_cfg_strength", getattr(guidance, "strength", None))
        return {
            "steps": int(generator.inference_steps if steps is None else steps),
            "rescale_t": getattr(generator, "rescale_t", 1.0),
            "guidance": strength,
            "interval": getattr(guidance, "interval", None),
            "shortcut": not getattr(generator, "no_shortcut", True),
        }

    @contextmanager
    def sampler_set(self, stage: str, rescale_t: float | None = None, strength: float | None = None) -> Iterator[None]:
        """Set a stage's time grid and guidance strength, and restore what was there on exit; None: unchanged.

        The pipeline has both as attributes of its own, too, and sets the generator's strength from them in every run.
        """
        generator, pipeline = self.generator(stage), self.pipeline
        places = [(generator, "rescale_t", rescale_t), (pipeline, f"{stage}_rescale_t", rescale_t)]
        places += [(generator.reverse_fn, "strength", strength), (pipeline, f"{stage}_cfg_strength", strength)]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places if hasattr(owner, name)]
        try:
            for owner, name, value in places:
                if value is not None and hasattr(owner, name):
                    setattr(owner, name, value)
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)

    @contextmanager
    def steps_set(self, steps: Mapping[str, int]) -> Iterator[None]:
        """Set the steps of stages' solves, and restore what was there on exit."""
        before = {stage: self.generator(stage).inference_steps for stage in steps}
        try:
            for stage, count in steps.items():
                self.generator(stage).inference_steps = count
            yield
        finally:
            for stage, count in before.items():
                self.generator(stage).inference_steps = count

    def compiled(self, stage: str) -> bool:
        """Whether a stage's network is compiled, or wrapped in a way that may hide it: seams on its parts do not run.

        The stock compile_model=True puts the compiled function in a closure on the guidance, which looks like any
        other wrapper (sam3d_objects/pipeline/inference_pipeline_pointmap.py, `compile_wrapper`).
        """
        guidance = self.guidance(stage)
        if "inner_forward" in getattr(guidance, "__dict__", {}):
            return True
        return compiled(guidance) or compiled(self.network(stage))

    def unguidable(self, stage: str) -> str | None:
        """Why the conditional and unconditional calls of a stage cannot be distinguished, or None."""
        guidance = self.guidance(stage)
        if not callable(getattr(self.network(stage), "forward", None)):
            return "its guidance has no network under the known name"
        if self.compiled(stage):
            return "its network is compiled or wrapped"
        # sam3d_objects/model/backbone/generator/classifier_free_guidance.py: the others have no keyword, or more calls.
        handling = getattr(guidance, "unconditional_handling", None)
        if handling != "add_flag" or any(kind.__name__ == "PointmapCFG" for kind in type(guidance).__mro__):
            return f"its guidance is {type(guidance).__name__} with unconditional_handling={handling!r}"
        return None

    def no_live_layout(self) -> str | None:
        """Why the layout cannot be evaluated without the shape (see `layout_stream`), or None."""
        return self.unguidable("ss") or no_layout_stream(self.network("ss"))

    def no_merged_mesh(self) -> str | None:
        """See `Adapter`."""
        return None

    def no_merged_voxels(self) -> str | None:
        """See `Adapter`."""
        return None

    def call(self, rgba: NDArray[np.uint8], pointmap: Tensor | None, settings: Any) -> Mapping[str, Any]:
        """See `Adapter`."""
        result: Mapping[str, Any] = self.pipeline.run(
            rgba,
            None,
            seed=settings.seed,
            stage1_only=settings.structure_only,
            with_mesh_postprocess=False,
            with_texture_baking=False,
            with_layout_postprocess=settings.refines,
            use_vertex_color=True,
            stage1_inference_steps=settings.ss_steps,
            stage2_inference_steps=settings.slat_steps,
            pointmap=pointmap,
            decode_formats=None if settings.formats is None else list(settings.formats),
        )
        return result

    def structure_decoder(self) -> Any:
        """The decoder of sparse structures, None where the pipeline has none."""
        return self._part("ss_decoder")

    def decoder(self, name: str) -> Any:
        """The decoder of a format, of "mesh", "gaussian" and "gaussian_4"; None where the pipeline has none."""
        return self._part(_FORMATS[name])

    def precision(self, stage: str) -> Any:
        """The dtype in which autocast runs a stage's network; float32: no autocast."""
        name = {"ss": "shape_model_dtype", "slat": "dtype"}[stage]
        return getattr(self.pipeline, name, torch.float32)

    @property
    def embedders(self) -> dict[str, Any]:
        """The condition embedders by name."""
        return dict(getattr(self.pipeline, "condition_embedders", None) or {})

    def encoders(self) -> Iterator[tuple[str, Any]]:
        """(name, module) of every image encoder, each once: the parts of a condition embedder, or the whole.

        Of a part that names one, the network that it shares with others, as those of `fast_sam3d.native` do.
        """
        seen: list[Any] = []
        for name, embedder in self.embedders.items():
            # sam3d_objects/model/backbone/dit/embedder/embedder_fuser.py, `EmbedderFuser`
            parts = getattr(embedder, "embedder_list", None)
            named = [(name, embedder)] if parts is None else [(f"{name}[{i}]", p[0]) for i, p in enumerate(parts)]
            for label, part in named:
                encoder = getattr(part, "shared_encoder", part)
                if callable(getattr(encoder, "forward", None)) and not any(encoder is other for other in seen):
                    seen.append(encoder)
                    yield label, encoder

    @property
    def embeds_in_one(self) -> bool:
        """Whether the embedders are compiled, or wrapped in a way that may hide it: seams on them would not run.

        The stock `InferencePipeline._compile` does so (sam3d_objects/pipeline/inference_pipeline.py).
        """
        return "embed_condition" in vars(self.pipeline) or any(
            compiled(embedder) for embedder in self.embedders.values() if hasattr(embedder, "embedder_list")
        )

    @property
    def depth_model(self) -> Any:
        """The depth model, None where the pipeline has none."""
        return getattr(self.pipeline, "depth_model", None)

    def depth_network(self) -> Any:
        """The network of the depth model, called as `infer(image, ...)`; None if it is not under the known name.

        As in sam3d_objects/pipeline/depth_models/moge.py.
        """
        network = getattr(self.depth_model, "model", None)
        return network if callable(getattr(network, "infer", None)) else None

    def timed(self) -> Iterator[tuple[object, str, str]]:
        """(owner, method, row of the report) of every timed part."""
        for method, stage in _PIPELINE_STAGES.items():
            if callable(getattr(self.pipeline, method, None)):
                yield self.pipeline, method, stage
        for name, stage in _MODEL_STAGES.items():
            if (decoder := self._part(name)) is not None:
                yield decoder, "forward", stage

    def parts(self) -> Iterator[Any]:
        """See `Adapter`."""
        yield self.depth_network()
        yield from (self._part(name) for name in _MODEL_STAGES)
        yield from (encoder for _, encoder in self.encoders())

    def _part(self, name: str) -> Any:
        """A part of the pipeline, or None: the stock one holds None for a decoder that its configuration leaves out."""
        models = self.pipeline.models
        return models[name] if name in models else None  # noqa: SIM401 (a ModuleDict has no `get`)

    def _layout_leaves(self) -> list[str]:
        latents = getattr(self.network("ss"), "latent_mapping", None)
        if latents is None:
            return list(LAYOUT)
        return [name for name in latents.keys() if name != SHAPE]  # noqa: SIM118 (a ModuleDict, not a dict)


def refuse_fork(pipeline: Any) -> None:
    """Raises NotAPipelineError for a pipeline of the Fast-SAM3D fork."""
    if _of_fork(pipeline):
        raise NotAPipelineError(
            f"{type(pipeline).__name__} is of the Fast-SAM3D fork, whose samplers and results have "
            "another form: install facebookresearch/sam-3d-objects in an environment of its own"
        )


def _of_fork(pipeline: Any) -> bool:
    """Whether a solver is from the Fast-SAM3D fork, whose `solve_iter` also yields the velocity.

    As in its sam3d_objects/model/backbone/generator/flow_matching/solver.py; all its pipelines need its own settings.
    """
    homes = (type(pipeline.models[key]._solver).__module__ for key in _GENERATORS.values())
    return any(hasattr(sys.modules.get(home), "Euler_end_slat") for home in homes)


def missing(pipeline: Any) -> list[str]:
    """What a pipeline of SAM 3D Objects has, and this one does not."""
    models = getattr(pipeline, "models", None)
    if models is None or not hasattr(models, "__getitem__"):
        return ["models"]
    lacks = []
    for key in _GENERATORS.values():
        if key not in models:
            lacks.append(f"models['{key}']")
            continue
        if not callable(getattr(getattr(models[key], "_solver", None), "solve_iter", None)):
            lacks.append(f"models['{key}']._solver.solve_iter")
        if not hasattr(models[key], "reverse_fn"):
            lacks.append(f"models['{key}'].reverse_fn")
    return lacks
