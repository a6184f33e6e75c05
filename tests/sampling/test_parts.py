"""What every part of a method promises: defaults, limits, and whether several objects can be solved together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from fast_sam3d.config.packaged import resource
from fast_sam3d.sampling.method import PARTS, build_stage_method
from tests.sampling.reference import START, driven


def settings(stage: str, name: str) -> dict[str, Any]:
    """Of a shipped file, and of the one that it builds on."""
    file = OmegaConf.load(resource("configs") / stage / f"{name}.yaml")
    below = [settings(stage, base) for base in file.get("defaults", [])]
    loaded = OmegaConf.to_container(OmegaConf.merge(*({stage: part} for part in (*below, file))), resolve=True)
    return {key: value for key, value in loaded[stage].items() if key in PARTS}


NAMES = {stage: sorted(path.stem for path in (resource("configs") / stage).glob("*.yaml")) for stage in ("ss", "slat")}
FILES = {(stage, name): build_stage_method(settings(stage, name)) for stage in NAMES for name in NAMES[stage]}
MEASURED = {("path", "nodes"), ("aligned", "levels"), ("magnitude", "ratios"), ("weighted_multistep", "weights")}
"""Settings that are measured for a model, and so are written in each file."""


def test_a_setting_left_out_has_the_value_that_some_shipped_file_gives_it() -> None:
    written: dict[tuple[str, str], list[Any]] = {}
    for method in FILES.values():
        for part in method.parts:
            for field in dataclasses.fields(part):  # type: ignore[arg-type]
                written.setdefault((part.name, field.name), []).append(getattr(part, field.name))
    kinds = [kind for registry in PARTS.values() for kind in registry.values()]
    defaults = {(kind.name, f.name): f.default for kind in kinds for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    assert not MEASURED - set(defaults)
    unlike = {key for key, value in defaults.items() if key not in MEASURED and value not in written.get(key, [value])}
    assert unlike == {("live", "fallback")}  # the presets hold the layout where it cannot be evaluated alone


@pytest.mark.parametrize("name", [name for registry in PARTS.values() for name in registry])
def test_defaults_are_valid_and_settings_cannot_be_changed(name: str) -> None:
    kind = next(registry[name] for registry in PARTS.values() if name in registry)
    measured = {"aligned": {"levels": (2.0, 1.0)}, "magnitude": {"ratios": (1.0,)}}.get(name, {})
    part = kind(**measured)
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, getattr(part, field.name))
    assert part == kind(**measured) and hash(part) == hash(kind(**measured))
    with pytest.raises((AttributeError, TypeError)):
        part.unknown = 1  # type: ignore[attr-defined]


TOGETHER = sorted(name for (stage, name), method in FILES.items() if stage == "ss" and method.same_for_all_objects)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_batch_of_objects_is_solved_as_each_object_alone(name: str) -> None:
    """The second object moves a hundred times as fast as the first."""
    starts, speeds = np.stack([START, -3 * START]), np.array([[1.0], [100.0]])
    method = settings("ss", name)
    if "predict" in method:  # the toy has one leaf
        method["predict"] = method["predict"].get("shape", method["predict"])
    together, record, _ = driven(method, lambda x, t: speeds * np.sin(x + 9 * t), start=starts)
    for start, speed, result in zip(starts, speeds, together, strict=True):
        alone, one, _ = driven(method, lambda x, t, speed=speed: speed * np.sin(x + 9 * t), start=start)
        np.testing.assert_array_equal(result, alone)
        assert record.evaluated == one.evaluated


def test_objects_are_sampled_together_by_every_schedule_known_beforehand() -> None:
    """The others decide by the size of a change, or compute with all numbers of the state at once."""
    known = {"aligned", "dpm_solver", "foca", "guided_stride", "path", "release", "step_cache", "taylorseer", "unipc"}
    assert {*known, "off", "fast_sam3d", "guided_stride_fast", "path_fast"} == set(TOGETHER)
