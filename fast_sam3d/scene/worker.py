"""One object of one scene, to disk: what a worker does, whoever hands it its tasks.

A task says everything that a worker elsewhere needs; a worker loads the pipeline once and reads each picture once. What
it leaves behind is a whole folder with a `done.json` that says what it was made of, or nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError, OutputError
from fast_sam3d.outputs.folder import result_folder
from fast_sam3d.run.memory import free_memory, run_fitting, smaller_than
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from fast_sam3d.run.results import REPORT, RESULT_NAMES, write_results
from fast_sam3d.scene.batch import Ahead
from fast_sam3d.scene.inputs import SceneInput, digest, load_scene

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
    "read_done",
]

log = logging.getLogger(__name__)

DONE = "done.json"
OBJECT_NAMES = (*RESULT_NAMES, DONE)


@dataclass(frozen=True, slots=True)
class ObjectTask:
    """One object to be made; small, and can be sent to another process.

    Args:
        folder: of the scene's picture.
        pointmap: "auto", "none" or a file, as `images.load_object` takes it.
        number: of the mask.
        target: the folder to be made or replaced.
        identity: written into `done.json`; see `config_identity` and `input_identity`.
        group: numbers of the masks whose sparse structures are sampled together; empty: each by itself.
    """

    folder: Path
    pointmap: str
    number: int
    target: Path
    identity: Mapping[str, Any]
    group: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """What became of a task.

    Args:
        number: of the mask.
        status: "complete", "failed" or "duplicate" (the mask has the same pixels as an earlier one).
        message: why, where it is not complete.
        formats: that were decoded.
        out_of_memory: the tries that did not fit.
        seconds: that it took; None if it was there already.
    """

    number: int
    status: str
    message: str = ""
    formats: tuple[str, ...] = ()
    out_of_memory: tuple[str, ...] = ()
    seconds: float | None = None


class ObjectWorker:
    """Holds one pipeline and makes objects with it, one after another; a context manager.

    Args:
        pipeline: loaded.
        config: what to do; the pipeline is accelerated accordingly until the end of the context.
        tag: of the checkpoint.
        load_seconds: that loading took.
        embedded: pictures are reduced beforehand to what the embedded pipeline would reduce them to.
    """

    def __init__(
        self,
        pipeline: Any,
        config: Config,
        tag: str,
        load_seconds: float = 0.0,
        embedded: bool = False,
    ) -> None:
        from fast_sam3d.adapters import unwrap
        from fast_sam3d.api import accelerate

        self.pipeline = unwrap(pipeline)
        self.config, self.tag, self.load_seconds, self.embedded = config, tag, load_seconds, embedded
        self.progress: Progress | None = None
        """Told of every step and stage."""
        self._scene: tuple[Path, str, SceneInput] | None = None
        self._ahead = Ahead(self.pipeline, config.seed, config.pipeline.ss_steps)
        self._handle = accelerate(self.pipeline, config)

    @classmethod
    def load(cls, config: Config, checkpoint: Checkpoint) -> ObjectWorker:
        """A worker with a pipeline of its own."""
        from fast_sam3d.checkpoints.load import load_checkpoint

        begin, asked = time.perf_counter(), config.pipeline
        pipeline = load_checkpoint(checkpoint, asked.device, asked.dtype, asked.depth_model)
        seconds = time.perf_counter() - begin
        log.info("loaded on %s in %.1f s", pipeline.device, seconds)
        return cls(pipeline, config, checkpoint.tag, seconds, checkpoint.kind == "mini")

    def __enter__(self) -> ObjectWorker:
        return self

    def __exit__(self, *details: object) -> None:
        self._handle.remove()
        self._ahead.forget()

    def know(self, scene: SceneInput, pointmap: str) -> None:
        """Hands over a scene that was read already."""
        self._scene = (scene.folder, pointmap, scene.reduced() if self.embedded else scene)
        self._ahead.forget()

    def prepare(self, task: ObjectTask) -> None:
        """Does what a task has in common with those of its scene and group, unless that is done already.

        What is wrong with it is told by `process`.
        """
        try:
            self._share(task)
        except Exception as error:
            log.debug("what object %d shares with others cannot be made ahead", task.number, exc_info=error)

    def voxels(self, task: ObjectTask) -> int:
        """How large the object of a prepared task is; 0 if that is not known yet."""
        known = dict(zip(task.group, self._ahead.voxels, strict=False))
        return known.get(task.number, 0)

    @property
    def smaller(self) -> list[tuple[str, ...]]:
        """The formats to decode instead where the memory does not suffice, one set after another."""
        return self._smaller_than(self.config.pipeline.formats)

    def process(self, task: ObjectTask, formats: tuple[str, ...] = (), ended: Sequence[str] = ()) -> ObjectOutcome:
        """Makes one object; whatever goes wrong with it is told, not raised.

        Args:
            formats: of `smaller`; none takes those that are asked for.
            ended: the tries that this process does not know of, because they have ended others.

        Raises:
            OutputError: the disk is full, or the place cannot be written: no other object would fare better.
        """
        begin = time.perf_counter()
        try:
            formats, told = self._make(task, formats or self.config.pipeline.formats, list(ended))
        except OutputError:
            raise
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, FastSam3dError):
                message = f"{type(error).__name__}: {message}"
                log.debug("object %d", task.number, exc_info=error)
            return ObjectOutcome(task.number, "failed", message, seconds=time.perf_counter() - begin)
        return ObjectOutcome(task.number, "complete", "", formats, tuple(told), time.perf_counter() - begin)

    def _share(self, task: ObjectTask) -> SceneInput:
        if self._scene is None or self._scene[:2] != (task.folder, task.pointmap):
            self._scene = None  # not two pictures at once
            self.know(load_scene(task.folder, task.pointmap), task.pointmap)
        assert self._scene is not None
        scene = self._scene[2]
        if task.group:
            self._ahead.prepare((task.folder, task.group), map(scene.object, task.group))
        return scene

    def _make(self, task: ObjectTask, formats: Sequence[str], tried: list[str]) -> tuple[tuple[str, ...], list[str]]:
        given = self._share(task).object(task.number)
        settings = RunSettings.of(self.config.seed, self.config.pipeline)

        def make(formats: tuple[str, ...]) -> None:
            run = run_object(
                self.pipeline, given.image, given.mask, given.pointmap,
                settings=replace(settings, formats=formats), progress=self.progress,
            )  # fmt: skip
            with result_folder(task.target) as folder:
                written = write_results(
                    folder, self.config, given, run, tag=self.tag, load_seconds=self.load_seconds, out_of_memory=tried
                )
                _write_done(folder, task, written, run, tried, given.size)

        def free() -> None:
            from fast_sam3d.api import accelerate

            # A new installation has kept nothing of earlier pictures and objects.
            self._handle = accelerate(self.pipeline, self.config)
            free_memory()

        _, fitted, _ = run_fitting(make, formats, self._smaller_than(formats), free, tried)
        return fitted, tried

    def _smaller_than(self, formats: Sequence[str]) -> list[tuple[str, ...]]:
        from fast_sam3d.adapters import adapt

        return smaller_than(formats, self.config.scene.smaller, adapt(self.pipeline).formats)


def _write_done(
    folder: Path, task: ObjectTask, written: list[str], run: ObjectRun, tried: Sequence[str], size: tuple[int, int]
) -> None:
    from fast_sam3d.geometry.camera import Camera
    from fast_sam3d.outputs.files import save_json

    camera = None
    if run.result.get("pointmap") is not None:
        try:
            seen = Camera.from_pointmap(run.result["pointmap"]).resized(max(size))
            camera = {"focal_px": seen.focal, "principal_px": seen.principal, "size_px": size}
        except ValueError as error:
            log.info("object %d: the camera of its pointmap is not known: %s", task.number, error)
    save_json(folder / DONE, {
        "identity": task.identity,
        # The report tells times, so its size differs from run to run.
        "files": {name: None if name == REPORT else (folder / name).stat().st_size for name in sorted(written)},
        "formats": run.formats,
        "out_of_memory": tried,
        "camera": camera,
    })  # fmt: skip


def read_done(target: Path) -> dict[str, Any] | None:
    """What the `done.json` of an object says, if every file that it lists is there in its size; else None."""
    try:
        done = json.loads((target / DONE).read_text(encoding="utf-8"))
        for name, size in done["files"].items():
            found = (target / name).stat().st_size
            if size is not None and size != found:
                return None
        return done if isinstance(done["identity"], dict) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def config_identity(config: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a configuration makes a difference to an object's files: not where they go, nor on which device."""
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
        "modules": config.modules,
        "weights": _weights(checkpoint),
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity, sort_keys=True, default=list))
    return plain


def input_identity(scene: SceneInput, number: int) -> dict[str, Any]:
    """Digests of the pixels of picture and mask, and of the pointmap. Raises InputError."""
    return {**scene.digests, "mask": digest(scene.mask(number))}


def _weights(checkpoint: Checkpoint) -> str:
    """sha256 of its files' names, sizes and list of checksums: to read gigabytes would take long."""
    files = sorted(path for path in checkpoint.folder.rglob("*") if path.is_file())
    known = {str(path.relative_to(checkpoint.folder)): path.stat().st_size for path in files}
    sums = [path.read_text() for path in files if path.name == "sha256.json"]
    told = json.dumps([known, sums], sort_keys=True).encode("utf-8", "surrogateescape")
    return hashlib.sha256(told).hexdigest()
