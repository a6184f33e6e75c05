"""What methods must know of a model beforehand, measured on runs of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from fast_sam3d.adapters import adapt
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.step import to_leaves


class Magnitudes:
    """Mean magnitudes of the guided velocities, step by step, of every solve that was watched; see `watched`."""

    def __init__(self) -> None:
        self._solves: dict[str, list[list[float]]] = {}

    def begin(self, stage: str) -> None:
        """A solve of this stage begins."""
        self._solves.setdefault(stage, []).append([])

    def note(self, stage: str, velocity: Any) -> None:
        """The velocity of a step."""
        leaves = to_leaves(velocity, "x") or {}
        total = sum(float(leaf.float().norm(dim=-1).sum()) for leaf in leaves.values())
        self._solves[stage][-1].append(total / sum(leaf.numel() // leaf.shape[-1] for leaf in leaves.values()))

    def ratios(self, stage: str) -> list[float]:
        """Each step's magnitude over that of the step before, [steps - 1], averaged over the solves.

        Raises:
            FastSam3dError: no solve of that stage was watched, or solves of different numbers of steps.
        """
        solves = self._solves.get(stage, [])
        if len({len(solve) for solve in solves}) != 1 or len(solves[0]) < 2:
            raise FastSam3dError(
                f"{stage}: watched solves of {sorted({len(solve) for solve in solves})} steps: watch one or more runs "
                "with the same number of steps, at least 2"
            )
        rows = [[b / a for a, b in pairwise(solve)] for solve in solves]
        return [fmean(column) for column in zip(*rows, strict=True)]


@contextmanager
def watched(pipeline: Any) -> Iterator[Magnitudes]:
    """Watch the solves of a pipeline that is not accelerated, without changing them.

    Args:
        pipeline: a SAM 3D pipeline, or an object that holds one in `_pipeline`.

    Yields:
        what `magnitude` needs, which fills while the pipeline runs.
    """
    adapter, magnitudes = adapt(pipeline), Magnitudes()
    hooks = []
    for stage in adapter.stages:

        def begin(module: Any, args: Any, stage: str = stage) -> None:
            magnitudes.begin(stage)

        def note(module: Any, args: Any, velocity: Any, stage: str = stage) -> None:
            with torch.no_grad():
                magnitudes.note(stage, velocity)

        hooks += [
            adapter.generator(stage).register_forward_pre_hook(begin),
            adapter.guidance(stage).register_forward_hook(note),
        ]
    try:
        yield magnitudes
    finally:
        for hook in hooks:
            hook.remove()
