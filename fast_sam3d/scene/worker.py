"""One object of one scene, from its task to its folder of results.

A task holds everything that a worker on any machine needs. A worker loads the pipeline once and reads each picture
once. It writes a complete folder, with a `done.json` that identifies its inputs and settings, or nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.config.compose import FORMATS, Config, OutputConfig
from fast_sam3d.config.measured import PRESETS, cache_state
from fast_sam3d.config.resolve import own_modules
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import FastSam3dError, OutputError, one_line
from fast_sam3d.outputs.folder import result_folder
from fast_sam3d.outputs.seals import damage, read_sealed, save_sealed
from fast_sam3d.run.memory import free_memory, smaller_than
from fast_sam3d.run.notices import checkpoint_notices, notices_of
from fast_sam3d.run.object import Known, ObjectRun, RunSettings, run_object_fitting
from fast_sam3d.run.own_process import Call, here
from fast_sam3d.run.results import REPORT, RESULT_NAMES, write_results
from fast_sam3d.scene.batch import Ahead
from fast_sam3d.scene.inputs import SceneInput, digest, load_scene
from fast_sam3d.scene.staged import in_groups

if TYPE_CHECKING:
    from fast_sam3d.checkpoints.load import Checkpoint
    from fast_sam3d.telemetry import Progress

__all__ = [
    "DONE",
    "OBJECT_NAMES",
    "ObjectOutcome",
    "ObjectTask",
    "ObjectWorker",
    "config_identity",
    "input_identity",
    "outcome_of",
    "read_done",
]

log = logging.getLogger(__name__)

DONE = "done.json"
OBJECT_NAMES = (*RESULT_NAMES, DONE)


@dataclass(frozen=True, slots=True)
class ObjectTask:
    """One object to reconstruct; small, and can be sent to another process.

    Args:
        folder: of the scene's picture.
        asked: how pointmap and masks are read.
        number: of the mask.
        target: the folder to create or replace.
        identity: written into `done.json`; see `config_identity` and `input_identity`.
        group: numbers of the masks whose sparse structures are sampled in one batch; empty: no batch.
    """

    folder: Path
    asked: InputConfig
    number: int
    target: Path
    identity: Mapping[str, Any]
    group: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """The outcome of a task.

    Args:
        number: of the mask.
        status: "complete", "failed" or "duplicate" (the mask has the same pixels as an earlier one).
        message: why, where it is not complete.
        formats: that were decoded.
        out_of_memory: attempts that did not fit.
        seconds: of the run; None if it was complete already.
        notices: of this object, see `run.notices`.
    """

    number: int
    status: str
    message: str = ""
    formats: tuple[str, ...] = ()
    out_of_memory: tuple[str, ...] = ()
    seconds: float | None = None
    notices: tuple[str, ...] = ()


class ObjectWorker:
    """Holds one pipeline and reconstructs objects with it, one after another; a context manager.

    Args:
        pipeline: loaded.
        config: of the runs; the pipeline is accelerated accordingly until the end of the context.
        tag: of the checkpoint.
        load_seconds: time that loading took.
        embedded: reduce pictures beforehand to the size to which the embedded pipeline reduces them.
        notices: of the checkpoint, see `run.notices`.
    """

    def __init__(
        self, pipeline: Any, config: Config, tag: str, load_seconds: float = 0.0, embedded: bool = False,
        notices: Sequence[str] = (),
    ) -> None:  # fmt: skip
        from fast_sam3d.adapters import unwrap
        from fast_sam3d.api import accelerate

        self.pipeline = unwrap(pipeline)
        self.config, self.tag, self.load_seconds, self.embedded = config, tag, load_seconds, embedded
        self.notices = notices
        self.progress: Progress | None = None
        """Receives every step and stage."""
        self.call: Call = here
        """Of what takes seconds of writing; see `run.results.write_results`."""
        self._scene: tuple[Path, InputConfig, SceneInput] | None = None
        self._ahead = Ahead(self.pipeline, config.seed, config.pipeline.ss_steps)
        self._handle = accelerate(self.pipeline, config)

    @classmethod
    def load(cls, config: Config, checkpoint: Checkpoint) -> ObjectWorker:
        """Load a pipeline for a worker."""
        from fast_sam3d.checkpoints.load import load_checkpoint

        begin, asked = time.perf_counter(), config.pipeline
        pipeline = load_checkpoint(checkpoint, *asked.loading)
        seconds = time.perf_counter() - begin
        log.info("loaded on %s in %.1f s", pipeline.device, seconds)
        notices = checkpoint_notices(checkpoint)
        return cls(pipeline, config, checkpoint.tag, seconds, checkpoint.kind == "mini", notices)

    def __enter__(self) -> ObjectWorker:
        return self

    def __exit__(self, *details: object) -> None:
        self._handle.remove()
        self._ahead.forget()

    def know(self, scene: SceneInput, asked: InputConfig) -> None:
        """Use a scene that has been read already."""
        self._scene = (scene.folder, asked, scene.reduced() if self.embedded else scene)
        self._ahead.forget()

    def prepare(self, task: ObjectTask) -> None:
        """Compute what a task shares with those of its scene and group, unless it is there already.

        Errors are left to `process`.
        """
        try:
            self._share(task)
        except Exception as error:
            log.debug("what object %d shares with others cannot be computed ahead", task.number, exc_info=error)

    def voxels(self, task: ObjectTask) -> int:
        """Number of voxels of the object of a prepared task; 0 if unknown."""
        known = dict(zip(task.group, self._ahead.voxels, strict=False))
        return known.get(task.number, 0)

    @property
    def smaller(self) -> list[tuple[str, ...]]:
        """Formats to decode instead when out of memory, in order."""
        from fast_sam3d.adapters import adapt

        return smaller_than(self.config.pipeline.formats, self.config.scene.smaller, adapt(self.pipeline).formats)

    def process_all(self, tasks: Sequence[ObjectTask]) -> Iterator[ObjectOutcome]:
        """Reconstruct objects in this process; under a memory plan that releases weights, stage by stage in groups."""
        return in_groups(
            self.pipeline, tasks, self.config.scene.batch, lambda task, known: self.process(task, known=known)
        )

    def process(
        self, task: ObjectTask, formats: tuple[str, ...] = (), ended: Sequence[str] = (), known: Known | None = None
    ) -> ObjectOutcome:
        """Reconstruct one object; its errors are part of the outcome, not raised.

        Args:
            formats: of `smaller`; empty: those of the configuration.
            ended: earlier attempts that ended their processes.
            known: of an earlier run of this object, which stopped.

        Raises:
            OutputError: the disk is full or the folder cannot be written, which would fail for every other object too.
        """
        begin, failures = time.perf_counter(), list(ended)
        try:
            formats, notices = self._run(task, formats or self.config.pipeline.formats, failures, known)
        except OutputError:
            raise
        except Exception as error:
            if not isinstance(error, FastSam3dError):
                log.debug("object %d", task.number, exc_info=error)
            return ObjectOutcome(task.number, "failed", one_line(error), seconds=time.perf_counter() - begin)
        seconds = time.perf_counter() - begin if known is None else known.seconds
        return ObjectOutcome(task.number, "complete", "", formats, tuple(failures), seconds, notices)

    def _share(self, task: ObjectTask) -> SceneInput:
        if self._scene is None or self._scene[:2] != (task.folder, task.asked):
            self._scene = None  # not two pictures at once
            self.know(load_scene(task.folder, task.asked), task.asked)
        assert self._scene is not None
        scene = self._scene[2]
        if task.group:
            objects = ((item.image, item.mask, item.pointmap) for item in map(scene.object, task.group))
            self._ahead.prepare((task.folder, task.group), objects)
        return scene

    def _run(
        self, task: ObjectTask, formats: Sequence[str], tried: list[str], known: Known | None = None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the formats that were decoded, and the notices."""
        given = self._share(task).object(task.number)
        settings = replace(RunSettings.of(self.config.seed, self.config.pipeline), formats=tuple(formats))

        def write(run: ObjectRun) -> tuple[str, ...]:
            notices = notices_of(given, run, self.notices)
            with result_folder(task.target) as folder:
                written, notices = write_results(
                    folder, self.config, given, run, tag=self.tag, load_seconds=self.load_seconds, out_of_memory=tried,
                    notices=notices, call=self.call, keep=FORMATS,  # the scene is composed from these
                )  # fmt: skip
                own = notices[len(self.notices) :]
                _write_done(folder, task, written, run, tried, given.size, own)
            return own

        def free() -> None:
            from fast_sam3d.api import accelerate

            # A new installation has no caches of earlier pictures and objects.
            self._handle = accelerate(self.pipeline, self.config)
            free_memory()

        notices, fitted = run_object_fitting(
            self.pipeline, given.image, given.mask, given.pointmap, settings=settings, progress=self.progress,
            smaller=self.config.scene.smaller, free=free, failures=tried, known=known, use=write,
        )  # fmt: skip
        return fitted, notices


