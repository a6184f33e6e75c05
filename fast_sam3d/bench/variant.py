"""One way to run a pipeline, described by overrides of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import MODULES, Config, check_methods, load
from fast_sam3d.config.methods import build_methods
from fast_sam3d.config.resolve import own_modules
from fast_sam3d.documents import read_yaml
from fast_sam3d.errors import ConfigError

STEPS = 25
NOISE_SEED = 42


@dataclass(frozen=True)
class Variant:
    """One way to run the pipeline: steps of both stages, noise seed, and an acceleration config or None.

    `slat_steps` None are as many as `steps`. `given_depth` passes the picture's true pointmap; without it the
    pipeline guesses one.
    """

    name: str
    steps: int = STEPS
    slat_steps: int | None = None
    seed: int = NOISE_SEED
    config: Mapping[str, Any] | None = None
    given_depth: bool = True


def variant_of(overrides: str, name: str | None = None, model: str = "sam3d") -> Variant:
    """The variant that overrides, separated by blanks, describe: modules, steps and seed.

    Args:
        overrides: such as "ss=fast_sam3d slat=off" or, as a control, "pipeline.ss_steps=10"; may change nothing. Or
            the path of a YAML file as `accelerate` takes it, such as one of `fast-sam3d tune`.
        name: None takes the overrides.
        model: of `config.settings.MODELS`, which may have presets of its own in place of some.

    Raises:
        ConfigError: they do not compose, or a method does not fit its stage.
    """
    name = overrides if name is None else name
    return _of_file(overrides, name) if _is_file(overrides) else _variant(_checked(overrides, model), name)


def method_of(name: str, overrides: str, plain: Config) -> Variant:
    """The variant of a bench: as `variant_of`, but only what makes it fast may be overridden, and something must be.

    Args:
        plain: the configuration without overrides, of the same model.

    Raises:
        ConfigError: as there, with the method's name; overrides that a bench sets itself, or that change nothing.
    """
    try:
        if _is_file(overrides):
            return _of_file(overrides, name)
        given = _checked(overrides, plain.pipeline.model)
    except ConfigError as error:
        raise ConfigError(f"method '{name}': {error}") from error
    variant = _variant(given, name)
    if given.seed != plain.seed:
        raise ConfigError(f"method '{name}' sets a seed, and the bench runs every method on its own: leave it out")
    steps = replace(given.pipeline, ss_steps=plain.pipeline.ss_steps, slat_steps=plain.pipeline.slat_steps)
    if (given.input, given.output, steps) != (plain.input, plain.output, plain.pipeline):
        raise ConfigError(
            f"method '{name}' changes more than how it is computed: leave ss, slat, mesh, exact, preset,"
            " pipeline.ss_steps and pipeline.slat_steps, and give the rest as flags"
        )
    if variant.config is None and given.pipeline == plain.pipeline:
        raise ConfigError(
            f"method '{name}' ({overrides!r}) switches nothing on: give a preset or a module, preset=fast_sam3d, or for"
            " a control other steps, pipeline.ss_steps=10"
        )
    return variant


def _is_file(overrides: str) -> bool:
    return overrides.endswith((".yaml", ".yml")) and "=" not in overrides


def _of_file(path: str, name: str) -> Variant:
    """Whether a measured schedule is of the pipeline and its sampler is checked in each run."""
    config: Any = read_yaml(Path(path), omegaconf=True)
    if not isinstance(config, Mapping) or not any(config.get(module) for module in MODULES):
        raise ConfigError(f"{path} switches nothing on: give one of {', '.join(MODULES)}, as `fast-sam3d tune` writes")
    build_methods({module: config[module] for module in MODULES if config.get(module)})
    return Variant(name, config=config)


def _checked(overrides: str, model: str) -> Config:
    config = load(overrides.split(), {"pipeline.model": model})
    check_methods(config)
    return config


def _variant(config: Config, name: str) -> Variant:
    own = dict(own_modules(config))
    modules = own if any(own.values()) else None
    return Variant(name, config.pipeline.ss_steps, config.pipeline.slat_steps, seed=config.seed, config=modules)
