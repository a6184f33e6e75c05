"""What an adapter answers about a pipeline: docs/adding-a-model.md goes through it with an example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.patch import Seam
from fast_sam3d.sampling.driver import require_euler
from fast_sam3d.sampling.stage import SolveStage

__all__ = ["Adapter", "NotAPipelineError", "Place", "compiled", "unwrap"]

Place = tuple[object, str, Callable[[], Seam]]
"""An object, the name of its method, and a function that creates the seam there."""


class NotAPipelineError(FastSam3dError, TypeError):
    """An object without the interface of a pipeline that is known."""


class Adapter:
    """The parts of a loaded pipeline.

    A subclass for a model answers what has no default here; the defaults say that a part does not exist.

    Args:
        pipeline: the object that has `models` and `run`.
    """

    posed: ClassVar[bool] = False
    """Whether a run places its object in the picture's camera frame."""
    soft_alpha: ClassVar[bool] = False
    """Whether a run takes the opacity of a cut-out as it is; otherwise it takes 0 or 255."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def presets(self) -> Mapping[str, str]:
        """Name of a preset -> the preset of this model that it stands for."""
        return {}

    @property
    def stages(self) -> dict[str, SolveStage]:
        """The sampling stages by name, in the order in which a run comes to them."""
        raise NotImplementedError

    @property
    def runtime(self) -> str:
        """Whose classes run, for reports."""
        raise NotImplementedError

    def solver(self, stage: str) -> Any:
        """The ODE solver of a stage; its `solve_iter(dynamics, x_init, times, *args, **kwargs)` decides the steps."""
        raise NotImplementedError

    def networks(self, stage: str) -> list[Any]:
        """The networks of a stage, each called as (x, t, *condition): one for each resolution, mostly one."""
        raise NotImplementedError

    def network_calls(self, stage: str, steps: int | None = None) -> tuple[int, int]:
        """Conditional and unconditional network calls of one solve without acceleration; steps: None: its own."""
        raise NotImplementedError

    def sampler(self, stage: str, steps: int | None = None) -> dict[str, Any]:
        """What a measured schedule depends on: steps, rescale_t, guidance, interval, shortcut."""
        raise NotImplementedError

    def sampler_set(
        self, stage: str, rescale_t: float | None = None, strength: float | None = None
    ) -> AbstractContextManager[None]:
        """Set a stage's time grid and guidance strength, and restore what was there on exit; None: unchanged."""
        raise NotImplementedError

    def steps_set(self, steps: Mapping[str, int]) -> AbstractContextManager[None]:
        """Set the steps of stages' solves, and restore what was there on exit."""
        raise NotImplementedError

    def timed(self) -> Iterator[tuple[object, str, str]]:
        """(owner, method, row of the report) of every timed part."""
        raise NotImplementedError

    def parts(self) -> Iterator[Any]:
        """Everything that a seam may be on, apart from the pipeline, the solvers and the networks."""
        raise NotImplementedError

    def decoder(self, name: str) -> Any:
        """The decoder of a format, of "mesh", "gaussian" and "gaussian_4"; None where the pipeline has none."""
        raise NotImplementedError

    def structure_decoder(self) -> Any:
        """The decoder of sparse structures, None where the pipeline has none."""
        raise NotImplementedError

    @property
    def formats(self) -> set[str]:
        """The formats that the pipeline has decoders for, of "mesh", "gaussian" and "gaussian_4"."""
        return {name for name in ("mesh", "gaussian", "gaussian_4") if self.decoder(name) is not None}

    def call(self, rgba: NDArray[np.uint8], pointmap: Tensor | None, settings: Any) -> Mapping[str, Any]:
        """One run.

        Args:
            rgba: [H, W, 4], the mask as alpha; see `soft_alpha`.
            pointmap: [H, W, 3] float32, see `fast_sam3d.run.object.run_object`; None: none.
            settings: a `fast_sam3d.run.object.RunSettings`.

        Returns:
            "mesh", "gaussian" and "gaussian_4" as asked for, each a list of one; "coords" [N, 4]; where the model has
            a pose, rotation, translation and scale.
        """
        raise NotImplementedError

    def network(self, stage: str) -> Any:
        """The first network of a stage; None where it is not under the known name."""
        return next(iter(self.networks(stage)), None)

    def loops(self, stage: str) -> Iterable[Place]:
        """What must be in place for the stage's `solver` to be called: nothing where the model calls it itself."""
        return ()

    def require_euler(self, stage: str) -> None:
        """Refuse a solver that does not take plain Euler steps, one velocity each.

        Raises:
            SolverError: the solver is something else.
        """
        require_euler(self.solver(stage), stage)

    def compiled(self, stage: str) -> bool:
        """Whether a stage's network is compiled, or wrapped so that it may be: seams on its parts do not run."""
        return any(compiled(network) for network in self.networks(stage))

    def unguidable(self, stage: str) -> str | None:
        """Why the conditional and unconditional calls of a stage cannot be distinguished, or None."""
        return "its network is compiled or wrapped" if self.compiled(stage) else None

    def no_live_layout(self) -> str | None:
        """Why the layout cannot be evaluated without the shape (see `adapters.layout`), or None."""
        return "this model has no layout"

    def no_merged_voxels(self) -> str | None:
        """Why voxels cannot be merged before the structured latent is sampled, or None."""
        return "this model has no pose, which would take up the factor"

    def no_merged_mesh(self) -> str | None:
        """Why voxels cannot be merged in the mesh decoder, or None."""
        return None if self.mesh_decoder() is not None else "it has no mesh decoder that takes merged voxels"

    def cross_attentions(self, stage: str) -> Iterator[tuple[str, Any]]:
        """(name, module) of every cross-attention of a stage's networks: one per block, or one per stream of it."""
        networks = self.networks(stage)
        for which, network in enumerate(networks):
            label = stage if len(networks) == 1 else f"{stage}[{which}]"
            for number, block in enumerate(getattr(network, "blocks", ())):
                found: Any = getattr(block, "cross_attn", None)
                streams = dict(found.items()) if hasattr(found, "items") else {"": found}
                for stream, attention in streams.items():
                    if callable(getattr(attention, "forward", None)):
                        yield f"{label}.blocks[{number}].cross_attn{f'[{stream!r}]' if stream else ''}", attention

    def mesh_decoder(self) -> Any:
        """The decoder of meshes, None where the pipeline has none."""
        return self.decoder("mesh")

    def sparse_networks(self) -> Iterator[tuple[str, Any, bool]]:
        """(name, network over voxels, whether it is compiled or wrapped): the second sampler's and the decoders'."""
        for network in self.networks("slat"):
            if isinstance(network, nn.Module):
                yield "slat", network, self.compiled("slat")
        for name in ("mesh", "gaussian", "gaussian_4"):
            if isinstance(decoder := self.decoder(name), nn.Module):
                yield f"{name} decoder", decoder, compiled(decoder)

    def precision(self, stage: str) -> Any:
        """The dtype in which autocast runs a stage's network; float32: no autocast."""
        return torch.float32

    @property
    def embedders(self) -> dict[str, Any]:
        """The condition embedders by name."""
        return {}

    def encoders(self) -> Iterator[tuple[str, Any]]:
        """(name, module) of every image encoder whose passes can be shared."""
        return iter(())

    @property
    def embeds_in_one(self) -> bool:
        """Whether the embedders are compiled, or wrapped in a way that may hide it: seams on them would not run."""
        return False

    @property
    def depth_model(self) -> Any:
        """The depth model, None where the pipeline has none."""
        return None

    def depth_network(self) -> Any:
        """The network of the depth model, called as `infer(image, ...)`; None if it is not under the known name."""
        return None

    def seams(self) -> list[Seam]:
        """Every seam on a part of the pipeline."""
        found = [self.pipeline, *self.parts()]
        for stage in self.stages:
            found += [owner for owner, _, _ in self.loops(stage)]
            found += [self.solver(stage), *self.networks(stage)]
        modules = [m for part in found for m in (part.modules() if isinstance(part, nn.Module) else [part])]
        owners = {id(owner): owner for owner in modules}.values()
        attributes = (thing for owner in owners for thing in getattr(owner, "__dict__", {}).values())
        return [thing for thing in attributes if isinstance(thing, Seam)]


def compiled(module: Any) -> bool:
    """Whether a module or its `forward` is compiled."""
    forward = getattr(module, "forward", None)
    if isinstance(forward, Seam):
        forward = forward.original()
    return (
        hasattr(forward, "_torchdynamo_orig_callable")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
    )


def unwrap(pipeline: Any) -> Any:
    """The pipeline that an object holds in `_pipeline`, as the stock notebook's `Inference` does, or the object."""
    return pipeline if hasattr(pipeline, "models") else getattr(pipeline, "_pipeline", pipeline)
