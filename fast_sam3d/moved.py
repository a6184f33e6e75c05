"""Where modules of earlier versions are now, for a clear error when one is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

_TO_MODEL: Final = (
    "config", "depth", "embedder", "extract", "flow", "gaussian", "inputs", "latents", "layers", "layout_fit",
    "layout_refinement", "layout_target", "networks", "outputs", "pipeline", "pipeline_config", "pose", "pose_decoder",
    "preprocess", "slat_config", "slat_decoder", "slat_flow", "solver", "sparse", "sparse_grid", "sparse_transformer",
    "ss_flow", "ss_vae", "together", "tree", "voxels", "weights", "window",
)  # fmt: skip

MOVED: Final[Mapping[str, str]] = {
    "arrays": "geometry.arrays",
    "bench.pictures": "bench.plots",
    "calibrate": "tune.calibrate",
    "camera": "geometry.camera",
    "checkpoint_files": "checkpoints",
    "checkpoint_targets": "checkpoints",
    "cli.scene_cluster": "cli",
    "cluster.pool": "cluster",
    "config_reader": "config",
    "decode.around": "decode.hooks",
    "doctor": "checkpoints",
    "dots": "render",
    "download": "checkpoints",
    "exact.count": "bench",
    "exact.measure": "bench",
    "exact.programs": "exact.passes",
    "exact.seams": "exact.places",
    "export": "outputs",
    "forks": "run",
    "gaussian_cloud": "geometry.gaussians",
    "images": "inputs",
    "interrupts": "outputs",
    "loading": "checkpoints",
    "mini.slat_vae": "mini.train",
    "mini.surface_targets": "mini.train",
    "mini.train.cli": "cli",
    "mini.train.evaluate": "bench",
    "mini.train.evaluate_cli": "cli",
    "mini.train.folders": "outputs",
    "mini.workers": "run",
    "object_run": "run",
    "out_of_memory": "run",
    "panels": "render",
    "picture_files": "inputs",
    "placement": "geometry.poses",
    "pointmap_file": "inputs",
    "preview": "render",
    "profile": "bench",
    "progress": "run",
    "resources": "config",
    "result_folder": "outputs",
    "scene.composing": "scene",
    "scene.engines": "scene",
    "scene.left_behind": "scene",
    "solve": "sampling",
    "threads": "render",
    "tune.evidence": "tune.results",
    "tune.judge": "tune.drift",
    "tune.ledger": "tune.measurements",
    "tune.picture": "tune.plot",
    "zbuffer": "render",
    "zoo": "config",
    **{f"mini.{name}": "model" for name in _TO_MODEL},
}
"""Both without `fast_sam3d.`. A name covers everything below it that is not listed itself."""

PUBLIC: Final[Mapping[str, Sequence[str]]] = {
    "export": ("save_gaussians_ply", "save_glb", "save_pose_json"),
    "images": ("load_object",),
    "loading": ("load_pipeline",),
    "object_run": ("run_object",),
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
    public = PUBLIC.get(old, ())
    also = f"; {', '.join(public)} {'is' if len(public) == 1 else 'are'} also in {package}" if public else ""
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
