"""What killed processes have begun in a scene's folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

__all__ = ["clear_left_behind"]

_LEFT_BEHIND = re.compile(r"\.fast_sam3d-.*|\..+\.[0-9a-f]{8}\.tmp")
"""Names that `result_folder` and `export.atomic_write` give to what is not finished."""


def clear_left_behind(target: Path) -> None:
    """Removes it from the folder of a scene. Nobody else may be writing there."""
    for path in target.iterdir():
        if _LEFT_BEHIND.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
