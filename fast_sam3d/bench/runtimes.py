"""The stock pipeline and the native one on one picture: how far the results of each stage are apart.

Each stage of the native pipeline is given what the stock one had there, so that a difference shows in the stage that
causes it, and not in all that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.adapters.stages import StageRuns

__all__ = ["LIMITS", "Difference", "compare_stages", "run_stages"]

LIMITS: Final = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest relative difference in a precision. In half precision, two runs of the stock pipeline also differ."""

FORMATS: Final = ("mesh", "gaussian")

Results = dict[str, dict[str, Tensor]]
"""Tensors by stage and name."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One result of both pipelines.

    Args:
        stage, name: of the result.
        size: its shape in the stock pipeline.
        largest: absolute difference.
        relative: root mean square of the difference over that of the result around its mean; of voxels and faces the
            share that differs.
    """

    stage: str
    name: str
    size: tuple[int, ...]
    largest: float
    relative: float

    def within(self, limit: float) -> bool:
        """Whether the difference is no larger; False where it is not a number."""
        return self.relative <= limit


def run_stages(
    pipeline: Any,
    rgba: NDArray[np.uint8],
    pointmap: Tensor | None = None,
    seed: int = 42,
    steps: tuple[int | None, int | None] = (None, None),
    given: Results | None = None,
) -> Results:
    """Results of every stage of a pipeline.

    Args:
        rgba: [H, W, 4], the mask as alpha.
        pointmap: [H, W, 3]; None asks the depth model.
        seed: of the noise of both samplers.
        steps: of both; None: the pipeline's own.
        given: results of another pipeline, of which each stage takes its inputs; None: of this one.
    """
    runs, found = StageRuns(pipeline), dict[str, dict[str, Tensor]]()

    def before(stage: str) -> dict[str, Tensor]:
        return (found if given is None else given)[stage]

    found["pointmap"] = {"pointmap": runs.pointmap(rgba, pointmap)}
    for stage, inputs in runs.inputs(rgba, before("pointmap")["pointmap"]).items():
        found[f"inputs of {stage}"] = inputs
    found["sparse structure"] = runs.structure(before("inputs of ss"), seed, steps[0])
    found["pose"] = runs.pose(before("sparse structure"), before("inputs of ss"))
    latent = runs.latent(before("inputs of slat"), before("sparse structure")["coords"], seed, steps[1])
    found["structured latent"] = {"feats": latent.feats.detach().float().cpu()}
    for name, parts in runs.decode(latent, before("structured latent")["feats"], FORMATS).items():
        found[name] = {part.removeprefix("get_").lstrip("_"): value for part, value in parts.items()}
    return found


def compare_stages(stock: Results, native: Results) -> list[Difference]:
    """The differences of all results, in the order of the stages."""
    return [row for stage in stock for row in _of_stage(stage, stock[stage], native[stage])]


def _of_stage(stage: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Iterator[Difference]:
    for name, value in a.items():
        other = b.get(name)
        if other is None:
            largest, relative = torch.nan, torch.nan
        elif name.startswith("coords"):
            largest = relative = 1 - _overlap(value, other)
        elif stage == "mesh" and not _same_faces(a, b):
            largest, relative = _of_other_mesh(name, a, b)
        else:
            largest, relative = _of_values(value, other)
        yield Difference(stage, name, tuple(value.shape), largest, relative)


def _of_values(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Largest and relative difference; NaN where shapes, or the places of unknown values, differ."""
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return torch.nan, torch.nan
    known = a.isfinite()
    wide, off = a[known].double(), (a[known].double() - b[known].double()).abs()
    if not len(off):
        return 0.0, 0.0
    spread = float((wide - wide.mean()).square().mean().sqrt()) or float(wide.abs().max()) or 1.0
    return float(off.max()), float(off.square().mean().sqrt()) / spread


def _overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two sets of voxels."""
    one, other = ({tuple(place) for place in coords.tolist()} for coords in (a, b))
    return len(one & other) / max(len(one | other), 1)


def _same_faces(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return torch.equal(a["faces"], b["faces"])


def _of_other_mesh(name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[float, float]:
    """Of a mesh with other faces: values at the nearest vertex; of faces the share by which their number differs."""
    from scipy.spatial import cKDTree

    one, other = len(a["faces"]), len(b["faces"])
    if not min(one, other):
        return torch.nan, torch.nan
    if name == "faces":
        return float(abs(one - other)), abs(one - other) / max(one, other)
    _, nearest = cKDTree(b["vertices"].numpy()).query(a["vertices"].numpy())
    return _of_values(a[name], b[name][torch.from_numpy(nearest)])
