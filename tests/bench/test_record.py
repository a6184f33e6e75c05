"""Rows on disk, and resuming from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fast_sam3d.bench.record import Record, without_nan
from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.digests import file_digest

SETTINGS = {"checkpoint": "a", "variants": [{"steps": 25}]}


def test_added_rows_are_read_again(tmp_path: Path) -> None:
    first = Record(tmp_path, SETTINGS)
    first.add(7, [{"seed": 7, "f1": 0.5}, {"seed": 7, "f1": math.nan}])
    first.add(9, [{"seed": 9, "f1": 0.25}])
    again = Record(tmp_path, SETTINGS)
    assert list(again.rows) == [7, 9]
    assert again.rows[7][0] == {"seed": 7, "f1": 0.5}
    assert math.isnan(again.rows[7][1]["f1"])
    assert again.rows[9] == [{"seed": 9, "f1": 0.25}]
    assert "NaN" not in first.path.read_text()


def test_rows_of_other_settings_are_refused_until_overwritten(tmp_path: Path) -> None:
    first = Record(tmp_path, SETTINGS)
    first.add(7, [{"seed": 7}])
    with pytest.raises(OutputError, match="other settings.*--overwrite"):
        Record(tmp_path, {**SETTINGS, "checkpoint": "b"})
    assert list(Record(tmp_path, SETTINGS).rows) == [7]
    other = Record(tmp_path, {**SETTINGS, "checkpoint": "b"}, fresh=True)
    assert not other.rows and not first.path.exists()


def test_an_incomplete_line_is_measured_again(tmp_path: Path) -> None:
    first = Record(tmp_path, SETTINGS)
    first.add(7, [{"seed": 7}])
    first.add(9, [{"seed": 9}])
    first.path.write_text(first.path.read_text()[:-6])
    (tmp_path / ".rows.csv.0123abcd.tmp").write_text("of a killed run")
    again = Record(tmp_path, SETTINGS)
    assert list(again.rows) == [7]
    again.add(9, [{"seed": 9}])
    assert [json.loads(line)[0] for line in again.path.read_text().splitlines()] == [7, 9]
    assert list(tmp_path.iterdir()) == [again.path]


def test_overwriting_discards_rows(tmp_path: Path) -> None:
    Record(tmp_path, SETTINGS).add(7, [{"seed": 7}])
    assert not Record(tmp_path, SETTINGS, fresh=True).rows
    assert not Record(tmp_path, SETTINGS).rows


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="removed"):
        Record(tmp_path / "absent", SETTINGS)


@pytest.mark.parametrize("line", [b'[7, [{"seed": 8}], "0"]', b"[" * 100_000, b"\xff", b"null", b'[7, [{"seed": 7}]]'])
def test_a_changed_line_is_measured_again(tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    first = Record(tmp_path, SETTINGS)
    first.add(7, [{"seed": 7}])
    first.add(9, [{"seed": 9, "f1": 0.5}])
    lines = first.path.read_bytes().splitlines()
    first.path.write_bytes(b"\n".join([line, lines[1].replace(b"0.5", b"0.6"), lines[0], b""]))
    assert Record(tmp_path, SETTINGS).rows == {7: [{"seed": 7}]}
    assert "2 of the lines" in caplog.text
    assert first.path.read_bytes() == lines[0] + b"\n"


def test_rows_that_are_taken_away_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    first = Record(tmp_path, SETTINGS)
    first.path.unlink()
    with pytest.raises(OutputError, match=r"\.jsonl was removed or replaced .*: run the command again"):
        first.add(7, [{"seed": 7}])
    assert not first.path.exists()


def test_strict_json() -> None:
    tree = {"a": (1.0, math.nan), "b": [{"c": math.inf, "d": "nan", "e": 3}]}
    assert without_nan(tree) == {"a": [1.0, None], "b": [{"c": None, "d": "nan", "e": 3}]}


def test_a_digest_depends_on_names_and_contents(tmp_path: Path) -> None:
    def digest() -> str:
        return file_digest(tmp_path.iterdir(), tmp_path)

    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"3")
    first = digest()
    assert first == digest()
    (tmp_path / "b").rename(tmp_path / "c")
    renamed = digest()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"23")
    assert len({first, renamed, digest()}) == 3


def test_record_without_a_row_is_in_nobodys_way(tmp_path):
    Record(tmp_path, {"a": 1})
    Record(tmp_path, {"a": 2}).add(1, [{"x": 1}])
    assert Record(tmp_path, {"a": 2}).rows == {1: [{"x": 1}]}
