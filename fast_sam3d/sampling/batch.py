"""Whether several objects may be solved as one batch, and which reports record it.

A batch takes its steps together. So it is only for methods whose decisions follow from the step alone; where they look
at the state, each object is solved by itself and decides for itself.
"""

from __future__ import annotations

from fast_sam3d.patch import seam_at
from fast_sam3d.sampling.driver import SolveSeam
from fast_sam3d.sampling.guide import Both
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.sampling.predict import Anchored, Hold, Taylor
from fast_sam3d.sampling.when import Always, GuidedStride, Stride
from fast_sam3d.sampling.where import All
from fast_sam3d.telemetry import Report

__all__ = ["decides_alike", "method_on", "reports_on"]

ALIKE: tuple[tuple[type, ...], ...] = ((Always, GuidedStride, Stride), (All,), (Both,), (Anchored, Hold, Taylor))
"""Parts that treat every object of a batch as if it were alone; others may do so, too, but nobody has tried."""


def decides_alike(method: StageMethod | None) -> bool:
    """Whether all objects of a batch take the same steps, whatever they are."""
    if method is None:
        return True
    when, where, guide, predict = ALIKE
    predictors = all(isinstance(predictor, predict) for predictor in method.predict.values())
    parts = (method.when, when), (method.where, where), (method.guide, guide)
    return predictors and all(isinstance(part, kinds) for part, kinds in parts)


def method_on(solver: object) -> StageMethod | None:
    """The method of the acceleration on a solver."""
    seam = seam_at(solver, "solve_iter")
    return seam.method if isinstance(seam, SolveSeam) else None


def reports_on(solver: object) -> list[Report]:
    """The reports that record a solver's steps."""
    seam = seam_at(solver, "solve_iter")
    return [layer.report for layer in seam.layers] if isinstance(seam, SolveSeam) else []
