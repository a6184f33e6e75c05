"""Training loop of every stage: schedule, clipping, weight averaging, atomic checkpoints."""

from __future__ import annotations

import csv
import hashlib
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.run.progress import Bar

log = logging.getLogger(__name__)

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingSchedule:
    """Length and learning rate of a training with AdamW: warm-up, constant rate, linear decay.

    Args:
        steps: number of updates.
        batch: samples per update.
        rate: peak learning rate.
        warmup: steps of linear increase.
        flat: share of the steps before the decay.
        floor: final rate over the peak rate.
        average: decay of the exponential moving average of the weights, which are the result.
        decay: AdamW weight decay.
        checkpoint: steps between checkpoints.
    """

    steps: int
    batch: int
    rate: float = 1.5e-3
    warmup: int = 60
    flat: float = 0.4
    floor: float = 0.03
    average: float = 0.999
    decay: float = 0.01
    checkpoint: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rate", "checkpoint"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainingSchedule.{name} must be positive, got {getattr(self, name)!r}")
        for name in ("average", "flat"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"TrainingSchedule.{name} must be in [0, 1), got {getattr(self, name)!r}")

    def rate_at(self, step: int) -> float:
        """Learning rate of an update."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        falling = max(step / self.steps - self.flat, 0) / (1 - self.flat)
        return self.rate * (1 - falling * (1 - self.floor))


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """Random generator of one update.

    Depends on seed, stage and step only, so that a resumed run equals an uninterrupted one.
    """
    return torch.Generator().manual_seed(hash_seed(seed, stage, step))


def hash_seed(*parts: int | str) -> int:
    """A 63-bit seed from names and numbers, independent of the machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Trainer:
    """Trains the modules of one stage.

    Args:
        stage: its name, and that of its files.
        modules: trained modules by name.
        schedule: length and learning rate.
        folder: where `<stage>.pt` and `<stage>.csv` go.
        seed: of all random choices.
        device: where the modules are.
        origin: digests of the inputs of the training, stored in `<stage>.pt`; see `origin.py`.

    Raises:
        CheckpointError: `<stage>.pt` is damaged, or of networks of other sizes.
    """

    def __init__(self, stage: str, modules: dict[str, nn.Module], schedule: TrainingSchedule, folder: Path, seed: int,
                 device: torch.device, origin: Mapping[str, str] | None = None) -> None:  # fmt: skip
        self.stage, self.schedule, self.folder, self.seed, self.device = stage, schedule, folder, seed, device
        self.origin = None if origin is None else dict(origin)
        self.modules = nn.ModuleDict(modules)
        self.optimizer = torch.optim.AdamW(
            self.modules.parameters(), lr=schedule.rate, betas=(0.9, 0.98), weight_decay=schedule.decay, fused=True
        )
        self.average = {k: v.detach().clone().float() for k, v in self.modules.state_dict().items()}
        self.step = 0
        self._unplotted: tuple[dict[str, Tensor], int] = ({}, 0)
        self._resume()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / f"{self.stage}.pt"

    def run(self, loss: Callable[[torch.Generator, int], Losses]) -> dict[str, nn.Module]:
        """Train to the end, resuming from the checkpoint, if any.

        Args:
            loss: random generator and batch size to the losses of a batch by name; their sum is minimised.

        Returns:
            The modules with averaged weights, in eval mode.
        """
        curve = _Curve(self.folder / f"{self.stage}.csv", self.step, *self._unplotted)
        parameters = list(self.modules.parameters())
        with Bar(self.stage, self.schedule.steps, self.step) as bar:
            note = ""
            while self.step < self.schedule.steps:
                self.modules.train()
                for group in self.optimizer.param_groups:
                    group["lr"] = self.schedule.rate_at(self.step)
                with torch.autocast(self.device.type, torch.bfloat16):
                    parts = loss(step_generator(self.seed, self.stage, self.step), self.schedule.batch)
                torch.stack(list(parts.values())).sum().backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self._update_average()
                self.step += 1
                last = self.step == self.schedule.steps
                if mean := curve.add(self.step, parts, last):
                    note = ", ".join(f"{name} {value:.3g}" for name, value in mean.items())
                bar.update(self.step, note)
                if last or self.step % self.schedule.checkpoint == 0:
                    self._save(curve)
        return self.averaged()

    def averaged(self) -> dict[str, nn.Module]:
        """The modules with averaged weights, in eval mode."""
        like = self.modules.state_dict()
        self.modules.load_state_dict({k: v.to(like[k]) for k, v in self.average.items()})
        return {name: module.eval() for name, module in self.modules.items()}

    def _update_average(self) -> None:
        keep = min(self.schedule.average, (1 + self.step) / (10 + self.step))
        state = self.modules.state_dict()
        kept = [v for k, v in self.average.items() if state[k].is_floating_point()]
        new = [state[k].float() for k in self.average if state[k].is_floating_point()]
        torch._foreach_lerp_(kept, new, 1 - keep)

    def _save(self, curve: _Curve) -> None:
        state = {
            "step": self.step,
            "modules": self.modules.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "unplotted": (curve.sums, curve.count),
            "origin": self.origin,
        }
        save_whole(state, self.checkpoint_path)

    def _resume(self) -> None:
        if not self.checkpoint_path.exists():
            return
        state = load_whole(self.checkpoint_path, self.device)
        try:
            self.modules.load_state_dict(state["modules"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = state["average"]
            self.step = state["step"]
            # Older checkpoints do not contain the curve.
            self._unplotted = state.get("unplotted", ({}, 0))
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.checkpoint_path} is of networks with other sizes than this recipe's: use another --run_dir, or"
                f" delete it to train {self.stage} from the start"
            ) from error
        log.info("%s: resumes at step %d of %d", self.stage, self.step, self.schedule.steps)


