"""Accelerate a loaded pipeline in place, and restore it exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fast_sam3d.adapters import adapt
from fast_sam3d.install import install, plan
from fast_sam3d.patch import Patch
from fast_sam3d.serial import one_at_a_time
from fast_sam3d.telemetry import Report

__all__ = ["Handle", "accelerate", "accelerated", "restore"]


class Handle:
    """One acceleration of one pipeline.

    Attributes:
        report: costs of the accelerated runs.
        methods: the settings by module, with all defaults.
    """

    def __init__(self, patch: Patch, report: Report) -> None:
        self._patch = patch
        self.report = report

    @property
    def methods(self) -> Mapping[str, Any]:
        """See the class."""
        return self.report.methods

    @property
    def active(self) -> bool:
        """False once removed, or replaced by another `accelerate`."""
        return self._patch.active

    def remove(self) -> None:
        """Restore the pipeline. Safe to repeat. While another thread is in a run, it waits for the end of it."""
        with one_at_a_time():
            self._patch.remove()

    def __repr__(self) -> str:
        state = "active" if self.active else "removed"
        return f"<fast_sam3d.Handle {state}, stages: {', '.join(self.methods) or 'none'}>"


@one_at_a_time()
def accelerate(
    pipeline: Any, config: Any = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> Handle:
    """Accelerate a loaded pipeline in place.

    Settings are checked before anything changes, and a failing installation is undone completely. On an accelerated
    pipeline the new settings replace the old.

    Threads: an accelerated pipeline runs for one thread at a time, and so do `run_object`, `run_scene` and the embedded
    pipeline, because a run seeds torch's random generator, which all pipelines of a process share. A second thread
    waits for the end of the run, in `accelerate` and `Handle.remove` as well, and gets the result of a run alone. Only
    a bare `run` of an unaccelerated stock pipeline does not wait. For runs at once use processes.

    Args:
        pipeline: of SAM 3D Objects, TRELLIS or TRELLIS.2, or an object that holds one in `_pipeline`.
        config: a mapping {"ss": {when, where, predict, guide}, "slat": {...}, "mesh": {...}, "exact": {...}}, the whole
            project configuration, the path of a YAML file with either (`fast-sam3d config` prints one, `fast-sam3d
            tune` measures one), or the name of a preset. Modules that are missing, null or empty stay off; savings
            that `exact` does not name are on. None: the default preset. The presets "default" and "fast" take the
            schedule that `fast-sam3d tune` measured on this model, where there is one. With every module off the
            pipeline stays untouched; use `observe` for a report.
        preset: the name of a preset, instead of `config`.
        overrides: Hydra overrides on top, such as "ss.when.stride=4"; "use_calibrated=false" leaves a measured
            schedule out.

    Returns:
        a handle with the report; `remove` restores the pipeline.

    Raises:
        ConfigError: an unknown preset, module, method, key or leaf, a value out of range, or a schedule that was
            measured on another model or sampler.
        NotAPipelineError: `pipeline` is not one.
        SolverError: a stage to be accelerated does not use the Euler solver.
    """
    adapter = adapt(pipeline)
    methods, schedule = plan(adapter, config, preset=preset, overrides=overrides)
    for stage in adapter.stages.keys() & methods.keys():
        adapter.require_euler(stage)
    report = Report({stage: method.settings() for stage, method in methods.items()}, schedule=schedule)
    return Handle(install(adapter, report, methods), report)


@one_at_a_time()
def restore(pipeline: Any) -> None:
    """Remove every acceleration from a pipeline, or from a deep copy of an accelerated one.

    Raises:
        NotAPipelineError: `pipeline` is not one.
    """
    Patch().take_off(adapt(pipeline).seams(), lambda layer: layer.accelerates)


@contextmanager
def accelerated(
    pipeline: Any, config: Any = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> Iterator[Handle]:
    """`accelerate` within a `with` block. Arguments and errors as there.

    An earlier acceleration is replaced, and not reinstalled at the end of the block.
    """
    handle = accelerate(pipeline, config, preset=preset, overrides=overrides)
    try:
        yield handle
    finally:
        handle.remove()
