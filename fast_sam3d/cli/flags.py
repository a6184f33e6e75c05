"""The flags that people already type, and the configuration keys that they set."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from fast_sam3d.config.compose import ACCELERATED, PRESET, Config, load
from fast_sam3d.errors import ConfigError

__all__ = ["add_config_flags", "config_from"]

log = logging.getLogger(__name__)


class Flag(NamedTuple):
    """One flag: its name, the key that it sets, the type of its value, its help."""

    name: str
    key: str
    kind: type
    metavar: str
    text: str


INPUT = (
    Flag(
        "image_path", "input.image_path", str, "PATH", "a folder with image.png and masks 0.png, 1.png ..., or a file"
    ),
    Flag("mask_index", "input.mask_index", int, "N", "the number of the mask beside the picture (default: the lowest)"),
    Flag("mask_path", "input.mask_path", str, "FILE", "a mask file to use instead"),
    Flag(
        "pointmap", "input.pointmap", str, "FILE", "a pointmap, .npz or .npy (default: pointmap.npz beside the picture)"
    ),
)
RUN = (
    Flag("output_dir", "output.dir", str, "DIR", "where the folder with the results is made (default: outputs)"),
    Flag(
        "tag", "pipeline.tag", str, "TAG", "mini, or a folder under checkpoints/ (default: your own weights, else mini)"
    ),
    Flag("device", "pipeline.device", str, "DEVICE", "cpu, cuda, cuda:1 (default: cuda if there is one)"),
    Flag("seed", "seed", int, "N", "the same seed gives the same result (default: 42)"),
)
STEP_CACHE = (
    Flag("ss_cache_stride", "ss.when.stride", int, "K", "the network runs at every K-th step"),
    Flag("ss_warmup", "ss.when.warmup", int, "N", "it runs at the first N steps"),
    Flag("ss_order", "ss.predict.shape.order", int, "N", "order of the shape's extrapolation"),
    Flag("ss_momentum_beta", "ss.predict.layout.beta", float, "B", "0: the layout holds, 1: it is extrapolated"),
)
CARVING = (
    Flag("slat_thresh", "slat.when.threshold", float, "E", "the network runs when the expected change reaches E"),
    Flag("slat_warmup", "slat.when.warmup", int, "N", "it runs at the first N steps, on all voxels"),
    Flag(
        "slat_carving_ratio", "slat.where.keep", float, "SHARE",
        "share of the voxels that it runs on after that (the first public release left out this share instead)",
    ),
)  # fmt: skip
AGGREGATION = (
    Flag("mesh_spectral_threshold_low", "mesh.threshold_low", float, "H", "calmer objects are merged most"),
    Flag("mesh_spectral_threshold_high", "mesh.threshold_high", float, "H", "busier ones least"),
)

SWITCHES = {
    "ss": "enable_ss_cache",
    "slat": "enable_slat_carving",
    "mesh": "enable_mesh_aggregation",
    "exact": "enable_exact",
}
"""The flag that switches a module on alone."""


ONE_MASK = ("mask_index", "mask_path")
"""Flags that say which object, and so have no place where all of them are meant."""


def add_config_flags(parser: argparse.ArgumentParser, scene: bool = False) -> None:
    """Adds every flag that sets a configuration key; for a scene all but those of `ONE_MASK`."""
    group = parser.add_argument_group("input")
    if scene:
        text = "a folder with image.png and masks 0.png, 1.png ..., or a folder of such folders"
        group.add_argument("--image_dir", "--image_path", dest="image_path", metavar="DIR", help=text)
        parser.set_defaults(**dict.fromkeys(ONE_MASK))
    else:
        _add(group, INPUT[0])
        group.add_argument("--image_dir", dest="image_path", metavar="DIR", help="the same as --image_path")
    for flag in INPUT[1:]:
        if not (scene and flag.name in ONE_MASK):
            _add(group, flag)
    group.add_argument("--no_pointmap", action="store_true", help="leave a pointmap beside the picture alone")
    group = parser.add_argument_group("run")
    for flag in RUN:
        _add(group, flag)
    group = parser.add_argument_group("acceleration")
    group.add_argument(
        "--enable_acceleration", action="store_true", help="the best trade-off measured so far: preset=default"
    )
    group.add_argument(
        "--enable_ss_cache", action="store_true", help="the paper's step caching of the sparse structure"
    )
    for flag in STEP_CACHE:
        _add(group, flag)
    group.add_argument("--enable_slat_carving", action="store_true", help="the paper's token carving")
    for flag in CARVING:
        _add(group, flag)
    group.add_argument(
        "--enable_mesh_aggregation", action="store_true", help="the paper's merging of voxels in the mesh decoder"
    )
    for flag in AGGREGATION:
        _add(group, flag)
    group.add_argument("--enable_exact", action="store_true", help="savings that change nothing but the last bits")


def config_from(args: argparse.Namespace) -> Config:
    """Composes the configuration from parsed flags and overrides. Where both set one key, the flag counts.

    A flag that the default preset's method does not know, such as --slat_carving_ratio beside --enable_acceleration,
    picks the method that does, and says so.

    Raises:
        ConfigError: as `fast_sam3d.config.compose.load`; a flag of a module that is off.
    """
    alone = {module: getattr(args, switch) for module, switch in SWITCHES.items()}
    # First, so that what the user picks for a module counts more.
    picks = [f"preset={PRESET}"] if args.enable_acceleration else []
    # What the preset accelerates already stays its own.
    on = load(picks).modules if picks and any(alone.values()) else {}
    picks += [f"{module}={option}" for module, option in ACCELERATED.items() if alone[module] and not on.get(module)]
    overrides = [*picks, *args.overrides]
    values: dict[str, Any] = {f.key: v for f in (*INPUT, *RUN) if (v := getattr(args, f.name)) is not None}
    if args.no_pointmap:
        if args.pointmap is not None:
            raise ConfigError("--pointmap and --no_pointmap exclude each other: give one of them")
        values["input.pointmap"] = "none"
    for flag in (*STEP_CACHE, *CARVING, *AGGREGATION):
        if (value := getattr(args, flag.name)) is not None:
            # As overrides, so that a value that follows another one follows; last, so that the flag counts.
            edit = f"{flag.key}={value}"
            module = flag.key.split(".", 1)[0]
            try:
                load([*overrides, edit])
            except ConfigError as error:
                pick = f"{module}={ACCELERATED[module]}"
                if not args.enable_acceleration or _picked(args.overrides, module) or not _loads([pick, edit]):
                    switch = SWITCHES[module]
                    hint = "" if alone[module] else f" (--{switch} picks the method that has it)"
                    raise ConfigError(f"--{flag.name}: {error}{hint}") from error
                log.info(f"--{flag.name} picks {pick}: the default preset's method has no such setting")
                overrides.insert(1, pick)
            overrides.append(edit)
    try:
        return load(overrides, values)
    except ConfigError as error:
        raise ConfigError(_with_flags(str(error), args)) from error


def _picked(overrides: Sequence[str], module: str) -> bool:
    """Whether the user's own overrides say which method the module has."""
    return any(override.split("=", 1)[0] in (module, "preset") for override in overrides)


def _loads(overrides: Sequence[str]) -> bool:
    try:
        load(overrides)
    except ConfigError:
        return False
    return True


def _with_flags(message: str, args: argparse.Namespace) -> str:
    """The message with the flags that were given in place of the keys that they set; lists of keys stay such."""
    message, separator, listed = message.partition(": valid are")
    for flag in (*INPUT, *RUN):
        if getattr(args, flag.name) is None:
            continue
        dotted = rf"(?<![\w.'\"]){re.escape(flag.key)}(?![\w.'\"])"
        # A key without a dot is a word like others, unless the message begins with it.
        message = re.sub(dotted if "." in flag.key else rf"^{flag.key}(?= is )", f"--{flag.name}", message)
    return message + separator + listed


def _add(group: Any, flag: Flag) -> None:
    group.add_argument(f"--{flag.name}", type=flag.kind, metavar=flag.metavar, help=flag.text)
