"""One way to run a pipeline, as overrides of the configuration say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fast_sam3d.config import check_methods, load
from fast_sam3d.errors import ConfigError

STEPS = 25
NOISE_SEED = 42


@dataclass(frozen=True)
class Variant:
    """One way to run the pipeline: steps of both stages, noise seed, and an acceleration config or None.

    `slat_steps` None are as many as `steps`. `given_depth` hands over the picture's true pointmap; without it the
    pipeline guesses one.
    """

    name: str
    steps: int = STEPS
    slat_steps: int | None = None
    seed: int = NOISE_SEED
    config: Mapping[str, Any] | None = None
    given_depth: bool = True


def variant_of(overrides: str, name: str | None = None) -> Variant:
    """The variant with the modules, steps and seed that some overrides, separated by blanks, say.

    Args:
        overrides: such as "ss=fast_sam3d slat=off" or, as a control, "pipeline.ss_steps=10". May change nothing.
        name: None takes the overrides.

    Raises:
        ConfigError: they do not compose, or a method does not fit its stage.
    """
    config = load(overrides.split())
    check_methods(config)
    modules = dict(config.modules) if any(config.modules.values()) else None
    return Variant(
        overrides if name is None else name,
        config.pipeline.ss_steps,
        config.pipeline.slat_steps,
        seed=config.seed,
        config=modules,
    )


def method_of(name: str, overrides: str) -> Variant:
    """The variant of a bench: as `variant_of`, but only what makes it fast may be overridden, and something must be.

    Raises:
        ConfigError: as there, with the method's name; overrides that a bench sets itself, or that change nothing.
    """
    try:
        variant = variant_of(overrides, name)
        given, plain = load(overrides.split()), load([])
    except ConfigError as error:
        raise ConfigError(f"method '{name}': {error}") from error
    if variant.seed != plain.seed:
        raise ConfigError(f"method '{name}' sets a seed, and the bench runs every method on its own: leave it out")
    same = (given.input, given.output, given.pipeline.formats, given.pipeline.tag, given.pipeline.device,
            given.pipeline.dtype, given.pipeline.depth_model)  # fmt: skip
    if same != (plain.input, plain.output, plain.pipeline.formats, plain.pipeline.tag, plain.pipeline.device,
                plain.pipeline.dtype, plain.pipeline.depth_model):  # fmt: skip
        raise ConfigError(
            f"method '{name}' changes more than how it is computed: leave ss, slat, mesh, exact, preset,"
            " pipeline.ss_steps and pipeline.slat_steps, and give the rest as flags"
        )
    if variant.config is None and (variant.steps, variant.slat_steps) == (STEPS, STEPS):
        raise ConfigError(
            f"method '{name}' ({overrides!r}) switches nothing on: give a preset or a module, preset=fast_sam3d, or for"
            " a control other steps, pipeline.ss_steps=10"
        )
    return variant
