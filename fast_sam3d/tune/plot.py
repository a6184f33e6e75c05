"""Plot of all candidates: speed against drift, the budget, and the choice."""

from __future__ import annotations

import math
from pathlib import Path

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.drift import Verdict
from fast_sam3d.tune.plan import SearchPlan, SearchResult

PHASES = {
    "ss": ("sparse structure alone", "tab:blue"),
    "slat": ("structured latent alone", "tab:orange"),
    "mesh": ("mesh alone", "tab:purple"),
    "together": ("together", "tab:green"),
}
DPI = 110
FAR = 2.5
"""Times the budget: larger drifts are drawn at the upper edge."""


def draw(path: Path, found: SearchResult, exact: Verdict, plan: SearchPlan) -> None:
    """Draw one point per candidate: speed, and largest drift in units of the seed noise.

    Args:
        exact: verdict of the exact savings alone.

    Raises:
        FastSam3dError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise FastSam3dError("the plot needs matplotlib: pip install fast-sam3d[tune]") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8.6, 5.2), layout="constrained")
    top = FAR * plan.budget
    for phase, (label, colour) in PHASES.items():
        for admissible in (False, True):
            own = [
                trial.verdict
                for trial in found.trials
                if trial.phase == phase
                and math.isfinite(trial.verdict.speed[0])
                and trial.verdict.admissible(plan.budget, plan.margin) == admissible
            ]
            if own:
                axis.scatter(
                    [v.speed[0] for v in own], [min(v.worst(), top) for v in own], s=22, linewidths=0.9,
                    facecolors=colour if admissible else "none", edgecolors=colour,
                    label=f"{label}{', within the budget' if admissible else ''}",
                )  # fmt: skip
    axis.axhline(plan.budget, color="tab:red", linewidth=1.2, linestyle="--", label=f"budget {plan.budget:g}")
    if top >= 1.0:
        axis.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":", label="another seed, unaccelerated")
    axis.plot(exact.speed[0], min(exact.worst(), top), "P", color="0.4", markersize=8, label="exact savings alone")
    for verdict, marker, label in (
        (found.searched, "*", "chosen, objects of the search"),
        (found.held_out, "X", "chosen, held-out objects"),
    ):
        if verdict is not None and math.isfinite(verdict.worst()):
            spread = verdict.worst(1.0) - verdict.worst()
            axis.errorbar(
                verdict.speed[0], min(verdict.worst(), top), xerr=_bar(verdict.speed[1]), yerr=_bar(spread), fmt=marker,
                color="black", markersize=13 if marker == "*" else 8, capsize=2, linewidth=1, label=label, zorder=5,
            )  # fmt: skip
    axis.set_ylim(-0.03 * top, 1.04 * top)
    axis.set(
        xlabel="speed-up of the whole object (median)",
        ylabel=f"largest drift over the measures,\nin units of the seed noise (above {top:.2g}: at the edge)",
        title=f"{len(found.trials)} candidates, budget {plan.budget:g}, margin {plan.margin:g} s.e.",
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _bar(value: float) -> float | None:
    return value if math.isfinite(value) else None
