"""Tables and summary files of finished scenes, shared by both engines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.cli.tables import print_path, print_table
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.scene.worker import ObjectOutcome

__all__ = ["SOME_FAILED", "end_all", "new_row", "note_failure", "note_summary", "print_scene"]

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
SOME_FAILED = 1
_NUMBERS = ("seconds", "mask IoU", "objects", "failed")


def new_row(folder: Path) -> dict[str, Any]:
    """The row of a scene in the table of all scenes."""
    return {"folder": folder.name, "scene": None, "status": "failed", "message": ""}


def note_summary(row: dict[str, Any], summary: Mapping[str, Any]) -> None:
    counts = {key: summary[key] for key in ("complete", "failed", "duplicate", "mean_mask_iou")}
    row |= {"status": "failed" if summary["failed"] else "complete", **counts}


def note_failure(row: dict[str, Any], folder: Path, error: FastSam3dError) -> None:
    row["message"] = " ".join(str(error).split())
    log.error("scene %s failed: %s", folder, row["message"])


def end_all(rows: list[dict[str, Any]], config: Config) -> int:
    """Writes and prints the status of every scene. Returns the exit code."""
    from fast_sam3d.outputs.files import save_json

    config.output.dir.mkdir(parents=True, exist_ok=True)
    failed = sum(row["status"] == "failed" for row in rows)
    summary = {"scenes": rows, "complete": len(rows) - failed, "failed": failed}
    save_json(config.output.dir / SUMMARY, summary)
    _print_all(rows)
    return SOME_FAILED if failed else 0


def print_scene(summary: Mapping[str, Any], outcomes: Mapping[int, ObjectOutcome], target: Path) -> None:
    rows = []
    for item in summary["objects"]:
        outcome = outcomes[item["number"]]
        seconds = "kept" if outcome.seconds is None and outcome.status == "complete" else _number(outcome.seconds)
        note = item["message"] or ("; ".join(item["out_of_memory"]) and f"only {', '.join(item['formats'])} fitted")
        rows.append((item["mask"], item["status"], seconds, _number(item["mask_iou"]), note))
    mean = summary["mean_mask_iou"]
    title = f"{summary['scene']}: {summary['complete']} of {len(rows)} objects"
    print_table(title, ("mask", "status", "seconds", "mask IoU", "remark"), rows, _NUMBERS)
    if mean is not None:
        print(f"mean overlap of the composed scene with the masks (IoU): {mean:.3f}")
    print_path(f"results in {target}: {', '.join([*summary['files'], SUMMARY])}")


def _print_all(rows: list[dict[str, Any]]) -> None:
    cells = [
        (row["folder"], row["status"], str(row.get("complete", "")), str(row.get("failed", "")),
         _number(row.get("mean_mask_iou")), row["message"])
        for row in rows
    ]  # fmt: skip
    print_table(f"{len(rows)} scenes", ("scene", "status", "objects", "failed", "mask IoU", "remark"), cells, _NUMBERS)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
