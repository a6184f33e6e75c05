"""Writes the schedules of a search as the project's own: configs/ss/path*.yaml and configs/slat/path*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.bench.record import write_text
from fast_sam3d.errors import ConfigError

__all__ = ["table", "write_presets"]

RESCALE_T = {"ss": 3.0, "slat": 1.0}
"""Of the published samplers, whose steps the nodes are."""
CALLS = {"ss": 44, "slat": 38}


def write_presets(found: Mapping[str, Any], picks: Mapping[str, tuple[str, str]], configs: Path) -> list[Path]:
    """Write the files.

    Args:
        found: what `robust_search` returned.
        picks: for each stage "part/calls" of `path` and of `path_fast`, such as {"ss": ("robust/14", "robust/7")}; the
            part of "slat" is empty, "/7".
        configs: folder of the groups.

    Raises:
        ConfigError: the search has no such schedule.
    """
    written = []
    for stage, names in picks.items():
        first, second = (_picked(found, stage, name) for name in names)
        calls = [int(name.rpartition("/")[2]) for name in names]
        predict = first["predict"]
        if stage == "ss":
            how = (
                f"predict:\n  shape:  {_inline(predict['shape'])}\n  layout: {{name: live, fallback: hold, ahead: 0.4}}"
            )
            fast = f"predict:\n  shape: {{weights: {second['predict']['shape']['weights']}}}"
        else:
            how = f"predict: {_inline(predict)}"
            fast = f"predict: {{weights: {second['predict']['weights']}}}"
        source = "docs/figures/schedules.py search"
        when = {**first["when"], "rescale_t": RESCALE_T[stage]}
        texts = {
            "path": f"# {calls[0]} of {CALLS[stage]} calls under the published sampler; found by {source}.\n"
            "about:   {title: Path of measured nodes, paper: null, needs: []}\n"
            f"when:    {_inline(when)}\nwhere:   {{name: all}}\n{how}\n",
            "path_fast": f"# {calls[1]} of {CALLS[stage]} calls under the published sampler.\ndefaults: [path]\n\n"
            'about: {title: "Path of measured nodes, fast", paper: null, needs: []}\n'
            f"when: {{nodes: {second['when']['nodes']}}}\n{fast}\n",
        }
        for name, text in texts.items():
            path = configs / stage / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            written.append(path)
    return written


def table(found: Mapping[str, Any]) -> str:
    """The structure's schedules that serve all samplers: calls and voxel IoU on the objects of the check."""
    rows = [("part", "calls", "published", "mild", "own", "calls in own")]
    for part, schedules in found["evidence"].get("ss", {}).items():
        for calls, evidence in schedules.items():
            checked = evidence.get("checked", {})
            if len(checked) == 3:
                scores = (f"{checked[name]['voxel_iou']:.4f}" for name in ("published", "mild", "own"))
                rows.append((part, str(calls), *scores, f"{checked['own']['calls']:g}"))  # type: ignore[arg-type]
    return "\n".join("  ".join(cell.ljust(12) for cell in row).rstrip() for row in rows)


def _picked(found: Mapping[str, Any], stage: str, name: str) -> Any:
    part, _, calls = name.rpartition("/")
    schedules = found["paths"].get(stage, {}).get(part, {})
    if calls not in schedules:
        raise ConfigError(
            f"the search has no schedule {name!r} of {stage}: give one of {', '.join(schedules)} of {part}"
        )
    return schedules[calls]


def _inline(value: Any) -> str:
    """YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + "}"
    return str(value)
