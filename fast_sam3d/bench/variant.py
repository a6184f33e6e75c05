"""One way to run a pipeline, described by overrides of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fast_sam3d.config.compose import Config, check_methods, load
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


def variant_of(overrides: str, name: str | None = None) -> Variant:
    """The variant that overrides, separated by blanks, describe: modules, steps and seed.

    Args:
        overrides: such as "ss=fast_sam3d slat=off" or, as a control, "pipeline.ss_steps=10". May change nothing.
        name: None takes the overrides.

    Raises:
        ConfigError: they do not compose, or a method does not fit its stage.
    """
    return _variant(_checked(overrides), overrides if name is None else name)


def method_of(name: str, overrides: str, plain: Config) -> Variant:
    """The variant of a bench: as `variant_of`, but only what makes it fast may be overridden, and something must be.

    Args:
        plain: the configuration without overrides.

    Raises:
        ConfigError: as there, with the method's name; overrides that a bench sets itself, or that change nothing.
    """
    try:
        given = _checked(overrides)
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


def _checked(overrides: str) -> Config:
    config = load(overrides.split())
    check_methods(config)
    return config


def _variant(config: Config, name: str) -> Variant:
    modules = dict(config.modules) if any(config.modules.values()) else None
    return Variant(name, config.pipeline.ss_steps, config.pipeline.slat_steps, seed=config.seed, config=modules)
