"""What `accelerate` is given (a preset, a mapping, a file, overrides) as one mapping of settings by module."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fast_sam3d.config.catalogue import without_about
from fast_sam3d.config.compose import MODULES, PRESET, Config, compose, group_options
from fast_sam3d.config.overrides import check_overrides, shown
from fast_sam3d.config.read import Reader
from fast_sam3d.documents import parse_yaml, read_yaml
from fast_sam3d.errors import ConfigError, first_line, suggest

__all__ = ["CALIBRATED", "Asked", "own_modules", "refuse_unknown", "resolve"]

CALIBRATED: Final = "calibrated"
"""The key of a file of `fast-sam3d tune` that holds its fingerprint and evidence; see `config.calibrated`."""


@dataclass(frozen=True)
class Asked:
    """What a caller of `accelerate` asked for.

    Args:
        modules: settings by module, and CALIBRATED for a file of `tune`.
        preset: the name of the preset that they are of; None: of none.
        composed: the name of the preset that was composed in its place, for another model; None: itself.
        use_calibrated: whether a schedule measured on the pipeline may replace a preset's.
        steps: of each stage's solves; None: the pipeline's own.
        source: the file that they are from, for messages.
        quality: see `fast_sam3d.config.compose.Config`.
    """

    modules: Mapping[str, Any]
    preset: str | None = None
    use_calibrated: bool = True
    steps: Mapping[str, int] | None = None
    source: str = ""
    quality: float | None = None
    composed: str | None = None

    def shipped(self, module: str) -> bool:
        """Whether nothing of the preset's settings of a module was overridden."""
        if self.preset is None:
            return False
        return _same(self.modules.get(module), compose([f"preset={self.composed or self.preset}"])[0][module])


def resolve(
    config: Any, preset: str | None, overrides: Sequence[str], presets: Mapping[str, str] = MappingProxyType({})
) -> Asked:
    """What a preset, a mapping, a file or a whole configuration asks for, with overrides.

    Args:
        presets: of the pipeline's adapter, the preset that is composed in place of another.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides is the text {overrides!r}: give a list, [{overrides!r}]")
    for override in overrides:
        if not isinstance(override, str) or "=" not in override:
            raise ConfigError(f"{override!r} is not an override: write key=value, such as 'ss.when.stride=4'")
    check_overrides(overrides)
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
        return _from_preset(preset, overrides, presets)
    source = ""
    if isinstance(config, (str, os.PathLike)):
        from omegaconf import OmegaConf

        source, config = os.fspath(config), OmegaConf.create(read_yaml(Path(config), omegaconf=True))
        if not config:
            raise ConfigError(f"{source} is empty: give settings (`fast-sam3d config` prints some), or a preset")
    if isinstance(config, Config):
        steps = {"ss": config.pipeline.ss_steps, "slat": config.pipeline.slat_steps}
        name = config.choices.get("preset")
        asked = Asked(config.modules, name, config.use_calibrated, steps, quality=config.quality)
        if name is not None and name in presets:
            own, _ = compose([f"preset={presets[name]}"])
            modules = {key: own[key] if asked.shipped(key) else value for key, value in config.modules.items()}
            asked = replace(asked, modules=modules, composed=presets[name])
        return replace(asked, modules=without_about(_plain(asked.modules, overrides)))
    if not isinstance(config, Mapping):
        raise ConfigError(f"config is a {type(config).__name__}: give a mapping, the path of a YAML file, or a preset")
    plain = without_about(_plain(config, overrides))
    return Asked(plain, source=source, quality=_quality(plain) if "quality" in plain else None)


def own_modules(config: Config) -> Mapping[str, Any]:
    """The settings of a configuration by module, with the model's own preset in place of another."""
    if config.pipeline.model == "sam3d":
        return config.modules
    from fast_sam3d.adapters import presets_of

    return resolve(config, None, (), presets_of(config.pipeline.model)).modules


def _from_preset(preset: str | None, overrides: Sequence[str], presets: Mapping[str, str]) -> Asked:
    names = group_options()["preset"]
    if preset is not None and preset not in names:
        raise ConfigError(f"there is no preset '{preset}', nor a file of that name: {suggest(preset, names)}")
    name = next(
        (text[len("preset=") :] for text in reversed(overrides) if text.startswith("preset=")), preset or PRESET
    )
    rest = [text for text in overrides if not text.startswith("preset=")]
    tree, _ = compose([f"preset={presets.get(name, name)}", *rest])
    modules = {module: tree[module] for module in MODULES}
    use = Reader(tree).boolean("use_calibrated")
    return Asked(modules, name, use, quality=_quality(tree), composed=presets.get(name))


def _same(first: Any, second: Any) -> bool:
    """Whether two trees of settings are equal, whatever their containers are."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def _quality(tree: Mapping[str, Any]) -> float | None:
    read = Reader(tree)
    return read.optional("quality", read.share)


def _plain(mapping: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Plain containers, interpolations resolved, overrides applied."""
    if not overrides and type(mapping) is dict:
        return mapping
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for override in overrides:
        parse_yaml(override.split("=", 1)[1], f"the override {shown(override)}", advice="write key=value")
    try:
        tree = OmegaConf.merge(mapping, OmegaConf.from_dotlist([override.lstrip("+") for override in overrides]))
        return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, YAMLError, LookupError, RecursionError) as error:
        raise ConfigError(f"the configuration cannot be resolved: {first_line(error)}") from error


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
