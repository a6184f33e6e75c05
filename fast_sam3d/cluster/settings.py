"""How many workers there are to be, what each gets, and where."""

from __future__ import annotations

from dataclasses import dataclass

from fast_sam3d.errors import ConfigError

__all__ = ["ClusterSettings"]


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Of `--engine ray`.

    Args:
        workers: processes that hold a pipeline each; None takes as many as the cluster has room for.
        cpus_per_worker: cores, and threads of torch, of each.
        gpus_per_worker: 0..1, share of one GPU; None takes a whole one where the cluster has any, else none.
        address: of a running cluster, host:port or "auto"; None takes that of RAY_ADDRESS, or starts one here.
        max_retries: times that an object is given to another worker after its own has died.
        wait_seconds: that the cluster may take to find room for the first worker.

    Raises:
        ConfigError: a value out of range.
    """

    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float | None = None
    address: str | None = None
    max_retries: int = 2
    wait_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers is {self.workers}: give 1 or more")
        if self.cpus_per_worker < 1:
            raise ConfigError(f"--cpus_per_worker is {self.cpus_per_worker}: give 1 or more")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 1:
            raise ConfigError(
                f"--gpus_per_worker is {self.gpus_per_worker:g}: give 1, a share such as 0.5, or 0 for none; "
                "a pipeline runs on one GPU"
            )
        if self.max_retries < 0:
            raise ConfigError(f"--max_retries is {self.max_retries}: give 0 or more")
        if self.address is not None and self.address.startswith("ray://"):
            raise ConfigError(
                f"--ray_address is {self.address}, a Ray Client: run the command on a node of the cluster, "
                "and give host:port or auto"
            )
