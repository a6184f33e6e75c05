"""The folder of a training run: its data, and the result of each stage with a record of what it was made from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from fast_sam3d.errors import ConfigError
from fast_sam3d.metrics import voxel_iou
from fast_sam3d.mini.data.families import sample_object
from fast_sam3d.mini.data.samples import voxelise
from fast_sam3d.mini.data.shards import HELD_OUT_SEED, Objects, generate, read
from fast_sam3d.mini.train.loop import Trainer, load_whole, save_whole
from fast_sam3d.mini.train.origin import check_origin, origin
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.outputs.files import save_json

log = logging.getLogger(__name__)

VALIDATION_OBJECTS = 200
COMPARED_OBJECTS = 40
SAME_SHAPE_IOU = 0.98
LEAVES = {"ss_vae": "ss_latents", "slat_vae": "slat_latents", "ss_flow": "ss_generator", "slat_flow": "slat_generator"}
"""What each stage keeps in the run's folder when it is done, as `<name>.pt`."""

NEEDS = {
    "ss_flow": ("ss_vae",),
    "slat_flow": ("slat_vae", "ss_flow"),
    "export": ("ss_vae", "slat_vae", "ss_flow", "slat_flow"),
    "evaluate": ("ss_vae", "slat_vae", "ss_flow", "slat_flow"),
}
"""Stages whose results a stage reads. All make the data that they lack."""

Modules = dict[str, nn.Module]


@dataclass(frozen=True)
class TrainingRun:
    """A training run's folder and settings."""

    folder: Path
    recipe: Recipe
    seed: int
    device: torch.device
    processes: int

    @cached_property
    def training_shards(self) -> list[Path]:
        shards = generate(self.folder / "data", 0, self.recipe.objects, self.recipe.views, self.processes)
        for shard in shards[:1]:
            warn_of_other_objects(shard)
        return shards

    @cached_property
    def validation_shards(self) -> list[Path]:
        count = min(VALIDATION_OBJECTS, self.recipe.objects)
        return generate(self.folder / "data", HELD_OUT_SEED, count, self.recipe.views, self.processes)

    def objects(self, count: int, *arrays: str) -> Objects:
        """The first `count` training objects, rounded up to whole shards."""
        total = 0
        for last, path in enumerate(self.training_shards, 1):
            first, stop = path.stem.split("-")[1:3]
            total += int(stop) - int(first)
            if total >= count:
                return read(self.training_shards[:last], arrays)
        return read(self.training_shards, arrays)

    def train(self, stage: str, build: Callable[[], Modules], loss: Callable[[Modules], Callable]) -> Modules:
        """Train one stage's modules, or finish what a killed run left."""
        torch.manual_seed(self.seed)
        modules = {name: module.to(self.device) for name, module in build().items()}
        schedule, made_from = getattr(self.recipe, stage), self._origins.get(stage)
        trainer = Trainer(stage, modules, schedule, self.folder, self.seed, self.device, made_from)
        return trainer.run(loss(modules))

    def store(self, stage: str, value: Mapping[str, object]) -> None:
        """Keep what a stage leaves, whole or not at all, with what it was made from."""
        save_whole({**value, "origin": self._origins.get(stage)}, self.result(stage))

    def stored(self, name: str) -> dict:
        """What `store` kept, on the CPU.

        Raises:
            CheckpointError: the file is damaged.
            ConfigError: the stage that makes it has not run.
        """
        path = self.folder / f"{name}.pt"
        if not path.exists():
            stage = next(stage for stage, left in LEAVES.items() if left == name)
            raise ConfigError(f"{path} is missing: run the stage {stage} first, which makes it")
        return load_whole(path)

    def result(self, stage: str) -> Path:
        """Where a stage keeps what it leaves."""
        return self.folder / f"{LEAVES[stage]}.pt"

    @cached_property
    def _origins(self) -> dict[str, dict[str, str]]:
        """What the stages that this run has begun are made from."""
        return {}

    def check(self, stage: str) -> dict[str, str] | None:
        """See that what a stage has left or begun was made from this recipe and from what the folder holds now.

        Returns:
            What it would be made from now; None where a result that it reads is not there yet.

        Raises:
            ConfigError: it was made from something else; names the files to delete.
        """
        needs = {need: self.result(need) for need in NEEDS.get(stage, ())}
        checkpoint = self.folder / f"{stage}.pt"
        missing = [need for need, path in needs.items() if not path.exists()]
        if missing:
            there = [path for path in (self.result(stage), checkpoint) if path.exists()]
            if there:
                log.warning(
                    "%s: trained before, while %s is still to be made: if that comes out otherwise, %s will be refused",
                    stage, " and ".join(missing), there[0],
                )  # fmt: skip
            return None
        now = origin(self.recipe, self.seed, stage, needs)
        check_origin(stage, self.result(stage), checkpoint, now, needs)
        return now

    def finished(self, stage: str) -> bool:
        """Whether a stage has left its result, said in the log if so; the first thing that a stage asks.

        Raises:
            ConfigError: see `check`.
        """
        now = self.check(stage)
        if now is not None:
            self._origins[stage] = now
        path = self.result(stage)
        if path.exists():
            log.info("%s: finished before; delete %s to let it train on", stage, path)
        return path.exists()

    def note(self, **measured: float) -> None:
        """Add numbers to `quality.json`."""
        path = self.folder / "quality.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        save_json(path, known | measured)


def warn_of_other_objects(shard: Path) -> None:
    """Say in the log if the first objects of a shard are not those that their seeds give now.

    A run goes on with the data that it has; families that have been changed since are not in them.
    """
    objects, first = read([shard], ("coords",)), int(shard.stem.split("-")[1])
    count = min(len(objects), COMPARED_OBJECTS)
    shapes = (voxelise(sample_object(first + index)).coords for index in range(count))
    # Not bit for bit: on another machine a voxel on the edge of the band may fall on its other side.
    others = sum(voxel_iou(objects.voxels("coords", i), coords) < SAME_SHAPE_IOU for i, coords in enumerate(shapes))
    if others:
        log.warning(
            "%d of the first %d objects in %s are not those that this version makes: delete that folder and this"
            " run's .pt files to train on new ones", others, count, shard.parent,
        )  # fmt: skip


def check_inputs(folder: Path, stages: Sequence[str]) -> None:
    """See that every stage will find what it reads.

    Args:
        folder: of the run.
        stages: names of what is to be run, in order.

    Raises:
        ConfigError: what a stage reads is neither there nor made by a stage before it.
    """
    for place, name in enumerate(stages):
        for need in NEEDS.get(name, ()):
            if need not in stages[:place] and not (folder / f"{LEAVES[need]}.pt").exists():
                raise ConfigError(
                    f"{name} needs what the stage {need} leaves in {folder}: name {need} too, or leave out --stages"
                )
