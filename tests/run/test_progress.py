"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import pytest

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


def lines_on_screen(written: str) -> list[str]:
    """What a terminal shows of a text with carriage returns and erased lines."""
    shown = [line.rsplit("\x1b[2K", 1)[-1].rsplit("\r", 1)[-1] for line in written.replace("\r\n", "\n").split("\n")]
    return [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", line).rstrip() for line in shown]


def writers(stream: TextIO) -> dict[str, Callable[[str], object]]:
    """Ways in which the stock code and its libraries write a line; some have held the stream since before the bar."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    record = logging.LogRecord("stock", logging.INFO, "", 0, "", None, None)

    def log(text: str) -> None:
        record.msg = text
        handler.emit(record)

    return {
        "logging": log,
        "loguru": lambda text: stream.write(f"{text}\n"),  # its _simple_sinks.StreamSink
        "print": lambda text: print(text, file=stream),
        "in pieces": lambda text: [stream.write(piece) for piece in (*text, "\n")],
        "warnings": lambda text: sys.stderr.write(warnings.formatwarning(text, UserWarning, "", 1, "") + "\n"),
        "tqdm": lambda text: [stream.write(piece) for piece in ("\r 50%", f"\r{text}", "\n")],
        "in colour": lambda text: stream.write(f"\x1b[32m{text}\x1b[0m\n"),
    }


@pytest.mark.parametrize("way", list(writers(sys.stderr)))
def test_lines_of_other_code_appear_above_the_bar(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stderr
    write = writers(stream)[way]
    with Bar("steps", 4, draw=True) as bar:
        bar.update(1)
        write(f"a line that is longer than the terminal is wide, of {'x' * 90} and [b]no markup[/b]")
        bar.update(4)
    assert "write" not in vars(stream)
    write("after the bar")
    shown = lines_on_screen(capsys.readouterr().err)
    said = [line for line in shown if "a line that" in line]
    assert len(said) == 1 and said[0].endswith("x and [b]no markup[/b]") and "steps" not in said[0]
    bars = [line for line in shown if "steps" in line]
    assert len(bars) == 1 and "4/4" in bars[0] and shown.index(bars[0]) > shown.index(said[0])
    assert shown[-2 if way != "warnings" else -3].endswith("after the bar")


def test_nested_bars_restore_the_stream_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stderr
    outer, inner = Bar("outer", 2, draw=True), Bar("inner", 2, draw=True)
    print("a line", file=stream)
    outer.close()
    stream.write("a rest")
    assert "write" in vars(stream)
    inner.close()
    inner.close()
    assert "write" not in vars(stream)
    assert "a rest" in capsys.readouterr().err


def test_standard_output_is_left_alone_unless_it_is_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("steps", 2, draw=True):
        print("to a file")
        assert "write" not in vars(sys.stdout)
    captured = capsys.readouterr()
    assert captured.out == "to a file\n" and "to a file" not in captured.err


def test_the_bar_survives_an_error_in_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stderr
    with pytest.raises(ValueError, match="stop"), Bar("steps", 2, draw=True):
        raise ValueError("stop")
    assert "write" not in vars(stream)