def save_whole(value: object, path: Path) -> None:
    """Atomic torch.save: an interruption leaves the old file or the new one."""
    aside = path.with_suffix(".tmp")
    torch.save(value, aside)
    aside.replace(path)


def load_whole(path: Path, device: torch.device | str = "cpu", mmap: bool = False) -> dict:
    """Load what `save_whole` wrote onto a device; with `mmap` tensors are read at first use.

    Raises:
        CheckpointError: the file is damaged, or of another kind.
    """
    damaged = f"{path} is damaged: delete it and run the same command again, which creates it again"
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise CheckpointError(damaged) from error
    if not isinstance(state, dict):
        raise CheckpointError(damaged)
    return state


class _Curve:
    """Mean losses every `EVERY` steps, as rows of a CSV file; rows after the resumed step are dropped.

    Args:
        path: of the file.
        step: at which training resumes.
        sums, count: of the losses since the last row at that step.
    """

    EVERY = 50

    def __init__(self, path: Path, step: int, sums: dict[str, Tensor], count: int) -> None:
        self.path, self.sums, self.count = path, dict(sums), count
        self.timed, self.began = 0, time.perf_counter()
        if path.exists():
            with path.open(newline="") as file:
                # An interruption may have truncated the last row, which is later than every checkpoint.
                rows = [row for row in csv.DictReader(file) if None not in row.values() and int(row["step"]) <= step]
            aside = path.with_suffix(".csv.tmp")
            aside.unlink(missing_ok=True)
            for row in rows:
                self._write(row, aside)
            if rows:
                aside.replace(path)
            else:
                path.unlink()

    def add(self, step: int, losses: Losses, last: bool) -> dict[str, float] | None:
        """Add one update; returns the means if a row is due, else None. The last update completes a row early."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.count += 1
        self.timed += 1
        if step % self.EVERY and not last:
            return None
        mean = {name: round(float(value) / self.count, 5) for name, value in self.sums.items()}
        seconds = round((time.perf_counter() - self.began) / self.timed, 4)
        self._write({"step": step, **mean, "seconds_per_step": seconds}, self.path)
        self.sums, self.count, self.timed, self.began = {}, 0, 0, time.perf_counter()
        return mean

    @staticmethod
    def _write(row: dict, path: Path) -> None:
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
