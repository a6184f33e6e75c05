"""Training-free acceleration of SAM 3D Objects, the model that reconstructs objects in 3D from one image.

    import fast_sam3d

    pipeline = fast_sam3d.load_pipeline("mini")     # or the stock notebook's `Inference`
    handle = fast_sam3d.accelerate(pipeline)        # in place
    result = pipeline.run(image, mask, seed=0)
    print(handle.report.table())                    # seconds and network calls by stage
    handle.remove()                                 # restores the pipeline

The names below are imported on first use, so that `import fast_sam3d` needs neither torch nor an optional package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fast_sam3d.moved import explain_old_imports, where

if TYPE_CHECKING:
    from fast_sam3d import report
    from fast_sam3d.api import Handle, accelerate, accelerated, restore
    from fast_sam3d.checkpoints.load import load_pipeline
    from fast_sam3d.inputs.load import load_object
    from fast_sam3d.outputs import save_gaussians_ply, save_glb, save_pose_json
    from fast_sam3d.report import observe
    from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
    from fast_sam3d.scene import compose_scene, run_scene
    from fast_sam3d.telemetry import Report

__version__ = "0.1.0"
__all__ = [
    "Handle",
    "ObjectRun",
    "Report",
    "RunSettings",
    "__version__",
    "accelerate",
    "accelerated",
    "compose_scene",
    "load_object",
    "load_pipeline",
    "observe",
    "report",
    "restore",
    "run_object",
    "run_scene",
    "save_gaussians_ply",
    "save_glb",
    "save_pose_json",
]

_HOMES = {
    "Handle": "api",
    "ObjectRun": "run.object",
    "Report": "telemetry",
    "RunSettings": "run.object",
    "accelerate": "api",
    "accelerated": "api",
    "compose_scene": "scene",
    "load_object": "inputs.load",
    "load_pipeline": "checkpoints.load",
    "observe": "report",
    "restore": "api",
    "run_object": "run.object",
    "run_scene": "scene",
    "save_gaussians_ply": "outputs",
    "save_glb": "outputs",
    "save_pose_json": "outputs",
}

explain_old_imports()


def __getattr__(name: str) -> Any:
    if name == "report":
        return import_module("fast_sam3d.report")
    if name not in _HOMES:
        hint = where(f"{__name__}.{name}")
        raise AttributeError(hint or f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
