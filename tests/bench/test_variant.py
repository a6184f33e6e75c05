"""Variants from overrides, and overrides that a bench refuses."""

from __future__ import annotations

import pytest

from fast_sam3d.bench.variant import method_of, variant_of
from fast_sam3d.config.compose import load
from fast_sam3d.errors import ConfigError


def test_modules_steps_and_seed_are_read():
    variant = variant_of("ss=fast_sam3d ss.when.stride=4 pipeline.slat_steps=9 seed=7")
    assert (variant.steps, variant.slat_steps, variant.seed) == (25, 9, 7)
    assert variant.config["ss"]["when"]["stride"] == 4 and not variant.config["slat"]
    assert variant_of("").config is None


def test_variant_is_named_after_its_method():
    method = method_of("ours", "preset=default", load([]))
    assert method.name == "ours" and method.config == variant_of("preset=default").config
    assert method_of("fewer", "pipeline.ss_steps=24", load([])).steps == 24


def test_methods_are_read_from_files_as_accelerate_takes_them(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ss: {when: {name: stride, stride: 5}}\nmesh: off\ncalibrated: {fingerprint: {}}")
    method = method_of("mine", str(path), load([]))
    assert (method.name, method.steps, method.config["ss"]["when"]["stride"]) == ("mine", 25, 5)
    assert variant_of(str(path)).config["calibrated"] == {"fingerprint": {}}, "accelerate checks it"
    path.write_text("mesh: {}")
    with pytest.raises(ConfigError, match=r"method 'mine': .*mine.yaml switches nothing on"):
        method_of("mine", str(path), load([]))
    path.write_text("ss: {when: {name: strid}}")
    with pytest.raises(ConfigError, match="method 'mine'.*strid"):
        method_of("mine", str(path), load([]))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("ss=fast", "method 'x': ss has no option 'fast'"),
        ("ss=fast_sam3d ss.where.name=saliency", "method 'x': ss.where"),
        ("ss=fast_sam3d seed=7", "method 'x' sets a seed"),
        ("ss=fast_sam3d pipeline.formats=[mesh]", "changes more than how"),
        ("ss=fast_sam3d pipeline.tag=hf", "changes more than how"),
        ("pipeline.ss_steps=25", "switches nothing on"),
        ("", "switches nothing on"),
    ],
)
def test_invalid_methods_are_refused_by_name(overrides, says):
    with pytest.raises(ConfigError, match=says):
        method_of("x", overrides, load([]))
