"""A fast stand-in pipeline behind the command, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fast_sam3d.metrics import comparison
from tests.stand_in import StandIn, replace_checkpoints


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The pipeline that replaces every loaded checkpoint."""
    made = StandIn()
    replace_checkpoints(monkeypatch, tmp_path, made)
    # The box's twelve triangles are cut into a million for it, and all boxes are equal.
    monkeypatch.setitem(comparison.PARTS, "volume", lambda found, truth, protocol: {"volume_iou": 1.0})
    return made
