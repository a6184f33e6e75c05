"""Training-free acceleration of SAM 3D Objects: one call makes a loaded pipeline faster, one call brings it back.

    import fast_sam3d

    pipeline = fast_sam3d.load_pipeline("mini")
    handle = fast_sam3d.accelerate(pipeline)
    result = pipeline.run(image, mask, seed=0)
    print(handle.report.table())
    handle.remove()

The names below are imported on first use, so that `import fast_sam3d` stays quick and needs no optional package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_sam3d.api import Handle, accelerate, accelerated, restore
    from fast_sam3d.checkpoints.load import load_pipeline
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
    "load_pipeline",
    "observe",
    "report",
    "restore",
    "run_object",
    "run_scene",
]

_HOMES = {
    "Handle": "fast_sam3d.api",
    "accelerate": "fast_sam3d.api",
    "accelerated": "fast_sam3d.api",
    "restore": "fast_sam3d.api",
    "observe": "fast_sam3d.report",
    "load_pipeline": "fast_sam3d.checkpoints.load",
    "Report": "fast_sam3d.telemetry",
    "ObjectRun": "fast_sam3d.run.object",
    "RunSettings": "fast_sam3d.run.object",
    "run_object": "fast_sam3d.run.object",
    "compose_scene": "fast_sam3d.scene",
    "run_scene": "fast_sam3d.scene",
}


def __getattr__(name: str) -> Any:
    if name == "report":
        return import_module("fast_sam3d.report")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
