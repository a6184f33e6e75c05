"""What every part of a method promises: defaults, limits, and whether several objects can be solved together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from fast_sam3d.config.packaged import resource
from fast_sam3d.errors import ConfigError
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


LIMITS: dict[str, dict[str, tuple[float, float | None]]] = {
    "adams_bashforth": {"order": (1, 4)},
    "adaptive": {"threshold": (-1.0, 2.0)},
    "aligned": {"evaluations": (1, None)},
    "anchored": {"beta": (0.0, 1.0)},
    "budget": {"threshold": (1e-6, 1e6), "warmup": (2, None), "momentum": (0.0, 0.999)},
    "chebyshev": {"terms": (1, 12), "ridge": (0.0, 1e6), "blend": (0.0, 1.0)},
    "deis": {"order": (1, 3)},
    "dmd": {"least": (3, None), "window": (4, None), "cutoff": (1e-12, 0.5), "order": (1, 2), "stride": (1, None)},
    "guided_stride": {"stride": (1, None), "late": (1, None), "warmup": (1, None)},
    "hermite": {"order": (1, 2), "sigma": (1e-3, 10.0), "stride": (1, None)},
    "live": {"ahead": (0.0, 0.9)},
    "magnitude": {"threshold": (1e-9, 1e6), "longest": (1, None), "warmup": (1, None)},
    "mean_flow": {"window": (1, None)},
    "path": {"guided": (0, 25), "rescale_t": (1e-3, 1e3)},
    "random": {"keep": (1e-3, 1.0), "seed": (0, None), "warmup": (1, None)},
    "reuse": {"interval": (1, None), "warmup": (1, None)},
    "saliency": {"keep": (1e-3, 1.0), "gamma": (0.0, 100.0), "cutoff": (0.0, 0.5), "warmup": (1, None)},
    "stride": {"stride": (1, None), "warmup": (1, None)},
    "taylor": {"order": (0, 2)},
    "tome": {"merge": (0.0, 0.875), "warmup": (1, None)},
    "widening": {"first": (1.0, 1000.0), "growth": (0.0, 1000.0), "warmup": (1, None)},
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in LIMITS.items() for key in keys])
def test_a_setting_is_accepted_up_to_both_ends_and_not_beyond(name: str, key: str) -> None:
    kind = next(registry[name] for registry in PARTS.values() if name in registry)
    measured = {"aligned": {"levels": (2.0, 1.0)}, "magnitude": {"ratios": (1.0,)}}.get(name, {})
    low, high = LIMITS[name][key]
    for end, sign in ((low, -1), (high, 1)):
        if end is not None:
            assert getattr(kind(**measured, **{key: end}), key) == end
            beyond = end + sign if isinstance(end, int) else float(np.nextafter(end, sign * np.inf))
            with pytest.raises(ConfigError, match=f"{key} is"):
                kind(**measured, **{key: beyond})


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
    known = {
        "aligned",
        "dpm_solver",
        "fast_trellis",
        "foca",
        "guided_stride",
        "path",
        "release",
        "step_cache",
        "taylorseer",
        "unipc",
    }
    assert {*known, "off", "fast_sam3d", "guided_stride_fast", "path_fast", "trellis", "trellis_fast"} == set(TOGETHER)
