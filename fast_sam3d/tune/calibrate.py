"""Statistics of a model that methods need, measured on runs of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from fast_sam3d.adapters import sam3d_of
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.step import to_leaves


class Magnitudes:
    """Mean magnitudes of the guided velocities by step, of every observed solve."""

    def __init__(self) -> None:
        self._solves: dict[str, list[list[float]]] = {}

    def begin(self, stage: str) -> None:
        """Start of a solve of this stage."""
        self._solves.setdefault(stage, []).append([])

    def note(self, stage: str, velocity: Any) -> None:
        """Record the velocity of a step."""
        leaves = to_leaves(velocity, "x") or {}
        total = sum(float(leaf.float().norm(dim=-1).sum()) for leaf in leaves.values())
        self._solves[stage][-1].append(total / sum(leaf.numel() // leaf.shape[-1] for leaf in leaves.values()))

    def ratios(self, stage: str) -> list[float]:
        """[steps - 1] ratio of consecutive magnitudes, averaged over the solves.

        Raises:
            FastSam3dError: no solve of that stage was observed, or their numbers of steps differ.
        """
        solves = self._solves.get(stage, [])
        if len({len(solve) for solve in solves}) != 1 or len(solves[0]) < 2:
            raise FastSam3dError(
                f"{stage}: observed solves of {sorted({len(solve) for solve in solves})} steps: run once or more "
                "with the same number of steps, at least 2"
            )
        rows = [[b / a for a, b in pairwise(solve)] for solve in solves]
        return [fmean(column) for column in zip(*rows, strict=True)]


@contextmanager
def watched(pipeline: Any) -> Iterator[Magnitudes]:
    """Record the velocities of an unaccelerated pipeline, without changing its results.

    Args:
        pipeline: a SAM 3D pipeline, or an object that holds one in `_pipeline`.

    Yields:
        magnitudes, filled while the pipeline runs.
    """
    adapter, magnitudes = sam3d_of(pipeline), Magnitudes()
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
