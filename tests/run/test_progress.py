"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

from fast_sam3d.adapters import adapt
from fast_sam3d.run import progress as module
from fast_sam3d.run.progress import STAGES, Bar, ObjectsProgress, ProgressBars, track
from tests.stand_in import StandIn


def test_bars_are_drawn_per_stage(capsys):
    with ProgressBars(bars=True) as progress:
        for stage, total in (("other", 1), ("ss", 3), ("mesh", 1), ("slat", 2)):
            for done in range(total + 1):
                progress(stage, done, total)
        progress("gaussian", 0, 1)  # interrupted: closed at exit
    err = capsys.readouterr().err
    assert "sparse structure" in err
    assert "3/3" in err
    assert "structured latent" in err
    assert "other" not in err
    assert progress._open == {}


def test_without_a_terminal_stages_are_logged(caplog):
    caplog.set_level("INFO", "fast_sam3d")
    with ProgressBars(bars=False) as progress:
        for done in range(4):
            progress("ss", done, 3)
        progress("mesh", 0, 1)
        progress("mesh", 1, 1)
    assert "sparse structure: 3 steps" in caplog.text
    assert "mesh" not in caplog.text  # too short to be logged


def test_every_reported_stage_has_a_label():
    assert {stage for _, _, stage in adapt(StandIn()).timed()} - {"other"} <= set(STAGES)


def test_a_bar_shows_its_last_state_and_note(capsys):
    with Bar("training [x]", 5, 2, draw=True) as bar:
        bar.advance(note="loss 0.1")
        bar.advance()
    err = capsys.readouterr().err
    assert "training [x]" in err and "4/5" in err and "loss 0.1" in err


def test_without_a_terminal_lines_are_rate_limited(caplog, monkeypatch):
    caplog.set_level("INFO", "fast_sam3d")
    assert list(track([1, 2], "reading")) == [1, 2]
    assert "reading" not in caplog.text
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    assert list(track([1, 2], "reading")) == [1, 2]
    assert "reading: 1 of 2" in caplog.text and "reading: 2 of 2" in caplog.text


def test_objects_without_a_run_are_removed_from_the_total(capsys):
    with ObjectsProgress(5, bar=True) as progress:
        progress.begin()
        progress.without(2)
        progress.object_done("kitchen/3", "complete")
        assert progress.left == 2
    err = capsys.readouterr().err
    assert "1/3" in err and "kitchen/3" in err
