"""Adapter of TRELLIS, for pictures and for texts, and of TRELLIS.2, whose samplers are of the same kind.

Names of attributes and methods match trellis/pipelines (`TrellisImageTo3DPipeline`, `TrellisTextTo3DPipeline`) and
trellis2/pipelines (`Trellis2ImageTo3DPipeline`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.adapters.base import Adapter, Place
from fast_sam3d.adapters.samplers import SHAPE, decode_structure
from fast_sam3d.adapters.trellis_sampler import (
    KINDS,
    STRENGTHS,
    SampleSeam,
    Velocity,
    branch_of,
    grid,
    guidance_of,
    has_known_loop,
    only_voxels,
    settings_of,
    unfit,
    voxels_of,
)  # fmt: skip
from fast_sam3d.errors import InputError, nothing_found
from fast_sam3d.patch import seam_at
from fast_sam3d.sampling.driver import require_single_steps
from fast_sam3d.sampling.stage import SolverError, SolveStage

__all__ = ["PRESETS", "Trellis", "table_of"]


@dataclass(frozen=True)
class Table:
    """Names of one model.

    Args:
        runtime: of reports.
        samplers: stage -> attribute of its sampler; its settings are in one named `..._params`.
        networks: stage -> its networks in `models`, of which a pipeline may lack some.
        rows: method of the pipeline -> row of the report.
        decoders: decoder in `models` -> row of the report.
        formats: format -> decoder.
    """

    runtime: str
    samplers: Mapping[str, str]
    networks: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, str]
    decoders: Mapping[str, str]
    formats: Mapping[str, str]


_RUN = {"run": "other", "run_variant": "other", "run_multi_image": "other", "preprocess_image": "preprocess"}
_STRUCTURE = "sparse_structure_sampler"
PRESETS = {"default": "trellis", "fast": "trellis_fast"}
"""See `Adapter.presets`."""

TRELLIS = Table(
    runtime="trellis",
    samplers={"ss": _STRUCTURE, "slat": "slat_sampler"},
    networks={"ss": ("sparse_structure_flow_model",), "slat": ("slat_flow_model",)},
    rows={**_RUN, "get_cond": "condition", "sample_sparse_structure": "ss", "sample_slat": "slat"},
    decoders={
        "sparse_structure_decoder": "ss_decoder",
        "slat_decoder_mesh": "mesh",
        "slat_decoder_gs": "gaussian",
        "slat_decoder_rf": "radiance_field",
    },
    formats={"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs"},
)
TRELLIS_2 = Table(
    runtime="trellis2",
    samplers={"ss": _STRUCTURE, "slat": "shape_slat_sampler", "texture": "tex_slat_sampler"},
    networks={
        "ss": ("sparse_structure_flow_model",),
        "slat": ("shape_slat_flow_model_512", "shape_slat_flow_model_1024"),
        "texture": ("tex_slat_flow_model_512", "tex_slat_flow_model_1024"),
    },
    rows={
        **_RUN,
        "get_cond": "condition",
        "sample_sparse_structure": "ss",
        "sample_shape_slat": "slat",
        "sample_shape_slat_cascade": "slat",
        "sample_tex_slat": "texture",
    },
    decoders={
        "sparse_structure_decoder": "ss_decoder",
        "shape_slat_decoder": "shape",
        "tex_slat_decoder": "texture_decoder",
    },
    # The shape decoder returns more than meshes, so that nothing is merged in it.
    formats={},
)


def table_of(pipeline: Any) -> Table | None:
    """The names of a pipeline, None where it is neither of the models."""
    for table in (TRELLIS_2, TRELLIS):
        if all(hasattr(pipeline, name) for name in (*table.samplers.values(), "models")):
            return table
    return None


class _StructureDone(Exception):
    """Ends a run of which only the structure is wanted."""


class Trellis(Adapter):
    """A pipeline of TRELLIS or TRELLIS.2.

    Args:
        table: its names.
    """

    soft_alpha = True

    def __init__(self, pipeline: Any, table: Table) -> None:
        super().__init__(pipeline)
        self.table = table

    @property
    def presets(self) -> Mapping[str, str]:
        """See `Adapter`."""
        return PRESETS

    @property
    def stages(self) -> dict[str, SolveStage]:
        """See `Adapter`."""
        return {
            name: SolveStage("ss", SHAPE, {"shape": (SHAPE,), "layout": ()}, guidance_of, decode=decode_structure,
                             branch=branch_of, unfit=unfit)
            if name == "ss"
            else SolveStage(name, "feats", {"feats": ("feats",)}, guidance_of, voxels_of, only_voxels,
                            branch=branch_of, unfit=unfit, follows="slat" if name == "texture" else "")
            for name in self.table.samplers
        }  # fmt: skip

    @property
    def runtime(self) -> str:
        """ "trellis" or "trellis2"."""
        return self.table.runtime

    def solver(self, stage: str) -> Any:
        """See `Adapter`: the seam on its sampler."""
        sampler = self._sampler(stage)
        return seam_at(sampler, "sample") or SampleSeam(sampler)

    def loops(self, stage: str) -> Iterable[Place]:
        """See `Adapter`: the sampler's own loop."""
        sampler = self._sampler(stage)
        return [(sampler, "sample", partial(SampleSeam, sampler))]

    def require_euler(self, stage: str) -> None:
        """See `Adapter`."""
        sampler = self._sampler(stage)
        if not has_known_loop(sampler):
            raise SolverError(
                f"{stage}: the sampler is {type(sampler).__name__}, and step caching works with `sample` of "
                f"{', '.join(KINDS)}, which takes one Euler step for one velocity: set one of them"
            )
        if sum(self._sampler(name) is sampler for name in self.table.samplers) > 1:
            raise SolverError(
                f"{stage}: the pipeline has one sampler for several stages: give each a sampler of its own"
            )
        if not (seam := self.solver(stage)).wrapped:
            require_single_steps(seam, stage)

    def networks(self, stage: str) -> list[Any]:
        """See `Adapter`."""
        return [network for name in self.table.networks[stage] if (network := self._part(name)) is not None]

    def network_calls(self, stage: str, steps: int | None = None) -> tuple[int, int]:
        """See `Adapter`."""
        facts = self._facts(stage)
        guidance = guidance_of(Velocity(self._sampler(stage), None, facts))
        times = [1 - t for t in grid(facts["steps"] if steps is None else steps, facts["rescale_t"])[:-1]]
        return len(times), sum(guidance is not None and guidance.acts_at(t) for t in times)

    def sampler(self, stage: str, steps: int | None = None) -> dict[str, Any]:
        """See `Adapter`."""
        facts = self._facts(stage)
        strength = next((name for name in STRENGTHS if name in facts), None)
        return {
            "steps": facts["steps"] if steps is None else steps,
            "rescale_t": facts["rescale_t"],
            "guidance": None if strength is None else facts[strength],
            "interval": None if strength is None else facts.get(STRENGTHS[strength][0]),
            "shortcut": False,
        }

    @contextmanager
    def sampler_set(self, stage: str, rescale_t: float | None = None, strength: float | None = None) -> Iterator[None]:
        """See `Adapter`."""
        name = next((name for name in STRENGTHS if name in self._facts(stage)), "cfg_strength")
        with self._set({stage: {"rescale_t": rescale_t, name: strength}}):
            yield

    def steps_set(self, steps: Mapping[str, int]) -> AbstractContextManager[None]:
        """See `Adapter`."""
        return self._set({stage: {"steps": count} for stage, count in steps.items()})

    def structure_decoder(self) -> Any:
        """See `Adapter`."""
        return self._part("sparse_structure_decoder")

    def decoder(self, name: str) -> Any:
        """See `Adapter`."""
        return self._part(self.table.formats[name]) if name in self.table.formats else None

    def timed(self) -> Iterator[tuple[object, str, str]]:
        """See `Adapter`."""
        for method, row in self.table.rows.items():
            if callable(getattr(self.pipeline, method, None)):
                yield self.pipeline, method, row
        for name, row in self.table.decoders.items():
            if (decoder := self._part(name)) is not None:
                yield decoder, "forward", row

    def parts(self) -> Iterator[Any]:
        """See `Adapter`."""
        yield from (self._part(name) for name in self.table.decoders)

    def call(self, rgba: NDArray[np.uint8], pointmap: Tensor | None, settings: Any) -> Mapping[str, Any]:
        """See `Adapter`.

        Raises:
            InputError: a pipeline for texts.
        """
        if not hasattr(self.pipeline, "preprocess_image") or not self.table.formats:
            raise InputError(
                f"{type(self.pipeline).__name__} makes no mesh and gaussians of a picture: call its own `run`, "
                "accelerated or not"
            )
        from PIL import Image

        seed = int(torch.randint(2**31, ())) if settings.seed is None else settings.seed
        ss, slat = ({} if count is None else {"steps": count} for count in (settings.ss_steps, settings.slat_steps))
        formats = [name for name in settings.formats or ("mesh", "gaussian") if name in self.formats]
        kept, sample = dict[str, Any](), self.pipeline.sample_sparse_structure

        def structure(*args: Any, **kwargs: Any) -> Any:
            kept["coords"] = coords = sample(*args, **kwargs)
            if not len(coords):
                raise nothing_found(finite=True)
            if settings.structure_only:
                raise _StructureDone
            return coords

        with suppress(_StructureDone), _replaced(self.pipeline, "sample_sparse_structure", structure):
            kept |= self.pipeline.run(
                Image.fromarray(rgba), seed=seed, formats=formats,
                sparse_structure_sampler_params=ss, slat_sampler_params=slat,
            )  # fmt: skip
        return kept

    def _sampler(self, stage: str) -> Any:
        return getattr(self.pipeline, self.table.samplers[stage])

    def _facts(self, stage: str) -> dict[str, Any]:
        """Settings of a stage's sampler."""
        own = getattr(self.pipeline, f"{self.table.samplers[stage]}_params")
        return {**settings_of(self._sampler(stage)), **(own or {})}

    @contextmanager
    def _set(self, values: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        names = {stage: f"{self.table.samplers[stage]}_params" for stage in values}
        before = {name: getattr(self.pipeline, name) for name in names.values()}
        try:
            for stage, some in values.items():
                given = {name: value for name, value in some.items() if value is not None}
                setattr(self.pipeline, names[stage], {**(before[names[stage]] or {}), **given})
            yield
        finally:
            for name, value in before.items():
                setattr(self.pipeline, name, value)

    def _part(self, name: str) -> Any:
        models = self.pipeline.models
        return models[name] if name in models else None  # noqa: SIM401 (it may be a ModuleDict)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An instance attribute for the length of a block."""
    own, before = vars(owner), vars(owner).get(name)
    own[name] = value
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before
