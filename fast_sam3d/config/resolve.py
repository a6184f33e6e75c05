"""What `accelerate` is given (a preset, a mapping, a file, overrides) as one mapping of settings by module."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.config.catalogue import without_about
from fast_sam3d.config.compose import MODULES, PRESET, compose, group_options
from fast_sam3d.errors import ConfigError, suggest

__all__ = ["refuse_unknown", "resolve"]


def resolve(config: Any, preset: str | None, overrides: Sequence[str]) -> Mapping[str, Any]:
    """The configuration as {stage: mapping}."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides is the text {overrides!r}: give a list, [{overrides!r}]")
    for override in overrides:
        if not isinstance(override, str) or "=" not in override:
            raise ConfigError(f"{override!r} is not an override: write key=value, such as 'ss.when.stride=4'")
    if preset is not None and not isinstance(preset, str):
        raise ConfigError(f"preset is {preset!r}: give a name, such as 'default'")
    if config is not None and preset is not None:
        raise ConfigError("config and preset both say what to do: give one of them")
    if isinstance(config, str) and not (config.endswith((".yaml", ".yml")) or os.sep in config):
        config, preset = None, config
    other = next((text for text in overrides if text.startswith("preset=") and preset is not None), None)
    if other:
        raise ConfigError(f"the preset is {preset}, and the override {other} asks for another: give one of them")
    others = ("seed", "input", "output", "pipeline", "scene")
    for text in overrides:
        if text.lstrip("+").split("=")[0].split(".")[0] in others:
            raise ConfigError(
                f"the override {text} is no setting of an acceleration: run_object takes it (RunSettings)"
            )
    if config is None:
        return _from_preset(preset, overrides)
    if isinstance(config, (str, os.PathLike)):
        config = _read(Path(config))
    modules = getattr(config, "modules", None)  # fast_sam3d.config.compose.Config
    mapping = config if isinstance(config, Mapping) else modules
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"config is a {type(config).__name__}: give a mapping, the path of a YAML file, or a preset")
    return without_about(_plain(mapping, overrides))


def _from_preset(preset: str | None, overrides: Sequence[str]) -> Mapping[str, Any]:
    names = group_options()["preset"]
    if preset is not None and preset not in names:
        raise ConfigError(f"there is no preset '{preset}', nor a file of that name: {suggest(preset, names)}")
    tree, _ = compose([f"preset={preset or PRESET}", *overrides])
    return {module: tree[module] for module in MODULES}


def _read(path: Path) -> Any:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        return OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}): give the path of a YAML file") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error


def _plain(mapping: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Plain containers, interpolations resolved, overrides applied."""
    if not overrides and type(mapping) is dict:
        return mapping
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        tree = OmegaConf.merge(mapping, OmegaConf.from_dotlist([override.lstrip("+") for override in overrides]))
        return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"the configuration cannot be resolved: {str(error).splitlines()[0]}") from error


def refuse_unknown(settings: Mapping[str, Any], stages: Collection[str]) -> None:
    """Refuse a key that is neither a stage nor another part of the project's whole configuration."""
    others = [key for key in settings if key not in stages]
    known = compose()[0].keys() - set(MODULES) if others else set()
    for key in others:
        if key not in known:
            hint = ""
            if key in ("defaults", "when", "where", "predict"):
                hint = "; a file of configs/ is one part, and `fast-sam3d config ... > whole.yaml` writes a whole"
            elif key == "preset":
                hint = "; a preset is given by its name, accelerate(pipeline, 'fast')"
            raise ConfigError(f"there is no stage '{key}' to accelerate: {suggest(str(key), stages)}{hint}")
