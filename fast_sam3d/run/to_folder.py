"""One object from its input to a folder of results, as `infer` and the demo run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.config.compose import Config
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.outputs.folder import result_folder
from fast_sam3d.run.memory import free_memory
from fast_sam3d.run.notices import checkpoint_notices, notices_of
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object_fitting
from fast_sam3d.run.own_process import Call, here
from fast_sam3d.run.results import write_results
from fast_sam3d.serial import one_at_a_time

if TYPE_CHECKING:
    from fast_sam3d.telemetry import Progress

__all__ = ["Written", "run_to_folder"]


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A run whose results are written.

    Args:
        files: their names, in order of interest.
        notices: what people have to know of the result.
        out_of_memory: a line for every attempt that did not fit into the memory.
    """

    run: ObjectRun
    files: list[str]
    notices: tuple[str, ...]
    out_of_memory: list[str]


@one_at_a_time()
def run_to_folder(
    pipeline: Any,
    config: Config,
    given: ObjectInput,
    checkpoint: Checkpoint,
    target: Path,
    *,
    progress: Progress | None = None,
    load_seconds: float = 0.0,
    identity: Mapping[str, Any] | None = None,
    before: Callable[[ObjectRun], None] = lambda run: None,
    call: Call = here,
) -> Written:
    """Accelerate a pipeline as configured, run it on one object, write the results, and restore the pipeline.

    While another thread is in here, or in a run, it waits: two would run with each other's acceleration.

    Args:
        checkpoint: of the pipeline.
        target: appears when the results are complete.
        progress: receives every step and stage.
        identity: see `write_results`.
        before: called with the run before its results are written; out of memory in it counts too.
        call: see `write_results`.

    Raises:
        DoesNotFit: it does not fit into the memory.
        OutputError: the results cannot be written.
    """
    from fast_sam3d.api import accelerate, restore

    tried: list[str] = []

    def write(run: ObjectRun) -> Written:
        before(run)
        notices = notices_of(given, run, checkpoint_notices(checkpoint))
        with result_folder(target) as folder:
            files, notices = write_results(
                folder, config, given, run, tag=checkpoint.tag, load_seconds=load_seconds, out_of_memory=tried,
                identity=identity, notices=notices, call=call,
            )  # fmt: skip
        return Written(run, files, notices, tried)

    def free() -> None:
        accelerate(pipeline, config)  # a new installation has no caches
        free_memory()

    accelerate(pipeline, config)
    try:
        written, _ = run_object_fitting(
            pipeline, given.image, given.mask_for(config.pipeline.model), given.pointmap,
            settings=RunSettings.of(config.seed, config.pipeline),
            progress=progress, smaller=config.scene.smaller, free=free, failures=tried, use=write,
        )  # fmt: skip
    finally:
        restore(pipeline)
    return written
