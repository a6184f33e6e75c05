"""The configuration that parsed flags and overrides stand for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fast_sam3d.cli.flags import METHODS, MODULES, PLAIN, SWITCHES
from fast_sam3d.config.compose import ACCELERATED, MODELS, PRESET, Config, load
from fast_sam3d.errors import ConfigError

log = logging.getLogger(__name__)

RUN_KEYS = ("pipeline.layout_postprocess", "pipeline.formats", "pipeline.depth_model", "pipeline.half_cache")
"""What may be overridden where every run of a command is to be alike."""


def config_from(args: argparse.Namespace, models: Sequence[str] = MODELS) -> Config:
    """Composes the configuration from parsed flags and overrides. A flag takes precedence over an override of its key.

    A flag for a setting that the default preset's method lacks, such as --slat_carving_ratio beside
    --enable_acceleration, picks the method that has it, and logs so.

    Args:
        models: that the command runs.

    Raises:
        ConfigError: as `fast_sam3d.config.compose.load`; a flag of a module that is off; flags that exclude each other.
    """
    alone = {module: getattr(args, names[0]) for module, (names, _) in MODULES.items()}
    preset = preset_of(args)
    # First, so that what the user picks for a module takes precedence.
    picks = [] if preset is None else [f"preset={preset}"]
    # A module that the preset accelerates already keeps the preset's method.
    on = _load(args, picks).modules if picks and any(alone.values()) else {}
    picks += [f"{module}={option}" for module, option in ACCELERATED.items() if alone[module] and not on.get(module)]
    overrides = [*picks, *args.overrides]
    for module, flags in METHODS.items():
        for flag in flags:
            if (value := getattr(args, flag.names[0])) is None:
                continue
            # As overrides, so that a value derived from another one follows; last, so that the flag takes precedence.
            edit = f"{flag.key}={value}"
            if error := _mistake([*overrides, edit]):
                pick = f"{module}={ACCELERATED[module]}"
                picked = any(text.split("=", 1)[0] in (module, "preset") for text in args.overrides)
                if preset is None or picked or _mistake([pick, edit]):
                    hint = "" if alone[module] else f" (--{MODULES[module][0][0]} picks the method that has it)"
                    raise ConfigError(f"--{flag.names[0]}: {error}{hint}") from error
                log.info("--%s picks %s: the method of preset=%s has no such setting", flag.names[0], pick, preset)
                overrides.insert(1, pick)
            overrides.append(edit)
    log_flags(args)
    config = _load(args, overrides, _values(args))
    if config.pipeline.model not in models:
        raise ConfigError(
            f"this command does not run {config.pipeline.model}, only {' and '.join(models)}: leave --model out"
        )
    return config


def pipeline_from(args: argparse.Namespace, keys: Sequence[str] = RUN_KEYS) -> Config:
    """The configuration of a command that compares methods, nothing accelerated, from its flags and overrides.

    Args:
        keys: that may be overridden.

    Raises:
        ConfigError: an override of another key.
    """
    for override in args.overrides:
        if override.partition("=")[0] not in keys:
            hint = ", and name methods and steps with --accelerate" if keys is RUN_KEYS else ""
            raise ConfigError(f"'{override}' does not hold for every run here: override {', '.join(keys)}{hint}")
    return _load(args, args.overrides, _values(args))


def preset_of(args: argparse.Namespace) -> str | None:
    """The preset of --preset or --enable_acceleration; None without either.

    Raises:
        ConfigError: there is no such preset, or the two flags, or an override, ask for different ones.
    """
    name: str | None = args.preset
    if name is None:
        return PRESET if getattr(args, "enable_acceleration", False) else None
    load([f"preset={name}"])
    if getattr(args, "enable_acceleration", False) and name != PRESET:
        raise ConfigError(f"--enable_acceleration means --preset {PRESET}, and --preset is {name}: give one of them")
    other = [text for text in getattr(args, "overrides", ()) if text.startswith("preset=") and text != f"preset={name}"]
    if other:
        raise ConfigError(f"--preset {name} and {other[0]} exclude each other: give one of them")
    return name


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The acceleration of each --preset, then of each --accelerate, as overrides. Raises ConfigError."""
    presets = [f"preset={name}" for name in args.preset or ()]
    for preset in presets:
        load([preset])
    return [*presets, *args.accelerate]


def log_flags(args: argparse.Namespace) -> None:
    """Logs the settings that the given flags of Fast-SAM3D's releases stand for."""
    given = getattr(args, "given", {})
    keys = {names[0]: f"{module}={ACCELERATED[module]}" for module, (names, _) in MODULES.items()}
    flags = [flag for module in METHODS.values() for flag in module]
    keys |= {flag.names[0]: f"{flag.key}={getattr(args, flag.names[0])}" for flag in flags}
    said = [f"{given[name]} is {key}" for name, key in keys.items() if name in given]
    if said:
        log.info("flags: %s", ", ".join(said))


def log_acceleration(config: Config) -> None:
    """Logs the preset, if one was named, and the method of each module that is on."""
    on = ", ".join(f"{module}={config.choices[module]}" for module in ACCELERATED if config.modules.get(module))
    preset = config.choices["preset"]
    if config.pipeline.model == "trellis" and preset != "off":  # it may have its own
        log.info("acceleration: preset %s", preset)
        return
    log.info("acceleration: %s", on if on and preset == "off" else f"preset {preset} ({on or 'every module is off'})")


def _values(args: argparse.Namespace) -> dict[str, Any]:
    """Configuration keys to the values of the flags that were given."""
    known = {**{f.names[0]: f.key for f in PLAIN}, **SWITCHES}
    return {key: value for name, key in known.items() if (value := getattr(args, name, None)) is not None}


def _load(args: argparse.Namespace, overrides: Sequence[str], values: Mapping[str, Any] | None = None) -> Config:
    """Composes; an error over a value that a flag has set begins with the flag."""
    try:
        return load(overrides, values)
    except ConfigError as error:
        flag = next((f.names[0] for f in PLAIN if values and f.key == error.key and f.key in values), None)
        if flag is None or getattr(args, flag, None) is None:
            raise
        raise ConfigError(f"--{flag}: {error}", error.key) from error


def _mistake(overrides: Sequence[str]) -> ConfigError | None:
    try:
        load(overrides)
    except ConfigError as error:
        return error
    return None
