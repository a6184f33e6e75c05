"""Where modules of earlier versions are now, for a clear error when one is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

# All without `fast_sam3d.`: the new package, and the old modules that are in it now.
_TABLE = """
bench: exact.count exact.measure mini.train.evaluate profile
bench.plots: bench.pictures
checkpoints: checkpoint_files checkpoint_targets doctor download loading
cli: cli.scene_cluster mini.train.cli mini.train.evaluate_cli
cluster: cluster.pool
config: config_reader resources zoo
decode.hooks: decode.around
exact.passes: exact.programs
exact.places: exact.seams
geometry: arrays camera gaussian_cloud placement
inputs: images picture_files pointmap_file
mini.train: mini.slat_vae mini.surface_targets
model: mini.config mini.depth mini.embedder mini.extract mini.flow mini.gaussian mini.inputs mini.latents mini.layers
model: mini.networks mini.outputs mini.pipeline
model: mini.pipeline_config mini.pose mini.pose_decoder mini.preprocess mini.slat_config mini.slat_decoder
model: mini.slat_flow mini.solver mini.sparse mini.sparse_grid mini.sparse_transformer mini.ss_flow mini.ss_vae
model: mini.together mini.tree mini.voxels mini.weights mini.window
outputs: export interrupts mini.train.folders result_folder
refinement: mini.layout_fit mini.layout_refinement mini.layout_target
refinement: model.layout_fit model.layout_refinement model.layout_target
render: dots panels preview threads zbuffer
run: forks mini.workers object_run out_of_memory progress
sampling: solve
scene: scene.composing scene.engines scene.left_behind
tune: calibrate
"""
MOVED: Final[Mapping[str, str]] = {
    old: new for new, _, names in (line.partition(":") for line in _TABLE.split("\n")) for old in names.split()
}
"""A name covers everything below it that is not listed itself."""

PUBLIC: Final[Mapping[str, str]] = {
    "export": "save_gaussians_ply, save_glb, save_pose_json",
    "images": "load_object",
    "loading": "load_pipeline",
    "object_run": "run_object",
}
"""Names of an old module that `fast_sam3d` itself has."""


def where(name: str) -> str | None:
    """Where a module of an earlier version is now, as a sentence; None where there was none of that name.

    Args:
        name: such as "fast_sam3d.export".
    """
    package, _, old = name.partition(".")
    known = old
    while known and known not in MOVED:
        known = known.rpartition(".")[0]
    if not known:
        return None
    also = f"; {package} itself has {PUBLIC[old]}" if old in PUBLIC else ""
    return f"{name} is now in {package}.{MOVED[known]}{also}"


class _Finder:
    """Consulted last, so only for modules that do not exist."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname.startswith("fast_sam3d.") and (found := where(fullname)) is not None:
            # `from fast_sam3d import export` would replace the text of a ModuleNotFoundError.
            raise ImportError(found, name=fullname)


def explain_old_imports() -> None:
    """Importing a module of an earlier version raises an error that says where it is now."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
