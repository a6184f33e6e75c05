"""The folder where the presets find the schedules that `fast-sam3d tune` measured."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fast_sam3d.outputs.files import atomic_write

__all__ = ["PRESETS", "cache_folder", "cache_state", "files_of", "store"]

PRESETS: Final = ("default", "fast")
"""Presets that take a measured schedule instead of their own."""
_MOST_FILES: Final = 64


def cache_folder() -> Path:
    """Where measured schedules are kept: `fast_sam3d/schedules` in the user's cache folder."""
    home = Path(os.path.expanduser("~"))
    own = {"darwin": home / "Library" / "Caches", "win32": Path(os.environ.get("LOCALAPPDATA") or home)}
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else own.get(sys.platform, home / ".cache")) / "fast_sam3d" / "schedules"


def cache_state() -> str | None:
    """A digest that changes with the files of the cache folder; None without any."""
    facts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files_of("*")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16] if facts else None


def store(text: str, measured: Mapping[str, Any], preset: str) -> Path:
    """Keep the text of a file for a preset; it replaces an earlier one of the same model and sampler. Returns its path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{preset}-{digest}.yaml"
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def files_of(preset: str) -> list[Path]:
    """The files for a preset, or for all with "*", the newest first."""
    try:
        found = [path for path in cache_folder().glob(f"{preset}-*.yaml") if path.is_file()]
        return sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path.name))[:_MOST_FILES]
    except OSError:
        return []
