"""One training loop for every stage: schedule, clipping, averaging, checkpoints that a kill cannot spoil."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

log = logging.getLogger(__name__)

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """AdamW with warm-up, a flat part, and a linear fall.

    Args:
        steps: updates in all.
        batch: samples per update.
        rate: peak learning rate.
        warmup: steps of linear rise.
        flat: share of the steps before the fall.
        floor: last rate over the peak.
        average: decay of the exponential moving average of the weights, which is what is kept.
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
                raise ValueError(f"Schedule.{name} must be positive, got {getattr(self, name)!r}")
        if not 0 <= self.average < 1:
            raise ValueError(f"Schedule.average must be in [0, 1), got {self.average!r}")

    def rate_at(self, step: int) -> float:
        """Learning rate of an update."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        falling = max(step / self.steps - self.flat, 0) / (1 - self.flat)
        return self.rate * (1 - falling * (1 - self.floor))


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """The random numbers of one update: a function of seed, stage and step, so a resumed run repeats an unbroken one."""
    return torch.Generator().manual_seed(hash_seed(seed, stage, step))


def hash_seed(*parts: int | str) -> int:
    """A 63-bit seed from names and numbers, the same on every machine."""
    import hashlib

    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Trainer:
    """Trains the modules of one stage.

    Args:
        stage: its name, also of its files.
        modules: what is trained, by name.
        schedule: how long and how fast.
        folder: where `<stage>.pt` and `<stage>.csv` go.
        seed: of all random choices.
        device: where the modules are.
    """

    def __init__(self, stage: str, modules: dict[str, nn.Module], schedule: Schedule, folder: Path, seed: int,
                 device: torch.device) -> None:  # fmt: skip
        self.stage, self.schedule, self.folder, self.seed, self.device = stage, schedule, folder, seed, device
        self.modules = nn.ModuleDict(modules)
        self.optimizer = torch.optim.AdamW(
            self.modules.parameters(), lr=schedule.rate, betas=(0.9, 0.98), weight_decay=schedule.decay, fused=True
        )
        self.average = {k: v.detach().clone().float() for k, v in self.modules.state_dict().items()}
        self.step = 0
        self._resume()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / f"{self.stage}.pt"

    def run(self, loss: Callable[[torch.Generator, int], Losses]) -> dict[str, nn.Module]:
        """Train to the end, or from where a killed run stopped.

        Args:
            loss: of one batch, by name, from a generator and the batch size; the sum is minimised.

        Returns:
            The modules with averaged weights, in eval mode.
        """
        curve = _Curve(self.folder / f"{self.stage}.csv", self.step)
        parameters = list(self.modules.parameters())
        with tqdm(total=self.schedule.steps, initial=self.step, desc=self.stage, unit="step") as bar:
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
                bar.update()
                if mean := curve.add(self.step, parts):
                    bar.set_postfix(mean)
                if self.step % self.schedule.checkpoint == 0 or self.step == self.schedule.steps:
                    self._save()
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

    def _save(self) -> None:
        aside = self.checkpoint_path.with_suffix(".tmp")
        torch.save(
            {"step": self.step, "modules": self.modules.state_dict(), "average": self.average,
             "optimizer": self.optimizer.state_dict()}, aside,
        )  # fmt: skip
        aside.replace(self.checkpoint_path)

    def _resume(self) -> None:
        if not self.checkpoint_path.exists():
            return
        state = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step = state["step"]
        log.info("%s: resumed at step %d", self.stage, self.step)


class _Curve:
    """Mean losses every `EVERY` steps, as rows of a CSV file; rows past the resumed step are dropped."""

    EVERY = 50

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.sums, self.count, self.began = path, {}, 0, time.perf_counter()
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
            path.unlink()
        for row in rows:
            self._write(row)

    def add(self, step: int, losses: Losses) -> dict[str, float] | None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.count += 1
        if step % self.EVERY:
            return None
        mean = {name: round(float(value) / self.count, 5) for name, value in self.sums.items()}
        seconds = round((time.perf_counter() - self.began) / self.count, 4)
        self._write({"step": step, **mean, "seconds_per_step": seconds})
        self.sums, self.count, self.began = {}, 0, time.perf_counter()
        return mean

    def _write(self, row: dict) -> None:
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
