"""What the samplers get of many held-out objects: created once, in parallel, and kept in a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.collect import collect
from fast_sam3d.bench.held_out import FIRST_SEED
from fast_sam3d.mini.data.pictures import photograph
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.stages import CONDITION_INPUTS
from fast_sam3d.model.weights import weights_digest

__all__ = ["CALIBRATION_SEED", "Inputs", "load_inputs"]

log = logging.getLogger(__name__)

CALIBRATION_SEED = FIRST_SEED + 500_000
"""First seed of objects that schedules are chosen on; evaluations begin at `FIRST_SEED`."""


@dataclass(frozen=True)
class Inputs:
    """B objects.

    Args:
        seeds: [B] int64, of the objects.
        ss, slat: [B, L, C] float32 context tokens of both samplers.
        scene_scale, scene_shift: [B] and [B, 3] float32, of the pointmap.
        box: [B, 2, 3] float32, the corners of the true voxels' box in the camera frame.
    """

    seeds: Tensor
    ss: Tensor
    slat: Tensor
    scene_scale: Tensor
    scene_shift: Tensor
    box: Tensor

    def __len__(self) -> int:
        return len(self.seeds)

    def to(self, device: torch.device) -> Inputs:
        """The contexts on a device; the rest stays on the host."""
        return Inputs(
            self.seeds, self.ss.to(device), self.slat.to(device), self.scene_scale, self.scene_shift, self.box
        )

    def first(self, count: int) -> Inputs:
        """The first objects."""
        return Inputs(*(getattr(self, field.name)[:count] for field in fields(self)))


def load_inputs(checkpoint: Path, seeds: Sequence[int], cache: Path | None = None, processes: int = 1) -> Inputs:
    """The inputs of objects.

    Args:
        checkpoint: the embedded model's folder.
        seeds: of `fast_sam3d.mini.data.pictures.photograph`.
        cache: a folder; a file there with the same weights and seeds is read, else written.
        processes: that create them.
    """
    path = None
    if cache is not None:
        path = cache / f"inputs-{seeds[0]}-{len(seeds)}-{weights_digest(checkpoint)[:12]}.npz"
        if path.is_file():
            with np.load(path) as file:
                return Inputs(**{name: torch.from_numpy(file[name]) for name in file.files})
    log.info("creating %d objects in %d processes", len(seeds), processes)
    rows = collect(list(seeds), _start, _work, checkpoint, processes, 1, title="objects")
    found = [rows[seed][0] for seed in seeds]
    inputs = Inputs(**{field.name: torch.stack([row[field.name] for row in found]) for field in fields(Inputs)})
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **{field.name: getattr(inputs, field.name).numpy() for field in fields(Inputs)})  # type: ignore[arg-type]
        part.replace(path)
    return inputs


_pipeline: Pipeline


def _start(checkpoint: Path, threads: int) -> None:
    global _pipeline  # one per worker process
    torch.set_num_threads(threads)
    _pipeline = Pipeline.from_pretrained(checkpoint)


def _work(seed: int) -> list[dict[str, Any]]:
    photo, shape = photograph(seed)
    placed = photo.placed[0]
    with torch.no_grad():
        _, _, scene, seen = _pipeline.see(photo.rgb, photo.mask(), photo.points)
        given = _pipeline.preprocess_image(seen, _pipeline.ss_preprocessor, scene["pointmap"], scene["guessed"])
        ss, slat = (
            _pipeline.get_condition_input(embedder, given, CONDITION_INPUTS)[0][0][0].clone()
            for embedder in adapt(_pipeline).embedders.values()
        )
        row = {
            "seeds": torch.tensor(seed),
            "ss": ss,
            "slat": slat,
            "scene_scale": given["pointmap_scale"].reshape(()),
            "scene_shift": given["pointmap_shift"].reshape(3),
        }
    centres = (shape.coords.astype(np.float32) + 0.5) / _pipeline.resolution - 0.5
    camera = placed.camera
    points = centres * camera.size @ camera.R + camera.t
    row["box"] = torch.from_numpy(np.stack([points.min(0), points.max(0)]).astype(np.float32))
    return [row]
