"""The worker process of a cluster: one pipeline that processes objects and composes scenes.

Imports no Ray. Return values are small, because results are written to disk.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.checkpoints.load import Checkpoint, find_checkpoint
from fast_sam3d.config.compose import Config
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import CheckpointError, InputError, one_line
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.folder import LOCK
from fast_sam3d.scene.inputs import load_scene
from fast_sam3d.scene.plan import ScenePlan
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker, config_identity

__all__ = ["Reply", "SceneActor"]

SHARED_SECONDS = 10.0  # time for a new folder to become visible on a network file system


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of a call.

    Args:
        value: the outcome of an object, or the summary of a scene.
        error: the scene cannot be continued. unfit: this worker cannot be used.
        warnings: logged during the call.
    """

    value: Any = None
    error: str = ""
    unfit: str = ""
    warnings: tuple[str, ...] = ()


class SceneActor:
    """A worker: call `info` and `load` first, then `process` and `compose`, one at a time.

    Args:
        checkpoint: as found on the driver. identity: its `scene.worker.config_identity`.
        threads: of torch.
        cwd: base of relative paths.
    """

    def __init__(
        self, config: Config, checkpoint: Checkpoint, identity: Mapping[str, Any], threads: int, cwd: str
    ) -> None:
        self.config, self.checkpoint, self.threads, self.cwd = config, checkpoint, threads, cwd
        self._weights = identity["weights"]
        self._worker: ObjectWorker | None = None
        self._warnings = _WarningCollector(logging.WARNING)
        logger = logging.getLogger("fast_sam3d")
        logger.addHandler(self._warnings)
        logger.setLevel(logging.WARNING)

    def info(self) -> tuple[str, int, str, str]:
        """Host, process id, version of this package, and id of the node, which only Ray knows."""
        ray = sys.modules.get("ray")
        known = ray is not None and ray.is_initialized()
        node = str(ray.get_runtime_context().get_node_id()) if ray is not None and known else ""
        return socket.gethostname(), os.getpid(), __version__, node

    def load(self) -> Reply:
        """Load the pipeline."""
        try:
            self._change_folder()
            checkpoint = self._find_checkpoint()
            import torch

            torch.set_num_threads(self.threads)
            self._worker = ObjectWorker.load(self.config, checkpoint)
        except Exception as error:
            return Reply(unfit=f"it cannot load the pipeline: {one_line(error)}")
        return Reply()

    def process(self, task: ObjectTask) -> Reply:
        """Reconstruct one object and write it to disk."""
        if self._worker is None:
            raise RuntimeError("process() before load()")
        if not _appears(task.target.parent / LOCK):
            return Reply(
                unfit=f"the result folder {task.target.parent} is not visible here: give an --output_dir that all "
                "machines share"
            )
        return self._reply(self._worker.process, task)

    def compose(
        self,
        folder: Path,
        asked: InputConfig,
        target: Path,
        identities: dict[int, Mapping[str, Any]],
        outcomes: Mapping[int, ObjectOutcome],
    ) -> Reply:
        """Compose a scene, after every object is complete or has failed. Arguments: see `SceneJob`."""

        def summary() -> Mapping[str, Any]:
            plan = ScenePlan(load_scene(folder, asked), target, identities=identities)
            return finish(plan, outcomes, self.config)

        return self._reply(summary)

    def _reply(self, call: Callable[..., Any], *given: Any) -> Reply:
        try:
            return Reply(call(*given), warnings=self._warnings.pop())
        except Exception as error:
            return Reply(error=one_line(error), warnings=self._warnings.pop())

    def _change_folder(self) -> None:
        try:
            os.chdir(self.cwd)
        except OSError as error:
            given = self.config.input
            paths = [given.image_path, self.config.output.dir]
            paths += [] if given.pointmap in ("auto", "none") else [Path(given.pointmap)]
            paths.append(given.mask_path)
            if any(path is not None and not Path(path).is_absolute() for path in paths):
                raise InputError(
                    f"the folder {self.cwd} does not exist ({error.strerror}): give --image_path and --output_dir as "
                    "absolute paths, in folders that all machines share"
                ) from error

    def _find_checkpoint(self) -> Checkpoint:
        """The driver's checkpoint, or one with the same tag and content on this machine."""
        found, asked = self.checkpoint, self.config.pipeline
        if not found.folder.is_dir():
            found = find_checkpoint(found.tag, asked.device, found.runtime or asked.runtime)
        if config_identity(self.config, found)["weights"] != self._weights:
            raise CheckpointError(
                f"the weights in {found.folder} differ from those of the machine that runs the command: copy them"
            )
        return found


class _WarningCollector(logging.Handler):
    """Keeps warnings for the next reply."""

    lines: tuple[str, ...] = ()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != load_scene.__module__:  # the driver has logged these already
            self.lines += (record.getMessage(),)

    def pop(self) -> tuple[str, ...]:
        lines, self.lines = self.lines, ()
        return lines


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
