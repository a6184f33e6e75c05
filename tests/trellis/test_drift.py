"""The default preset of TRELLIS is nearer to the full run than Fast-TRELLIS's settings at as many network calls."""

from __future__ import annotations

import pytest

from tests.trellis.drift_at_scales import RIVAL, SCALES, drift

MOST = {"ss": 16, "slat": 10}  # of 44


@pytest.mark.parametrize("stage", RIVAL)
@pytest.mark.parametrize("scale", SCALES)
def test_default_drifts_less_than_fast_trellis(scale: str, stage: str) -> None:
    calls, ours = drift(scale).of(stage, "default")
    assert calls <= MOST[stage]
    rivals = list(drift(scale).rivals(stage))
    assert any(made >= calls for _, made, _ in rivals)
    for override, made, theirs in rivals:
        if made <= 1.25 * MOST[stage]:
            assert ours < 0.75 * theirs, (override, made)
