"""Settings of `--engine ray`: number, resources and location of the workers."""

from __future__ import annotations

from dataclasses import dataclass

from fast_sam3d.errors import ConfigError

__all__ = ["ClusterSettings"]

MOST = 1024
"""Workers, cores of each, and retries."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings of a cluster.

    Args:
        workers: processes with a pipeline each; None: as many as fit.
        cpus_per_worker: CPU cores, and torch threads, of each worker.
        gpus_per_worker: 0..1, share of one GPU; None: one whole GPU if the cluster has any, else none.
        address: of a running cluster, host:port or "auto"; None: RAY_ADDRESS, or a new cluster on this machine.
        max_retries: times that an object is retried after its worker died.
        wait_seconds: limit for the cluster to start the first worker.

    Raises:
        ConfigError: a value is out of range.
    """

    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float | None = None
    address: str | None = None
    max_retries: int = 2
    wait_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cpus_per_worker", 1), ("max_retries", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST:
                raise ConfigError(f"--{name} is {value}: give a number from {least} to {MOST}")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 1:
            raise ConfigError(
                f"--gpus_per_worker is {self.gpus_per_worker:g}: give 1, a share such as 0.5, or 0 for none; "
                "a pipeline runs on one GPU"
            )
        if self.address is not None and self.address.startswith("ray://"):
            raise ConfigError(
                f"--ray_address is {self.address}, a Ray Client: run the command on a node of the cluster, "
                "and give host:port or auto"
            )

    def check_device(self, device: str | None) -> None:
        """Raises ConfigError for a device that workers cannot use."""
        if device is not None and device.partition(":")[2]:
            raise ConfigError(f"--device is {device}, but each worker sees one GPU: give cuda without the number")
        if device == "cuda" and self.gpus_per_worker == 0:
            raise ConfigError(
                "--device is cuda and --gpus_per_worker is 0: give each worker a GPU, or use --device cpu"
            )
        if device == "cpu" and self.gpus_per_worker:
            raise ConfigError(
                f"--device is cpu and --gpus_per_worker is {self.gpus_per_worker:g}: leave one of them out"
            )
