"""Hostile overrides are refused by a sentence, by Hydra's way and by the one of `accelerate` with a mapping."""

from __future__ import annotations

import pytest

import fast_sam3d
from fast_sam3d.config.compose import load
from fast_sam3d.config.overrides import LONGEST, check_overrides
from fast_sam3d.errors import ConfigError
from tests.fakes import FakePipeline

PLAIN = {"ss": {"when": {"name": "stride", "stride": 4}}}
HOSTILE = {
    "digits": (["ss.when.stride=" + "9" * 5000], "more than 100 digits"),
    "digits of a key": (["ss.when." + "9" * 5000 + "=1"], "more than 100 digits"),
    "open brackets": (["ss.when.stride=" + "[" * 500], "nests more than 50 deep"),
    "closed brackets": (["ss.when.stride=" + "[" * 500 + "]" * 500], "nests more than 50 deep"),
    "mappings": (["ss.when=" + "{a:" * 60 + "1" + "}" * 60], "nests more than 50 deep"),
    "long": (["ss.when.stride=" + "x" * LONGEST], "more than 8192 characters"),
    "null character": (["ss.when.name=\0"], "a null character"),
    "half a surrogate pair": (["ss.when.name=\ud800"], "half of a surrogate pair"),
    "references": ([f"+ss.a{n}=${{ss.when}}${{ss.when}}" for n in range(9)], "more than 12 references"),
    "reference to itself": (["ss.when=${ss.when}"], "cannot be resolved"),
    "reference to nothing": (["ss.when=${nothing}"], "cannot be resolved"),
    "unclosed reference": (["ss.when=${"], "is not an override|not YAML|cannot be resolved|does not compose"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("way", ["compose", "accelerate"])
def test_hostile_overrides_are_refused_by_one_sentence(case, way):
    overrides, words = HOSTILE[case]
    with pytest.raises(ConfigError, match=words) as caught:
        if way == "compose":
            load(["ss=fast_sam3d", *overrides])
        else:
            fast_sam3d.accelerate(FakePipeline(), PLAIN, overrides=overrides)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("value", ["!!int x", "!!bool x", "!!timestamp x", "&a [*a]", "*a", "? [a]", "\x01"])
def test_values_that_are_not_yaml_are_refused_with_a_mapping(value):
    with pytest.raises(ConfigError, match=r"^the override 'ss\.when\.stride=.*: write key=value$"):
        fast_sam3d.accelerate(FakePipeline(), PLAIN, overrides=[f"ss.when.stride={value}"])


def test_ordinary_overrides_pass():
    path = "/home/" + "long name (1) [2]/" * 200 + "picture.png"
    clicks = "[" + ",".join(["[10,20]"] * 300) + "]"
    check_overrides([f"input.image_path='{path}'", f"input.click={clicks}", "seed=18446744073709551615", "preset=fast"])


@pytest.mark.parametrize("doubling", [12, 40])
def test_references_to_references_do_not_multiply(tmp_path, doubling):
    lines = ["a0: x"] + [f"a{n}: '${{a{n - 1}}}${{a{n - 1}}}'" for n in range(1, doubling)]
    file = tmp_path / "x.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 12 references"):
        fast_sam3d.accelerate(FakePipeline(), file)


def test_a_message_that_quotes_a_long_value_is_cut():
    with pytest.raises(ConfigError, match=r"^ss\.when is \[0, .* … .*: give a mapping") as caught:
        fast_sam3d.accelerate(FakePipeline(), {"ss": {"when": [0] * 5000}})
    assert len(str(caught.value)) < 1000
