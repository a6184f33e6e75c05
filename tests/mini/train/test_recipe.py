"""Default and invalid settings of `train-mini`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fast_sam3d.mini.data.shards import HELD_OUT_SEED
from fast_sam3d.mini.train.recipe import Recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"objects": HELD_OUT_SEED}, "where the held-out seeds begin"),
        ({"ss_vae_objects": 50_000}, "more objects than there are"),
        ({"slat_vae_objects": 30_000}, "cannot be more than slat_objects"),
        ({"noise_draws": 3}, "multiple of noise_draws=3"),
        ({"decoder_share": 1.0}, r"decoder_share must be in \[0, 1\), got 1.0"),
        ({"decoder_share": -0.1}, r"decoder_share must be in \[0, 1\), got -0.1"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Recipe(), **change)


def test_share_scales_the_recipe() -> None:
    whole = Recipe()
    trial = whole.scaled(0.01)
    assert (trial.objects, trial.ss_flow.steps) == (whole.objects // 100, whole.ss_flow.steps // 100)
    assert trial.pipeline == whole.pipeline and trial.decoder_share == whole.decoder_share
    assert whole.scaled(1) == whole
    with pytest.raises(ValueError, match="share must be in"):
        whole.scaled(0)
