"""Files of a search: the preset, and the evidence for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fast_sam3d.bench.record import without_nan, write_rows, write_text
from fast_sam3d.bench.summary import with_error
from fast_sam3d.config.compose import load
from fast_sam3d.tune.drift import Share, Verdict
from fast_sam3d.tune.plan import SearchPlan, SearchResult
from fast_sam3d.tune.space import EXACT

PRESET, EVIDENCE, TABLE, TRIALS, PICTURE = "tuned.yaml", "results.json", "results.md", "trials.csv", "tuning.png"


@dataclass(frozen=True)
class SearchInfo:
    """Conditions of a search.

    Args:
        pipeline: tag of the checkpoint. objects: their source. cost: see `fast_sam3d.tune.measurements.COLUMNS`.
        seconds: spent. machine: torch version, threads and device.
    """

    pipeline: str
    objects: str
    cost: str
    seconds: float
    machine: str


def write(
    folder: Path, found: SearchResult, exact: tuple[Verdict, Verdict | None], plan: SearchPlan, about: SearchInfo
) -> list[str]:
    """Write the preset, the evidence as JSON and Markdown, and all trials as CSV. Returns the file names.

    Args:
        exact: verdicts of the exact savings alone, on the objects of the search and on held-out ones.
    """
    text = markdown(found, exact, plan, about)
    write_text(folder / PRESET, preset(found, plan))
    write_text(folder / TABLE, text)
    write_text(
        folder / EVIDENCE, json.dumps(without_nan(as_tree(found, exact, plan, about)), indent=1, allow_nan=False)
    )
    write_rows(folder / TRIALS, trial_rows(found, plan))
    return [PRESET, TABLE, EVIDENCE, TRIALS]


def preset(found: SearchResult, plan: SearchPlan) -> str:
    """YAML for `accelerate(config=...)`: the enabled modules with all their settings."""
    import yaml

    modules = {name: _plain(own) for name, own in load(found.chosen.name.split()).modules.items() if own}
    head = [
        f"# Written by `fast-sam3d tune`: {conclusion(found, plan)}",
        '# In Python: fast_sam3d.accelerate(pipeline, config="this file\'s path"). On the command line the same is',
        f"#   fast-sam3d infer --image_path ... {found.chosen.name}",
    ]
    return "\n".join(head) + "\n" + yaml.safe_dump(modules, sort_keys=False, default_flow_style=None)


def conclusion(found: SearchResult, plan: SearchPlan) -> str:
    """The result as a sentence."""
    if not found.chosen.stages:
        why = "no candidate was"
        if found.interrupted:
            why = "the search was stopped before any candidate was"
        elif not found.trials:
            why = "the unaccelerated runs took all of the time (give more), so no candidate was"
        elif found.tried:
            why = "candidates within the budget on the objects of the search exceeded it on held-out objects; none is"
        return f"{why} within {plan.budget:g} of the seed noise and faster, so these are the exact savings only."
    shown, where = (found.held_out, "held-out") if found.held_out else (found.searched, "searched")
    sentence = (
        f"{with_error(shown.speed, 2)} times faster on {shown.objects} {where} objects, drift at most"
        f" {shown.worst():.2f} of the seed noise (with the margin {shown.worst(plan.margin):.2f}; budget"
        f" {plan.budget:g})."
    )
    return sentence if found.held_out else sentence + " Not measured on held-out objects."


def markdown(found: SearchResult, exact: tuple[Verdict, Verdict | None], plan: SearchPlan, about: SearchInfo) -> str:
    """The evidence as Markdown."""
    seeds = sorted({seed for _, seed in (*found.cases, *found.held_out_cases)})
    stopped = " The search was stopped before its end." if found.interrupted else ""
    parts = [
        f"# Tuning of `{about.pipeline}`",
        conclusion(found, plan)[0].upper() + conclusion(found, plan)[1:] + stopped,
        f"    {found.chosen.name}",
        f"Budget {plan.budget:g}: the drift from the unaccelerated result, plus {plan.margin:g} standard errors, is at"
        f" most {plan.budget:g} of the seed noise in every measure. The seed noise is the drift of the unaccelerated"
        f" result with another seed. Speed is measured in {about.cost}.",
        f"Searched on {_objects(found.cases)} and held out {_objects(found.held_out_cases)} ({about.objects}), seeds"
        f" {', '.join(map(str, seeds))}; {len(found.trials)} candidates in {about.seconds / 60:.1f} minutes"
        f" ({about.machine}).",
    ]
    for title, own, plain in (
        ("Held-out objects", found.held_out, exact[1]),
        ("Objects of the search", found.searched, exact[0]),
    ):
        if own is not None:
            parts += [f"## {title}", _measures(own, plan), _speeds(own, plain)]
    if len(found.tried) > 1:
        lines = [[f"`{v.name}`", with_error(v.speed, 2), f"{v.worst(plan.margin):.3f}"] for v in found.tried]
        parts += [
            "## Candidates measured on the held-out objects",
            "The fastest one within the budget is chosen; this selection makes its figures slightly optimistic.",
            _table(["candidate", "times faster", "worst share with margin"], lines),
        ]
    return "\n\n".join(parts) + "\n"


def as_tree(
    found: SearchResult, exact: tuple[Verdict, Verdict | None], plan: SearchPlan, about: SearchInfo
) -> dict[str, Any]:
    """The evidence for JSON; may contain values that are not finite."""
    return {
        "conclusion": conclusion(found, plan),
        "overrides": found.chosen.name,
        "budget": plan.budget,
        "margin": plan.margin,
        "about": asdict(about),
        "interrupted": found.interrupted,
        "cases": [list(case) for case in found.cases],
        "held_out_cases": [list(case) for case in found.held_out_cases],
        "searched": asdict(found.searched),
        "held_out": None if found.held_out is None else asdict(found.held_out),
        "exact": {"searched": asdict(exact[0]), "held_out": None if exact[1] is None else asdict(exact[1])},
        "tried": [asdict(verdict) for verdict in found.tried],
        "trials": len(found.trials),
    }


def trial_rows(found: SearchResult, plan: SearchPlan) -> list[dict[str, Any]]:
    """One row per candidate."""
    return [
        {
            "candidate": trial.candidate.name,
            "phase": trial.phase,
            "objects": trial.verdict.objects,
            "times_faster": trial.verdict.speed[0],
            "times_faster_error": trial.verdict.speed[1],
            "worst_share": trial.verdict.worst(),
            "admissible": trial.verdict.admissible(plan.budget, plan.margin),
            "failed": trial.verdict.failed,
            **{f"share_{measure}": share.value for measure, share in trial.verdict.shares.items()},
            **{f"error_{measure}": share.error for measure, share in trial.verdict.shares.items()},
        }
        for trial in found.trials
    ]


def _measures(own: Verdict, plan: SearchPlan) -> str:
    def line(measure: str, share: Share) -> list[str]:
        within = "yes" if share.upper(plan.margin) <= plan.budget else "no"
        return [measure, f"{share.drift:.4f}", f"{share.noise:.4f}", with_error((share.value, share.error)), within]

    head = ["measure", "drift", "seed noise", "drift / noise ± s.e.", "within the budget"]
    return _table(head, [line(measure, share) for measure, share in own.shares.items()])


def _speeds(own: Verdict, exact: Verdict | None) -> str:
    text = f"{own.objects} objects, median {with_error(own.speed, 2)} times faster than unaccelerated"
    if exact is None or own.name == EXACT:
        return text + "."
    return text + f"; the exact savings alone {with_error(exact.speed, 2)}."


def _objects(cases: Sequence[tuple[str, int]]) -> str:
    count = len({name for name, _ in cases})
    return f"{count} object{'s' * (count != 1)}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, (list, tuple)) else tree
