"""Takes a schedule that `fast-sam3d tune` measured only on the model and samplers that it was measured on.

A file is a configuration as `accelerate` takes it, with one more key:

    calibrated: {fingerprint: {weights: ..., ss: {steps: 25, rescale_t: 3.0, ...}, slat: {...}}, evidence: {...},
                 levels: [{voxel_iou: 0.93, ss: {...}, slat: {...}}, ...]}

The presets `default` and `fast` take the file in the cache folder (`config.measured`) whose fingerprint is the
pipeline's. A `quality` takes another of its levels, which go from few calls to many.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from fast_sam3d.adapters import Adapter
from fast_sam3d.adapters.fingerprint import difference, fingerprint
from fast_sam3d.config.measured import PRESETS, files_of
from fast_sam3d.config.methods import build_methods
from fast_sam3d.config.resolve import CALIBRATED, Asked
from fast_sam3d.documents import read_yaml
from fast_sam3d.errors import ConfigError, FastSam3dError

__all__ = ["Chosen", "choose"]

log = logging.getLogger(__name__)

_SAMPLED: Final = ("ss", "slat")


class Chosen(NamedTuple):
    """Settings to install.

    Args:
        modules: by module.
        source: the file of a measured schedule; None: the settings are of none.
    """

    modules: Mapping[str, Any]
    source: str | None = None


def choose(adapter: Adapter, asked: Asked) -> Chosen:
    """The settings for a pipeline: those that were asked for, or the schedule measured on it.

    Raises:
        ConfigError: settings that were measured on another model or sampler; a quality that no level has.
    """
    if CALIBRATED in asked.modules:
        own = {name: value for name, value in asked.modules.items() if name != CALIBRATED}
        facts, measured = asked.modules[CALIBRATED], _measured(asked.modules)
        name = asked.source or "these settings"
        if measured is None:
            raise ConfigError(f"{name}: {CALIBRATED}.fingerprint is missing: run `fast-sam3d tune` again")
        if other := difference(measured, fingerprint(adapter, asked.steps)):
            raise ConfigError(
                f"{name}: this path was measured with {other}: run `fast-sam3d tune` on this pipeline, or use"
                " preset=default"
            )
        return Chosen(_of_quality(own, facts, asked.quality, name), name)
    if asked.preset in PRESETS and asked.use_calibrated and all(map(asked.shipped, _SAMPLED)):
        found = _find(adapter, asked.preset, asked.steps)
        if found is not None:
            path, modules = found
            log.info("preset %s takes the schedule measured on this model, %s (use_calibrated=false leaves it out)",
                     asked.preset, path)  # fmt: skip
            modules = _of_quality(modules, modules[CALIBRATED], asked.quality, str(path))
            return Chosen({**asked.modules, **{stage: modules[stage] for stage in _SAMPLED}}, str(path))
    if asked.quality is not None:
        raise ConfigError(
            "quality chooses among the schedules that `fast-sam3d tune` measured on this model and sampler, and these"
            " settings have none: run it and use preset default or fast, or leave quality out"
        )
    return Chosen(asked.modules)


def _of_quality(
    modules: Mapping[str, Any], facts: Mapping[str, Any], quality: float | None, name: str
) -> Mapping[str, Any]:
    """The settings with the first level's methods whose voxel IoU is at least the quality; None: unchanged."""
    if quality is None:
        return modules
    try:
        levels = [(float(level["voxel_iou"]), {stage: level[stage] for stage in _SAMPLED}) for level in facts["levels"]]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {CALIBRATED}.levels is missing or damaged: run `fast-sam3d tune` again") from error
    for measured, methods in levels:
        if measured >= quality:
            log.info("quality %g takes the schedule with a voxel IoU of %.3f to the baseline", quality, measured)
            return {**modules, **methods}
    closest = max((measured for measured, _ in levels), default=0.0)
    raise ConfigError(
        f"quality is {quality:g}, and no schedule measured on this model has that voxel IoU (the closest:"
        f" {closest:.3f}): ask for less, or run `fast-sam3d tune --quality {quality:g}`"
    )


def _find(
    adapter: Adapter, preset: str, steps: Mapping[str, int | None] | None
) -> tuple[Path, Mapping[str, Any]] | None:
    """The newest file for a preset and a pipeline."""
    files = files_of(preset)
    if not files:
        return None
    own = fingerprint(adapter, steps)
    near = None
    for path in files:
        try:
            content: Any = read_yaml(path, omegaconf=True)
        except FastSam3dError as error:
            log.warning("a measured schedule is skipped: %s", error)
            continue
        measured = _measured(content)
        if measured is None:
            continue
        if other := difference(measured, own):
            if near is None and not difference({**own, "weights": measured.get("weights")}, own):
                near = path, other
            continue
        try:
            build_methods({stage: content[stage] for stage in _SAMPLED}, adapter.stages)
        except (ConfigError, KeyError) as error:
            log.warning("the measured schedule %s is skipped: %s", path, error)
            continue
        return path, content
    if near is not None:
        log.info("preset %s as shipped: the schedule %s was measured on this model with %s", preset, *near)
    return None


def _measured(content: Any) -> Mapping[str, Any] | None:
    """The fingerprint in the content of a file, None where there is none."""
    for key in (CALIBRATED, "fingerprint"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else None
