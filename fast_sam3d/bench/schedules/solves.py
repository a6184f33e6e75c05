"""Solves of many objects as one batch, under a method, and how far their results are from the baseline's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.adapters import sam3d_of
from fast_sam3d.adapters.samplers import decode_structure
from fast_sam3d.api import accelerated
from fast_sam3d.bench.schedules.inputs import Inputs
from fast_sam3d.geometry.poses import quaternion_matrix
from fast_sam3d.model.solver import tree_randn
from fast_sam3d.report import observe
from fast_sam3d.telemetry import Report

__all__ = ["LatentBed", "Method", "Scores", "Solved", "State", "StructureBed"]

Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Method:
    """How a stage is sampled.

    Args:
        settings: {when, where, predict, guide}; None: every step.
        steps: of the grid.
    """

    settings: Mapping[str, Any] | None = None
    steps: int = 25


@dataclass(frozen=True)
class Solved:
    """B results: the leaves [B, ...], and the mean number of network calls of one."""

    leaves: dict[str, Tensor]
    calls: float


class _Bed:
    """Solves one stage for B objects in batches of at most `batch`."""

    stage = ""

    def __init__(self, pipeline: Any, batch: int) -> None:
        self.pipeline, self.batch = pipeline, batch
        self.device = torch.device(pipeline.device)

    def __len__(self) -> int:
        raise NotImplementedError

    def solve(self, method: Method, count: int | None = None, together: bool = True) -> Solved:
        """The results of a method.

        Args:
            count: of the first objects; None: all.
            together: False: one object at a time, for a method that decides by values.
        """
        total = len(self) if count is None else min(count, len(self))
        size = self.batch if together else 1
        generator = sam3d_of(self.pipeline).generator(self.stage)
        before = generator.inference_steps
        found: list[dict[str, Tensor]] = []
        calls = 0.0
        try:
            generator.inference_steps = method.steps
            with torch.no_grad(), _installed(self.pipeline, self.stage, method.settings) as report:
                for start in range(0, total, size):
                    report.clear()
                    end = min(start + size, total)
                    found.append(self._solve(generator, start, end))
                    calls += report.network_calls * (end - start)
        finally:
            generator.inference_steps = before
        return Solved({name: torch.cat([each[name] for each in found]) for name in found[0]}, calls / total)

    def begin(self, generator: Any) -> dict[str, Tensor]:
        """One solve of all objects as one batch, with the method that is installed."""
        return self._solve(generator, 0, len(self))

    def _solve(self, generator: Any, start: int, end: int) -> dict[str, Tensor]:
        raise NotImplementedError


class StructureBed(_Bed):
    """Sparse structures of objects x noise seeds, the objects of the first seed first.

    Args:
        pipeline: the embedded one.
        sampler: of the sparse structure; to be entered as a context, with the bed inside.
        batch: at most so many are solved at once.
    """

    stage = "ss"

    def __init__(self, pipeline: Any, inputs: Inputs, seeds: Sequence[int], batch: int) -> None:
        super().__init__(pipeline, batch)
        self.inputs, self.seeds = inputs, seeds
        shapes = {name: (1, *shape) for name, shape in pipeline.leaf_shapes.items()}
        self._noise = [tree_randn(shapes, self.device, torch.Generator().manual_seed(seed)) for seed in seeds]
        self._decoder = sam3d_of(pipeline).structure_decoder()
        edge = pipeline.resolution
        line = (torch.arange(edge, device=self.device) + 0.5) / edge - 0.5
        self._centres = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.inputs) * len(self.seeds)

    def _solve(self, generator: Any, start: int, end: int) -> dict[str, Tensor]:
        number = len(self.inputs)
        which = [divmod(index, number) for index in range(start, end)]
        noise: Any = self._noise
        x = {name: torch.cat([noise[seed][name] for seed, _ in which]) for name in noise[0]}
        generator.no_shortcut = True
        result: dict[str, Tensor] = generator.solve(x, self.inputs.ss[[item for _, item in which]])
        return result

    def occupied(self, solved: Solved) -> Tensor:
        """[B, R^3] bool."""
        shape = solved.leaves["shape"]
        with torch.no_grad():
            parts = [decode_structure(self._decoder, part).flatten(1) > 0 for part in shape.split(self.batch)]
        return torch.cat(parts)

    def state(self, solved: Solved) -> State:
        """What is compared of results."""
        occupied = self.occupied(solved)
        count = len(occupied)
        repeat = -(-count // len(self.inputs))
        scale, shift = (
            torch.cat([each] * repeat)[:count] for each in (self.inputs.scene_scale, self.inputs.scene_shift)
        )
        pose = self.pipeline.pose_decoder(solved.leaves, scene_scale=scale, scene_shift=shift)
        rotation, translation, size = (pose[name].double().numpy() for name in ("rotation", "translation", "scale"))
        turn = np.stack([quaternion_matrix(q) for q in rotation])
        truth = torch.cat([self.inputs.box] * repeat)[:count].double().numpy()
        boxes = self._boxes(occupied, turn, translation, size)
        return State(occupied, rotation, translation, size[:, 0], box_overlap(boxes, truth))

    def _boxes(self, occupied: Tensor, turn: Any, translation: Any, size: Any) -> NDArray[np.float64]:
        """[B, 2, 3] corners in the camera frame of the boxes around the centres of occupied voxels."""
        matrix = torch.from_numpy(turn * size[:, :, None]).float().to(self.device)
        rows = []
        for mask, each in zip(occupied, matrix, strict=True):
            points = self._centres @ each
            low = torch.where(mask[:, None], points, torch.inf).amin(0)
            high = torch.where(mask[:, None], points, -torch.inf).amax(0)
            rows.append(torch.stack([low, high]))
        return torch.stack(rows).double().cpu().numpy() + translation[:, None]


@dataclass(frozen=True)
class State:
    """B sparse structures: occupied [B, R^3], rotation [B, 4] wxyz, translation [B, 3], size [B], and the overlap of
    their boxes with the true ones [B]."""

    occupied: Tensor
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    size: NDArray[np.float64]
    box_iou: NDArray[np.float64]

    def against(self, base: State) -> Scores:
        """Scores [B]: voxel_iou; translation in baseline sizes; rotation_deg; scale; box_iou, the difference."""
        count = len(self.size)
        base_occupied = base.occupied[:count]
        both = (self.occupied & base_occupied).sum(1).double()
        either = (self.occupied | base_occupied).sum(1).double()
        product = _product(self.rotation, base.rotation[:count])
        angle = 2 * np.arctan2(np.linalg.norm(product[:, 1:], axis=1), np.abs(product[:, 0]))
        return {
            "voxel_iou": torch.where(either > 0, both / either.clamp(min=1), 1.0).cpu().numpy(),
            "translation": np.linalg.norm(self.translation - base.translation[:count], axis=1) / base.size[:count],
            "rotation_deg": np.degrees(angle),
            "scale": np.abs(self.size / base.size[:count] - 1),
            "box_iou": self.box_iou - base.box_iou[:count],
        }


def box_overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] intersection over union of boxes [B, 2, 3]; 0 for an empty one."""
    low, high = np.maximum(first[:, 0], second[:, 0]), np.minimum(first[:, 1], second[:, 1])
    both = np.clip(high - low, 0, None).prod(1)
    sizes = [np.clip(box[:, 1] - box[:, 0], 0, None).prod(1) for box in (first, second)]
    either = sizes[0] + sizes[1] - both
    return np.where(np.isfinite(either) & (either > 0), both / np.where(either > 0, either, 1), 0.0)


