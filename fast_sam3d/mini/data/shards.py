"""Generation of shards in parallel processes, and reading."""

from __future__ import annotations

import os
import zipfile
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fast_sam3d.errors import InputError
from fast_sam3d.mini.data.samples import write_shard
from fast_sam3d.run.pool import worker_pool
from fast_sam3d.run.progress import Bar, track

SHARD = 100  # objects
HELD_OUT_SEED = 10_000_000  # first held-out seed


def _single_thread() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def generate(folder: Path, first: int, count: int, n_views: int, processes: int) -> list[Path]:
    """Write the shards of seeds first .. first + count - 1; existing ones are kept.

    Returns:
        The shards' paths in the order of their seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranges = [range(a, min(a + SHARD, first + count)) for a in range(first, first + count, SHARD)]
    paths: dict[int, Path] = {}
    with worker_pool(processes, _single_thread) as pool:
        jobs = {pool.submit(write_shard, folder, seeds, n_views): seeds.start for seeds in ranges}
        with Bar("objects", count) as bar:
            for job in as_completed(jobs):
                paths[jobs[job]] = job.result()
                bar.advance(min(SHARD, first + count - jobs[job]))
    return [paths[start] for start in sorted(paths)]


@dataclass(frozen=True)
class Objects:
    """Shards read into memory: arrays as in `samples.Shape` and `samples.View`; `starts` [n + 1] indexes the voxels."""

    family: np.ndarray
    symmetry: np.ndarray
    starts: np.ndarray
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.family)

    @property
    def n_views(self) -> int:
        return len(self.arrays["image"]) // len(self)

    def voxels(self, name: str, index: int) -> np.ndarray:
        """One object's rows of a per-voxel array: coords, sdf or rgb."""
        return self.arrays[name][self.starts[index] : self.starts[index + 1]]


def read(paths: list[Path], names: tuple[str, ...]) -> Objects:
    """Read some arrays of some shards.

    Raises:
        InputError: a shard is damaged.
    """
    kept: dict[str, list[np.ndarray]] = {name: [] for name in ("family", "symmetry", "voxels", *names)}
    for path in track(paths, "reading shards"):
        try:
            with np.load(path) as shard:
                for name, rows in kept.items():
                    rows.append(shard[name])
        except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError) as error:
            raise InputError(
                f"the training data in {path} are damaged: delete that file and run the same command again, which"
                " generates it again"
            ) from error
    merged = {name: np.concatenate(rows) for name, rows in kept.items()}
    starts = np.concatenate([[0], np.cumsum(merged.pop("voxels"))])
    return Objects(merged.pop("family"), merged.pop("symmetry"), starts, merged)
