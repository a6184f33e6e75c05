"""The scenes of one command: read, named, and listed in a table and a summary file; shared by both engines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.cli.tables import print_path, print_table
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError, OutputError
from fast_sam3d.scene.compose import SUMMARY
from fast_sam3d.scene.inputs import SceneInput, load_scene
from fast_sam3d.scene.worker import ObjectOutcome

log = logging.getLogger(__name__)

SOME_FAILED = 1
_NUMBERS = ("seconds", "mask IoU", "objects", "failed")


class Scenes:
    """The folders of a command, with one row of the summary for each.

    Args:
        folders: of the scenes.

    Attributes:
        single: the one folder was named itself, so what is wrong with it is an error, and there is no summary of all.
    """

    def __init__(self, folders: Sequence[Path], config: Config) -> None:
        self.single, self.config = folders == [config.input.image_path], config
        self.rows: dict[Path, dict[str, Any]] = {
            folder: {"folder": folder.name, "scene": None, "status": "failed", "message": ""} for folder in folders
        }

    def load(self, folder: Path) -> SceneInput:
        """The scene of a folder. Raises InputError; OutputError: another one would have the same result folder."""
        scene = load_scene(folder, self.config.input)
        if any(row["scene"] == scene.name for row in self.rows.values()):
            raise OutputError(f"{folder} and another scene would both go to {scene.name}: rename one of them")
        self.rows[folder]["scene"] = scene.name
        return scene

    def target(self, scene: SceneInput) -> Path:
        """The result folder of a scene."""
        return self.config.output.dir / scene.name

    def done(
        self, folder: Path, summary: Mapping[str, Any], outcomes: Mapping[int, ObjectOutcome], target: Path
    ) -> None:
        """Prints a finished scene."""
        _print_scene(summary, outcomes, target)
        counts = {key: summary[key] for key in ("complete", "failed", "duplicate", "mean_mask_iou")}
        self.rows[folder] |= {"status": "failed" if summary["failed"] else "complete", **counts}

    def failed(self, folder: Path, error: FastSam3dError) -> None:
        """Notes why a scene cannot be finished; raises the error of a single one."""
        if self.single:
            raise error
        self.rows[folder]["message"] = " ".join(str(error).split())
        log.error("scene %s failed: %s", folder, self.rows[folder]["message"])

    def end(self) -> int:
        """Writes and prints the status of every scene of several. Returns the exit code."""
        from fast_sam3d.outputs.files import save_json
        from fast_sam3d.outputs.folder import writing

        rows = list(self.rows.values())
        failed = sum(row["status"] == "failed" for row in rows)
        if not self.single:
            folder = self.config.output.dir
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_json(folder / SUMMARY, {"scenes": rows, "complete": len(rows) - failed, "failed": failed})
            cells = [
                (row["folder"], row["status"], str(row.get("complete", "")), str(row.get("failed", "")),
                 _number(row.get("mean_mask_iou")), row["message"])
                for row in rows
            ]  # fmt: skip
            headings = ("scene", "status", "objects", "failed", "mask IoU", "remark")
            print_table(f"{len(rows)} scenes", headings, cells, _NUMBERS)
        return SOME_FAILED if failed else 0


def _print_scene(summary: Mapping[str, Any], outcomes: Mapping[int, ObjectOutcome], target: Path) -> None:
    rows = []
    for item in summary["objects"]:
        outcome = outcomes[item["number"]]
        seconds = "kept" if outcome.seconds is None and outcome.status == "complete" else _number(outcome.seconds)
        fitted = f"only {', '.join(item['formats'])} fitted" if item["out_of_memory"] else ""
        note = item["message"] or "; ".join(filter(None, (fitted, *item["notices"])))
        rows.append((item["mask"], item["status"], seconds, _number(item["mask_iou"]), note))
    mean = summary["mean_mask_iou"]
    title = f"{summary['scene']}: {summary['complete']} of {len(rows)} objects"
    print_table(title, ("mask", "status", "seconds", "mask IoU", "remark"), rows, _NUMBERS)
    if mean is not None:
        print(f"mean overlap of the composed scene with the masks (IoU): {mean:.3f}")
    print_path(f"results in {target}: {', '.join([*summary['files'], SUMMARY])}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
