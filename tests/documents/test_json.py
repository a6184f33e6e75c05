"""Reading JSON: what is refused, by which sentence."""

from __future__ import annotations

import json

import pytest

from fast_sam3d.documents import parse_json, read_json
from fast_sam3d.documents.limits import DEPTH, DIGITS
from fast_sam3d.errors import InputError, OutputError

HOSTILE = {
    "very deep": ("[" * 100_000, "more than 50 deep"),
    "deep and closed": ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "more than 50 deep"),
    "deep mappings": ('{"a":' * 60 + "1" + "}" * 60, "more than 50 deep"),
    "many digits": ("9" * 5000, "a whole number of more than 100 digits"),
    "null character": ('{"a": ["\\u0000"]}', "a null character"),
    "null character in a key": ('{"\\u0000": 1}', "a null character"),
    "half a surrogate pair": ('["\\ud800"]', "half of a surrogate pair"),
    "many values": ("[" + "[]," * 11_000_000, "needs more than 1 GB of memory"),
    "too large": ("[" + " " * (40 << 20) + "]", "more than 32 MB"),
    "cut off": ('{"a": 1,\n"b"', "line 2, column 4: Expecting ':' delimiter"),
    "empty": ("", "line 1, column 1"),
    "a web page": ("<!doctype html>", "line 1, column 1"),
    "not UTF-8": (b'"\xff"', "not text in UTF-8 (at byte 1)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_refused_by_one_sentence(case):
    text, words = HOSTILE[case]
    with pytest.raises(OutputError) as caught:
        parse_json(text, "x.json", error=OutputError, advice="delete it")
    message = str(caught.value)
    assert words in message
    assert message.startswith("x.json ") and message.endswith(": delete it") and "\n" not in message


@pytest.mark.parametrize("text", [
    "1e5", '{"a": [1, 2.5, null, true, "x"]}', '"\\ud83d\\ude00"', '"\\\\u0000"', "[NaN, Infinity]", '{"a": 1, "a": 2}',
    '"\\udcff.png"', "[" * DEPTH + "]" * DEPTH, "9" * DIGITS, f'"{"9" * 5000}"', f"[1.{'9' * 500}]",
])  # fmt: skip
def test_all_else_is_read_as_json_does(text):
    assert repr(parse_json(text, "x.json")) == repr(json.loads(text))


def test_the_limit_of_bytes_is_the_callers(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("\ufeff[1, 2, 3]", encoding="utf-8")
    assert read_json(path) == [1, 2, 3]
    with pytest.raises(InputError, match=r"x\.json has more than 0 KB: keep one picture$"):
        read_json(path, error=InputError, advice="keep one picture", most_bytes=5)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"^the record cannot be read \(No such file or directory\): run it again$"):
        read_json(tmp_path / "x.json", error=OutputError, advice="run it again", name="the record")
