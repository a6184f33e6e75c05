"""The files of a calibration: the schedules as YAML, what they were measured on, and a table."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import torch

from fast_sam3d.bench.record import without_nan, write_text
from fast_sam3d.bench.summary import with_error
from fast_sam3d.config.compose import compose
from fast_sam3d.config.resolve import CALIBRATED
from fast_sam3d.tune.check import BASELINE, PATH, summary
from fast_sam3d.tune.job import Result

__all__ = ["EVIDENCE", "HEADER", "PICTURE", "SCHEDULES", "as_tree", "as_yaml", "table", "write"]

SCHEDULES: Final = {"default": "tuned.yaml", "fast": "tuned_fast.yaml"}
"""By the preset that takes it."""
EVIDENCE: Final = "evidence.json"
PICTURE: Final = "tuning.png"
HEADER: Final = (
    "", "calls (ss + slat)", "voxel IoU", "rotation °", "translation", "scale", "latent error", "processor s", "faster",
)  # fmt: skip


def write(folder: Path, result: Result, live: bool, about: Mapping[str, Any]) -> dict[str, str]:
    """Write the schedules of both presets and the evidence.

    Args:
        live: the layout is evaluated at every step, see `FoundPath.method`.
        about: of the pipeline, for the evidence.

    Returns:
        the text of each preset's schedule.
    """
    texts = {}
    for preset, file in SCHEDULES.items():
        texts[preset] = as_yaml(result, preset, live, about)
        write_text(folder / file, texts[preset])
    tree = json.dumps(without_nan(as_tree(result, about)), indent=1, allow_nan=False)
    write_text(folder / EVIDENCE, tree + "\n")
    return texts


def as_yaml(result: Result, preset: str, live: bool, about: Mapping[str, Any]) -> str:
    """A configuration for `accelerate`, with the fingerprint and a summary of the evidence."""
    import yaml

    number = result.chosen if preset == "default" else result.fast
    known = next((row for row in summary(result.rows) if (row["kind"], row["level"]) == (PATH, number)), {})
    measured = {name: round(known[name][0], 5) for name in _MEASURES if name in known}
    evidence = {
        "date": _today(), "pipeline": about["pipeline"], "objects": len(result.facts["calibration"]),
        "checked_on": known.get("objects", 0), "calls": {s: p.calls for s, p in result.levels[number].paths.items()},
        **measured,
    }  # fmt: skip
    tree = {
        **result.levels[number].methods(live),
        "exact": compose(["exact=all"])[0]["exact"],
        CALIBRATED: {"fingerprint": dict(result.fingerprint), "evidence": evidence, "levels": _levels(result, live)},
    }
    head = '# Written by `fast-sam3d tune`; for fast_sam3d.accelerate(pipeline, config="this file\'s path").\n'
    return head + yaml.dump(tree, Dumper=_plain_dumper(), sort_keys=False, default_flow_style=None, width=110)


def _levels(result: Result, live: bool) -> list[dict[str, Any]]:
    """The checked schedules from few calls to many, for `quality`; see `config.calibrated`."""
    rows = {row["level"]: row for row in summary(result.rows) if row["kind"] == PATH and not row["failed"]}
    checked = sorted((level.calls, number) for number, level in enumerate(result.levels) if number in rows)
    return [
        {"voxel_iou": round(rows[number]["voxel_iou"][0], 5), **result.levels[number].methods(live)}
        for _, number in checked
    ]


def as_tree(result: Result, about: Mapping[str, Any]) -> dict[str, Any]:
    """All that was measured; may contain numbers that are not finite."""
    return {
        "date": _today(),
        "about": {
            **about, "torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine(),
        },
        "fingerprint": result.fingerprint,
        "plan": {**asdict(result.plan), "run_seconds": result.costs.run, "run_calls": result.costs.calls},
        "levels": [{stage: path.plain for stage, path in level.paths.items()} for level in result.levels],
        "default": result.chosen,
        "fast": result.fast,
        "check_summary": summary(result.rows),
        "rows": result.rows,
        **result.facts,
    }  # fmt: skip


def table(result: Result) -> list[tuple[str, ...]]:
    """Cells below `HEADER`: the baseline, then for each budget its schedule and fewer steps of as many calls."""
    rows = summary(result.rows)
    base = next((row for row in rows if row["kind"] == BASELINE), {})
    order = sorted(rows, key=lambda row: (row["level"] >= 0, -_middle(row, "calls"), row["kind"]))
    presets = {result.fast: ", fast", result.chosen: ", default"}
    lines = []
    for row in order:
        path = row["kind"] == PATH
        name = "baseline" if row is base else "schedule" if path else "fewer steps"
        calls = f"{_middle(row, 'ss_calls'):g} + {_middle(row, 'slat_calls'):g}"
        mine, theirs = _middle(row, "cpu_seconds"), _middle(base, "cpu_seconds")
        lines.append((
            name + (presets.get(row["level"], "") if path else ""), calls,
            *(_cell(row, measure, digits) for measure, digits in _MEASURES.items()),
            f"{mine:.2f}" if math.isfinite(mine) else "", f"{theirs / mine:.2f}×" if mine > 0 else "",
        ))  # fmt: skip
    return lines


_MEASURES: Final = {
    "voxel_iou": 3, "rotation_deg": 2, "translation_error": 4, "scale_error": 4, "latent_error": 4,
}  # fmt: skip


def _cell(row: Mapping[str, Any], measure: str, digits: int) -> str:
    return with_error(row[measure], digits) if measure in row else ""


def _middle(row: Mapping[str, Any], name: str) -> float:
    value: Sequence[float] = row.get(name, (math.nan,))
    return float(value[0])


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _plain_dumper() -> type:
    """Without aliases: a reader may write them out."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Plain
