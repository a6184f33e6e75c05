"""The worker process of a cluster: one pipeline that processes objects and composes scenes.

Imports no Ray. Return values are small, because results are written to disk.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.checkpoints.load import Checkpoint, find_checkpoint
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import CheckpointError, FastSam3dError, InputError, OutputError
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.folder import LOCK
from fast_sam3d.scene.inputs import load_scene
from fast_sam3d.scene.plan import ScenePlan
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker, config_identity

__all__ = ["Composition", "Reply", "SceneActor", "WorkerInfo", "WorkerSetup"]

SHARED_SECONDS = 10.0  # time for a new folder to become visible on a network file system


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs to load the pipeline.

    Args:
        checkpoint: as found on the driver. settings: its `scene.worker.config_identity`.
        threads: of torch.
        cwd: base of relative paths.
    """

    config: Config
    checkpoint: Checkpoint
    settings: Mapping[str, Any]
    threads: int
    cwd: str


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Location of a worker, and its version of this package."""

    host: str
    pid: int
    version: str


@dataclass(frozen=True, slots=True)
class Composition:
    """A scene to compose: every object is complete or has failed."""

    folder: Path
    pointmap: str
    target: Path
    identities: Mapping[int, Mapping[str, Any]]
    outcomes: Mapping[int, ObjectOutcome]


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of a call.

    Args:
        outcome: of an object. summary: of a composed scene.
        error: the scene cannot be continued. unfit: this worker cannot be used.
        warnings: logged during the call.
    """

    outcome: ObjectOutcome | None = None
    summary: Mapping[str, Any] | None = None
    error: str = ""
    unfit: str = ""
    warnings: tuple[str, ...] = ()


class SceneActor:
    """A worker: call `info` and `load` first, then `process` and `compose`, one at a time."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._worker: ObjectWorker | None = None
        self._warnings = _WarningCollector()
        logger = logging.getLogger("fast_sam3d")
        logger.addHandler(self._warnings)
        logger.setLevel(logging.WARNING)

    def info(self) -> WorkerInfo:
        return WorkerInfo(socket.gethostname(), os.getpid(), __version__)

    def load(self) -> str:
        """Load the pipeline. Returns the reason if that fails, else an empty string."""
        try:
            self._change_folder()
            checkpoint = self._checkpoint()
            import torch

            torch.set_num_threads(self._setup.threads)
            self._worker = ObjectWorker.load(self._setup.config, checkpoint)
        except Exception as error:
            return _one_line(error)
        return ""

    def process(self, task: ObjectTask) -> Reply:
        """Reconstruct one object and write it to disk."""
        if self._worker is None:
            raise RuntimeError("process() before load()")
        if not _appears(task.target.parent / LOCK):
            return Reply(
                unfit=f"the result folder {task.target.parent} is not visible here: give an --output_dir that all "
                "machines share"
            )
        try:
            outcome = self._worker.process(task)
        except OutputError as error:
            return Reply(error=_one_line(error), warnings=self._warnings.pop())
        return Reply(outcome, warnings=self._warnings.pop())

    def compose(self, composition: Composition) -> Reply:
        """Compose the objects of a scene."""
        try:
            scene = load_scene(composition.folder, composition.pointmap)
            plan = ScenePlan(scene, composition.target, identities=dict(composition.identities))
            summary = finish(plan, composition.outcomes, self._setup.config)
        except Exception as error:
            return Reply(error=_one_line(error), warnings=self._warnings.pop())
        return Reply(summary=summary, warnings=self._warnings.pop())

    def _change_folder(self) -> None:
        try:
            os.chdir(self._setup.cwd)
        except OSError as error:
            given = self._setup.config.input
            paths = [given.image_path, self._setup.config.output.dir]
            paths += [] if given.pointmap in ("auto", "none") else [Path(given.pointmap)]
            if any(path is not None and not Path(path).is_absolute() for path in paths):
                raise InputError(
                    f"the folder {self._setup.cwd} does not exist ({error.strerror}): give --image_path and "
                    "--output_dir as absolute paths, in folders that all machines share"
                ) from error

    def _checkpoint(self) -> Checkpoint:
        """The driver's checkpoint, or one with the same tag and content on this machine."""
        found = self._setup.checkpoint
        if not found.folder.is_dir():
            found = find_checkpoint(found.tag)
        if config_identity(self._setup.config, found)["weights"] != self._setup.settings["weights"]:
            raise CheckpointError(
                f"the weights in {found.folder} differ from those of the machine that runs the command: copy them"
            )
        return found


class _WarningCollector(logging.Handler):
    """Keeps warnings for the next reply."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != load_scene.__module__:  # the driver has logged these already
            self._lines.append(record.getMessage())

    def pop(self) -> tuple[str, ...]:
        lines, self._lines = tuple(self._lines), []
        return lines


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    return message if isinstance(error, FastSam3dError) else f"{type(error).__name__}: {message}"
