"""The methods of a configuration, built from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from fast_sam3d.adapters.samplers import sampling_stages
from fast_sam3d.decode.aggregate import MeshMethod, build_mesh_method
from fast_sam3d.exact import Exact, build_exact
from fast_sam3d.sampling import StageMethod, build_stage_method
from fast_sam3d.sampling.stage import SolveStage

__all__ = ["Method", "build_methods"]

Method: TypeAlias = StageMethod | MeshMethod | Exact


def build_methods(settings: Mapping[str, Any], stages: Mapping[str, SolveStage] | None = None) -> dict[str, Method]:
    """The methods that settings describe, by module; what is missing, null or empty is left out.

    Args:
        settings: by module ("ss", "slat", "mesh", "exact").
        stages: the pipeline's sampling stages; None: those of the stock pipeline.

    Raises:
        ConfigError: an unknown method or setting, or a value out of range.
    """
    methods: dict[str, Method] = {
        name: build_stage_method(given, stage.groups, path=name, voxels=stage.coords is not None)
        for name, stage in (sampling_stages() if stages is None else stages).items()
        if (given := settings.get(name, settings.get(stage.follows)))
    }
    if settings.get("mesh"):
        methods["mesh"] = build_mesh_method(settings["mesh"])
    if settings.get("exact") and (exact := build_exact(settings["exact"])).any:
        methods["exact"] = exact
    return methods
