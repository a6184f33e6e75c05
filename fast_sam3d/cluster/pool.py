"""The processes of a cluster that make objects: how many there can be, what each gets, and their start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cluster.actor import Hello, Order, SceneActor
from fast_sam3d.cluster.connect import capacity
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import ConfigError

__all__ = ["Pool", "Worker", "check_device"]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Worker:
    """An actor, as the driver knows it.

    Args:
        hello: once its process is there.
        ready: its pipeline is loaded.
        submitted: objects and scenes that it was given and has not returned.
    """

    number: int
    actor: Any
    hello: Hello | None = None
    ready: bool = False
    submitted: int = 0

    @property
    def label(self) -> str:
        """For messages."""
        at = "" if self.hello is None else f" (process {self.hello.pid} on {self.hello.host})"
        return f"worker {self.number}{at}"


class Pool:
    """Starts workers, all alike.

    Args:
        ray: the package, connected to a cluster.
        identity: `scene.worker.config_identity` of the two before it.
        cwd: that relative paths start from.
    """

    def __init__(
        self,
        ray: Any,
        config: Config,
        checkpoint: Checkpoint,
        identity: Mapping[str, Any],
        settings: ClusterSettings,
        cwd: Path,
    ) -> None:
        self._ray, self._settings, self._started = ray, settings, 0
        self._actor = ray.remote(SceneActor)
        asked, self._gpus = config.pipeline.device, settings.gpus_per_worker or 0.0
        if settings.gpus_per_worker is None:
            there = ray.cluster_resources().get("GPU", 0) > 0
            self._gpus = 1.0 if asked == "cuda" or (asked is None and there) else 0.0
        device = asked or ("cuda" if self._gpus else "cpu")
        config = replace(config, pipeline=replace(config.pipeline, device=device))
        self._order = Order(config, checkpoint, identity, settings.cpus_per_worker, str(cwd))

    @property
    def need(self) -> str:
        """What each worker takes, for messages."""
        return f"{self._settings.cpus_per_worker} core(s) and {self._gpus:g} GPU(s)"

    def wanted(self, objects: int) -> int:
        """How many workers to start for so many objects.

        Raises:
            ConfigError: the number is left open, and the cluster has room for none.
        """
        room = capacity(self._ray, self._settings.cpus_per_worker, self._gpus)
        asked = self._settings.workers
        if asked is None and not room:
            raise ConfigError(
                f"no machine of the Ray cluster has {self.need} for a worker: ask for fewer with --cpus_per_worker "
                "and --gpus_per_worker"
            )
        if asked is not None and asked > room:
            log.warning("%d workers are asked for and the Ray cluster has room for %d now: each takes %s", asked, room,
                        self.need)  # fmt: skip
        count = max(1, min(asked or room, objects))
        log.info("%d worker(s) with %s each", count, self.need)
        return count

    def start(self) -> Worker:
        """One more; it says hello when the cluster has found room for it."""
        # A dead worker is replaced by the engine, which knows what it had; Ray must not restart it.
        made = self._actor.options(
            num_cpus=self._settings.cpus_per_worker, num_gpus=self._gpus, max_restarts=0, max_task_retries=0
        )
        self._started += 1
        return Worker(self._started - 1, made.remote(self._order))


def check_device(device: str | None, settings: ClusterSettings) -> None:
    """Raises ConfigError for a device that no worker can have."""
    if device is not None and device.partition(":")[2]:
        raise ConfigError(f"--device is {device}: a worker sees one GPU, so say cuda, and leave the number out")
    if device == "cuda" and settings.gpus_per_worker == 0:
        raise ConfigError("--device is cuda and --gpus_per_worker is 0: give each worker a GPU, or use --device cpu")
    if device == "cpu" and settings.gpus_per_worker:
        raise ConfigError(
            f"--device is cpu and --gpus_per_worker is {settings.gpus_per_worker:g}: leave one of them out"
        )
