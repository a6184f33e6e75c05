"""Reading YAML: what is refused, by which sentence, and that all else is read as PyYAML and OmegaConf read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from fast_sam3d.documents import CONFIG_BYTES, parse_yaml, read_yaml
from fast_sam3d.documents.limits import DEPTH, DIGITS, VALUES
from fast_sam3d.errors import CheckpointError, ConfigError


def _aliases_of_aliases() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines)


def _nested_by_aliases(levels: int) -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, levels))


HOSTILE = {
    "aliases of aliases": (_aliases_of_aliases(), "20,000 values, those of its aliases included, at line 5"),
    "aliases of a long text": (f"a: &a {'x' * 9000}\nb: [{'*a, ' * 500}]", "20,000 values"),
    "merged aliases": ("a: &a {x: 1, y: 2}\n" + f"b: {{<<: [{'*a, ' * 9_000}]}}", "20,000 values"),
    "many values": (f"[{'1,' * VALUES}]", "20,000 values"),
    "refers to itself": ("a: &a [1, *a]", "refers to itself at line 1"),
    "merges itself": ("a: &a\n  <<: *a", "refers to itself at line 2"),
    "deep flow": ("[" * 200, "more than 50 deep at line 1"),
    "deep blocks": ("- " * 2000, "more than 50 deep at line 1"),
    "deep mappings": ("\n".join(" " * n + f"k{n}:" for n in range(DEPTH + 2)) + " 1", "more than 50 deep"),
    "deep by aliases": (_nested_by_aliases(200), "more than 50 deep at line 49"),
    "many digits": (f"a: {'9' * 5000}", "a whole number of more than 100 digits at line 1"),
    "many hexadecimal digits": (f"a: 0x{'f' * 5000}", "a whole number of more than 100 digits"),
    "many digits with a tag": (f"a: !!int '{'9' * 5000}'", "a whole number of more than 100 digits"),
    "sexagesimal overflow": (f"a: {'1:' * 3000}1.5", "is not YAML"),
    "no integer": ("a: !!int x", "is not YAML (invalid literal"),
    "empty integer": ("a: !!int ''", "a value does not fit its tag"),
    "no boolean": ("a: !!bool x", "a value does not fit its tag"),
    "no timestamp": ("a: !!timestamp zz", "a value does not fit its tag"),
    "code": ("a: !!python/object/apply:os.system [true]", "line 1, column 4: could not determine a constructor"),
    "unhashable key": ("a: 1\n? [b]\n: 2", "line 2, column 3: found unhashable key"),
    "null character": ('a: "\\0"', "a null character"),
    "half a surrogate pair": ('a: "\\ud800"', "half of a surrogate pair"),
    "control character": ("a: \x01", "special characters are not allowed"),
    "unclosed": ("a: {", "line 1, column 5"),
    "two documents": ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
    "tab": ("a:\n\tb: 1", "line 2, column 1"),
    "too large": ("x" * (CONFIG_BYTES + 1), "has more than 256 KB"),
    "not UTF-8": (b"a: \xff", "is not text in UTF-8 (at byte 3)"),
}
OF_OMEGACONF = {
    "null key": ("null: 1", "Incompatible key type"),
    "key twice": ("a: 1\na: 2", "line 2, column 1: found duplicate key a"),
    "one number": ("5", "it is neither a mapping nor a list"),
    "a set": ("a: !!set {b}", "is not a supported primitive type"),
    "unclosed reference": ("a: ${b", "is not YAML"),
    "many references": ("".join(f"a{n}: ${{a}}${{a}}\n" for n in range(9)), "more than 12 references"),
    "references and many values": ("a: ${b}\nb: [" + "1," * 3000 + "]", "references (${...}) and more than 2,000 val"),
    "a long reference": ("a: ${" + "b" * 600 + "}", "a reference of more than 500 characters at line 1"),
}


@pytest.mark.parametrize("omegaconf", [False, True], ids=["pyyaml", "omegaconf"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_refused_by_one_sentence(case, omegaconf):
    text, words = HOSTILE[case]
    with pytest.raises(CheckpointError) as caught:
        parse_yaml(text, "x.yaml", error=CheckpointError, advice="restore it", omegaconf=omegaconf)
    message = str(caught.value)
    assert words in message
    assert message.startswith("x.yaml ") and message.endswith(": restore it") and "\n" not in message


@pytest.mark.parametrize("case", OF_OMEGACONF)
def test_what_omegaconf_does_not_take_is_refused(case):
    text, words = OF_OMEGACONF[case]
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml", omegaconf=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)


ORDINARY = [
    "", "a: 1e-3", "a: 1_000", "a: 0o17\nb: 017\nc: 0x1f\nd: 1:30", "a: 2024-01-01", "a: on\nb: ~\nc: .inf",
    "[1, 2.5, x]", "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]", "a: ${b.c}\nb: {c: 1}", "a: |\n  two\n  lines\n",
    "1: x\ntrue: y", "a: !!str 1", "\ufeffa: é", f"a: {'9' * DIGITS}", f"{'[' * DEPTH}{']' * DEPTH}",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_all_else_is_read_as_pyyaml_and_omegaconf_do(text):
    assert parse_yaml(text.encode(), "x.yaml") == yaml.safe_load(text)
    assert parse_yaml(text, "x.yaml", omegaconf=True) == OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def test_a_key_that_occurs_twice_keeps_its_last_value():
    assert parse_yaml("a: 1\na: 2", "x.yaml") == {"a": 2}


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "null character", "too long a name"])
def test_what_is_no_readable_file_is_refused(tmp_path, kind):
    path = tmp_path / "x.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "null character":
        path = tmp_path / "x\0.yaml"
    elif kind == "too long a name":
        path = tmp_path / ("x" * 3000)
    with pytest.raises(ConfigError, match=r"cannot be read \(.*\): give a configuration$"):
        read_yaml(path)


def test_a_file_of_any_size_is_read_up_to_the_limit(tmp_path):
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"^the suite x has more than 256 KB: "):
        read_yaml(path, name="the suite x")
