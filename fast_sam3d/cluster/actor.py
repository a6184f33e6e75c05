"""What runs in a worker's process: `scene.worker.ObjectWorker`, as in the plain engine, and the end of a scene.

Nothing here imports Ray, and everything that is returned is small: results go to disk.
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

__all__ = ["Closed", "Closing", "Hello", "Made", "Order", "SceneActor"]

SHARED_SECONDS = 10.0  # that a folder made elsewhere may take to be seen over a network


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker is told once.

    Args:
        checkpoint: as the driver found it. settings: `scene.worker.config_identity` there.
        threads: of torch.
        cwd: that relative paths start from.
    """

    config: Config
    checkpoint: Checkpoint
    settings: Mapping[str, Any]
    threads: int
    cwd: str


@dataclass(frozen=True, slots=True)
class Hello:
    """Where a worker is, and which version of this package it has."""

    host: str
    pid: int
    version: str


@dataclass(frozen=True, slots=True)
class Made:
    """What became of an object.

    Args:
        outcome: None if one of the two reasons is given.
        stop: why no other object of the scene would fare better.
        unfit: why no object would fare better with this worker.
        remarks: that were logged on the way.
    """

    outcome: ObjectOutcome | None
    stop: str = ""
    unfit: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Closing:
    """A scene whose objects are all made or have failed."""

    folder: Path
    pointmap: str
    target: Path
    identities: Mapping[int, Mapping[str, Any]]
    outcomes: Mapping[int, ObjectOutcome]


@dataclass(frozen=True, slots=True)
class Closed:
    """Its summary, or why there is none."""

    summary: Mapping[str, Any] | None
    error: str = ""
    remarks: tuple[str, ...] = ()


class SceneActor:
    """One worker. It says hello, loads the pipeline, then makes objects and closes scenes, one at a time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._worker: ObjectWorker | None = None
        self._remarks = _Remarks()
        logger = logging.getLogger("fast_sam3d")
        logger.addHandler(self._remarks)
        logger.setLevel(logging.WARNING)

    def hello(self) -> Hello:
        return Hello(socket.gethostname(), os.getpid(), __version__)

    def load(self) -> str:
        """Returns why the pipeline cannot be used here; empty if it is loaded."""
        order = self._order
        try:
            self._go_to(order.cwd)
            checkpoint = self._checkpoint()
            import torch

            torch.set_num_threads(order.threads)
            self._worker = ObjectWorker.load(order.config, checkpoint)
        except Exception as error:
            return _sentence(error)
        return ""

    def make(self, task: ObjectTask) -> Made:
        """One object to disk."""
        if self._worker is None:
            raise RuntimeError("make() before load()")
        if not _seen(task.target.parent / LOCK):
            return Made(
                None,
                unfit=f"{task.target.parent} of the machine that spreads the work is not there: results must go to a "
                "folder that all machines share",
            )
        try:
            outcome = self._worker.process(task)
        except OutputError as error:
            return Made(None, stop=_sentence(error), remarks=self._remarks.taken())
        return Made(outcome, remarks=self._remarks.taken())

    def close(self, closing: Closing) -> Closed:
        """Composes a scene."""
        try:
            scene = load_scene(closing.folder, closing.pointmap)
            whole = ScenePlan(scene, closing.target, identities=dict(closing.identities))
            summary = finish(whole, closing.outcomes, self._order.config)
        except Exception as error:
            return Closed(None, _sentence(error), self._remarks.taken())
        return Closed(summary, "", self._remarks.taken())

    def _go_to(self, folder: str) -> None:
        try:
            os.chdir(folder)
        except OSError as error:
            config = self._order.config
            given = [config.input.image_path, config.output.dir]
            given += [] if config.input.pointmap in ("auto", "none") else [Path(config.input.pointmap)]
            if any(path is not None and not Path(path).is_absolute() for path in given):
                raise InputError(
                    f"the folder {folder} is not there ({error.strerror}): give --image_dir and --output_dir as whole "
                    "paths, to folders that all machines share"
                ) from error

    def _checkpoint(self) -> Checkpoint:
        """The driver's, or one of the same name and content here."""
        order = self._order
        found = order.checkpoint
        if not found.folder.is_dir():
            found = find_checkpoint(found.tag)
        if config_identity(order.config, found)["weights"] != order.settings["weights"]:
            raise CheckpointError(
                f"the weights in {found.folder} are not those of the machine that spreads the work: copy them over"
            )
        return found


class _Remarks(logging.Handler):
    """Keeps warnings until they are told."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # What there is to remark about a scene's files was said already where it was planned.
        if record.name != load_scene.__module__:
            self._lines.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        lines, self._lines = tuple(self._lines), []
        return lines


def _seen(path: Path) -> bool:
    until = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _sentence(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    return message if isinstance(error, FastSam3dError) else f"{type(error).__name__}: {message}"
