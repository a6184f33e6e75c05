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
    again = Record(tmp_path, SETTINGS)
    assert list(again.rows) == [7]
    again.add(9, [{"seed": 9}])
    assert [json.loads(line)[0] for line in again.path.read_text().splitlines()] == [7, 9]


def test_overwriting_discards_rows(tmp_path: Path) -> None:
    Record(tmp_path, SETTINGS).add(7, [{"seed": 7}])
    assert not Record(tmp_path, SETTINGS, fresh=True).rows
    assert not Record(tmp_path, SETTINGS).rows


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Record(tmp_path / "absent", SETTINGS)


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