def _write_done(
    folder: Path, task: ObjectTask, written: list[str], run: ObjectRun, tried: Sequence[str], size: tuple[int, int],
    notices: Sequence[str],
) -> None:  # fmt: skip
    from fast_sam3d.scene.files import camera_facts, camera_seen

    points = run.result.get("pointmap")
    camera = None if points is None else camera_seen(points, size, f"object {task.number}")
    save_sealed(folder / DONE, {
        "identity": task.identity,
        # The report holds times, so its size and digest differ from run to run; it has a seal of its own.
        "files": {name: None if name == REPORT else (folder / name).stat().st_size for name in sorted(written)},
        "formats": run.formats,
        "out_of_memory": tried,
        "notices": notices,
        "camera": None if camera is None else {**camera_facts(camera), "size_px": size},
    }, [name for name in written if name != REPORT])  # fmt: skip


def read_done(target: Path) -> dict[str, Any] | None:
    """The content of an object's `done.json`, if neither it nor a file that it lists has changed; else None.

    What has changed is logged.
    """
    path = target / DONE
    if not path.exists():
        return None
    try:
        done = read_sealed(path)
        changed = damage(path, done)
        if changed is None and isinstance(done["identity"], dict):
            return done
    except (ValueError, KeyError, TypeError):
        changed = None
    log.warning("%s: %s since it was written, so the object does not count as complete", target,
                changed or f"{DONE} has been changed")  # fmt: skip
    return None