def _product(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quaternions [B, 4] first * conj(second)."""
    a, b = first, second * np.array([1.0, -1, -1, -1])
    real = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(1, keepdims=True)
    rest = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + np.cross(a[:, 1:], b[:, 1:])
    return np.concatenate([real, rest], 1)


class LatentBed(_Bed):
    """Structured latents of the voxels of B objects.

    Args:
        pipeline: the embedded one.
        contexts: [B, L, C].
        voxels: of each object [N, 3], at least one each.
        seeds: [B] of the noise.
        batch: at most so many are solved at once.
    """

    stage = "slat"

    def __init__(
        self, pipeline: Any, contexts: Tensor, voxels: Sequence[Tensor], seeds: Sequence[int], batch: int
    ) -> None:
        super().__init__(pipeline, batch)
        self.contexts, self.voxels = contexts, voxels
        channels = len(pipeline.slat_mean)
        self._noise = [
            torch.randn(len(own), channels, generator=torch.Generator().manual_seed(seed)).to(self.device)
            for own, seed in zip(voxels, seeds, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.voxels)

    def _solve(self, generator: Any, start: int, end: int) -> dict[str, Tensor]:
        which = range(start, end)
        coords = torch.cat(
            [torch.nn.functional.pad(self.voxels[i], (1, 0), value=place) for place, i in enumerate(which)]
        )
        x, places = torch.cat([self._noise[i] for i in which])[None], coords.to(torch.int32).cpu().numpy()
        context = self.contexts[start:end]
        with sam3d_of(self.pipeline).network("slat").keeping(context, places):
            return {"feats": generator.solve(x, context, places)[0]}

    def against(self, solved: Solved, base: Solved) -> Scores:
        """latent_error [B], |a - b| / |b|."""
        own = solved.leaves["feats"].float()
        count = torch.tensor([len(voxels) for voxels in self.voxels])
        end = int((count.cumsum(0) <= len(own)).sum())
        pairs = zip(
            own.split(count[:end].tolist()), base.leaves["feats"][: len(own)].float().split(count[:end].tolist()),
            strict=True,
        )  # fmt: skip
        return {"latent_error": np.array([float((a - b).norm() / b.norm()) for a, b in pairs])}


@contextmanager
def _installed(pipeline: Any, stage: str, settings: Mapping[str, Any] | None) -> Iterator[Report]:
    if settings is None:
        with observe(pipeline) as report:
            yield report
    else:
        with accelerated(pipeline, {stage: settings}) as handle:
            yield handle.report
