"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

from fast_sam3d.adapters import adapt
from fast_sam3d.run.progress import STAGES, ProgressBars
from tests.stand_in import StandIn


def test_bars_are_drawn_per_stage(capsys):
    with ProgressBars(bars=True) as progress:
        for stage, total in (("other", 1), ("ss", 3), ("mesh", 1), ("slat", 2)):
            for done in range(total + 1):
                progress(stage, done, total)
        progress("gaussian", 0, 1)  # cut off: closed on the way out
    err = capsys.readouterr().err
    assert "sparse structure" in err
    assert "3/3" in err
    assert "structured latent" in err
    assert "other" not in err
    assert progress._open == {}


def test_lines_replace_bars_where_nobody_watches(caplog):
    caplog.set_level("INFO", "fast_sam3d")
    with ProgressBars(bars=False) as progress:
        for done in range(4):
            progress("ss", done, 3)
        progress("mesh", 0, 1)
        progress("mesh", 1, 1)
    assert "sparse structure: 3 steps" in caplog.text
    assert "mesh" not in caplog.text  # too quick to mention


def test_every_reported_stage_has_a_name_on_the_screen():
    assert {stage for _, _, stage in adapt(StandIn()).timed()} - {"other"} <= set(STAGES)
