"""Small pictures and weights for the campaigns, and what two result folders have to have in common."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.minis import picture, random_mini

TIMED = ("seconds", "bytes")


def inputs(root: Path) -> None:
    """Write a checkpoint "mini" and three pictures "a", "b" and "c" with three masks each below `root`."""
    random_mini().save_pretrained(root / "mini")
    image, mask = picture()
    for number, name in enumerate("abc"):
        folder = root / "pictures" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.roll(image, number, axis=2)).save(folder / "image.png")
        for place in range(3):
            moved = np.roll(mask, 7 * (place - 1), axis=1)
            Image.fromarray(moved.astype(np.uint8) * 255).save(folder / f"{place}.png")


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with a digest of what does not depend on time."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_timeless(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _timeless(path: Path) -> bytes:
    if path.name == "rows.csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return json.dumps([{k: v for k, v in row.items() if not k.endswith(TIMED)} for row in rows]).encode()
    if path.name == "report.json":
        return _dump(path, lambda tree: tree["identity"] if "identity" in tree else tree["steps"])
    if path.name == "evidence.json":
        return _dump(path, lambda tree: [tree[key] for key in ("levels", "default", "fast", "calibration", "check")])
    if path.suffix == ".jsonl":
        return json.dumps(sorted(json.loads(line)[0] for line in path.read_text().splitlines())).encode()
    if path.name in ("table.md", "summary.json") and (path.parent / "rows.csv").is_file():
        return b""  # seconds of the bench
    return path.read_bytes()


def _dump(path: Path, part: Any) -> bytes:
    return json.dumps(part(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True).encode()


def difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The files that differ, in words; empty: none."""
    missing, more = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    changed = {name for name in found.keys() & wanted.keys() if found[name] != wanted[name]}
    parts = {"missing": missing, "left over": more, "different": changed}
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in parts.items() if names)