def outcome_of(number: int, done: Mapping[str, Any]) -> ObjectOutcome:
    """The outcome of a complete object from its `done.json`."""
    formats, tried, notices = (tuple(done.get(key, ())) for key in ("formats", "out_of_memory", "notices"))
    return ObjectOutcome(number, "complete", "", formats, tried, notices=notices)


def config_identity(config: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """The part of a configuration that an object's files depend on: not their place, nor the device."""
    asked = config.pipeline
    identity = {
        "seed": config.seed,
        "steps": [asked.ss_steps, asked.slat_steps],
        "formats": sorted(asked.formats),
        "smaller": config.scene.smaller,
        "batch": config.scene.batch,
        "dtype": asked.dtype,
        "depth_model": asked.depth_model,
        "layout_postprocess": asked.layout_postprocess,
        "preview": config.output.preview,
        "modules": own_modules(config),
        **_unless_default(config.output),
        **({} if config.quality is None else {"quality": config.quality}),
        "weights": _weights(checkpoint),
        **({"model": str(checkpoint.folder)} if checkpoint.kind == "trellis" else {}),
    }
    if checkpoint.runtime == "native":
        identity["runtime"] = checkpoint.runtime
    if config.use_calibrated and config.choices.get("preset") in PRESETS and (measured := cache_state()):
        identity["schedules"] = measured
    plain: dict[str, Any] = json.loads(json.dumps(identity, sort_keys=True, default=list))
    return plain


def _unless_default(output: OutputConfig) -> dict[str, Any]:
    """The settings of the files that are not the default, so that results of earlier versions count as the same."""
    asked = {
        "files": None if output.formats is None else sorted(output.formats),
        "faces": output.faces,
        "texture": output.texture,
        "bake": output.bake.gate,
        "turntable": output.turntable or None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def input_identity(scene: SceneInput, number: int) -> dict[str, Any]:
    """Digests of the pixels of picture and mask, and of the pointmap. Logs notices of the mask; raises InputError."""
    notices: list[str] = []
    mask = scene.mask(number, notices)
    for notice in notices:
        log.warning("%s, object %d: %s", scene.name, number, notice)
    return {**scene.digests, "mask": digest(mask)}


def _weights(checkpoint: Checkpoint) -> str:
    """sha256 of the weights' and settings' names and sizes, and of their checksums; gigabytes are not read."""
    kinds = {".yaml", ".json", ".safetensors", ".ckpt", ".pt"}
    files = sorted(p for p in checkpoint.folder.rglob("*") if p.suffix in kinds and p.name != "evaluation.json")
    known = {str(path.relative_to(checkpoint.folder)): path.stat().st_size for path in files}
    sums = [path.read_text() for path in files if path.name == "sha256.json"]
    text = json.dumps([known, sums], sort_keys=True).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()
