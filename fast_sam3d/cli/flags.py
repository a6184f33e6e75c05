"""The flags that commands share, and the configuration keys that they set."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from fast_sam3d.cli.arguments import Named, at_least, bundled, skipped
from fast_sam3d.config.compose import ACCELERATED, DTYPES, MEMORY, PRESET, RUNTIMES, Config, group_options, load
from fast_sam3d.config.packaged import resource
from fast_sam3d.errors import ConfigError

log = logging.getLogger(__name__)

INPUT_HELP = "a picture, or a folder with image.png and masks 0.png, 1.png ..."
FOLDER_HELP = "in a folder as for infer, in one of such folders, or in one of pictures cut out by their alpha channel"
SCENES_HELP = "a folder with image.png and masks 0.png, 1.png ..., or a folder of such folders"


class Flag(NamedTuple):
    """One flag: its names, the configuration key that it sets, the type of its value, its help.

    The first name is also that of its attribute. The default is read from the packaged configuration unless the help
    says it.
    """

    names: tuple[str, ...]
    key: str
    kind: Callable[[str], Any]
    metavar: str | None
    text: str
    choices: Sequence[str] | None = None


OBJECT = (
    Flag(("mask_index",), "input.mask_index", int, "N", "number of the mask (default: the lowest that is there)"),
    Flag(("mask_path",), "input.mask_path", str, "FILE", "a mask file instead of a numbered one (default: none)"),
)
"""Flags that choose one object; a scene takes all of them."""
POINTMAP = Flag(
    ("pointmap",), "input.pointmap", str, "FILE", "a pointmap, .npz or .npy (default: pointmap.npz beside the picture)"
)
OUTPUT_DIR = Flag(("output_dir",), "output.dir", str, "DIR", "where the folder of results is created")
SEED = Flag(("seed",), "seed", int, "N", "seed of the noise; the same seed gives the same result")
QUALITY = Flag(
    ("quality",), "quality", float, "IOU",
    "of the schedules that `tune` measured on the model the fastest with this voxel IoU to the unaccelerated result,"
    " such as 0.97; with --preset (default: the preset's)",
)  # fmt: skip
MODEL = (
    Flag(
        ("tag",), "pipeline.tag", str, "TAG",
        "mini, a folder under checkpoints/, or the path of a checkpoint (default: your own weights if usable, else"
        " mini; the log says which)",
    ),
    Flag(("device",), "pipeline.device", str, "DEVICE", "cpu, cuda, cuda:1 ... (default: cuda if available, else cpu)"),
    Flag(
        ("dtype",), "pipeline.dtype", str, None, "precision of the networks (default: the checkpoint's own)", DTYPES
    ),
    Flag(
        ("runtime",), "pipeline.runtime", str, None,
        "whose classes run SAM 3D Objects (default: auto, stock where its packages and an NVIDIA GPU are there, else"
        " native)", RUNTIMES,
    ),
    Flag(
        ("memory",), "pipeline.memory", str, None,
        "memory plan of the native runtime (default: auto, which asks the device)", MEMORY,
    ),
)  # fmt: skip
RUN_KEYS = ("pipeline.layout_postprocess", "pipeline.formats", "pipeline.depth_model", "pipeline.half_cache")
"""What may be overridden where every run of a command is to be alike."""
MODULES = {
    "ss": (("enable_ss_cache", "enable_ss_faster"), "ss=fast_sam3d: the paper's step caching of the sparse structure"),
    "slat": (
        ("enable_slat_carving", "enable_slat_token"),
        "slat=fast_sam3d: the paper's token carving of the structured latent",
    ),
    "mesh": (("enable_mesh_aggregation",), "mesh=fast_sam3d: the paper's token aggregation in the mesh decoder"),
    "exact": (("enable_exact",), "exact=all: savings that are exact up to floating-point rounding"),
}
"""The flags that switch one module on, the name of its attribute first."""
METHODS = {
    "ss": (
        Flag(("ss_cache_stride", "ss_faster_stride"), "ss.when.stride", int, "K", "evaluate the network every K steps"),
        Flag(("ss_warmup",), "ss.when.warmup", int, "N", "evaluate it at the first N steps"),
        Flag(("ss_order",), "ss.predict.shape.order", int, "N", "order of the shape's extrapolation"),
        Flag(
            ("ss_momentum_beta",), "ss.predict.layout.beta", float, "B",
            "0: the layout's last velocity is reused, 1: it is extrapolated linearly",
        ),
    ),
    "slat": (
        Flag(("slat_thresh",), "slat.when.threshold", float, "E", "evaluate when the expected change reaches E"),
        Flag(("slat_warmup",), "slat.when.warmup", int, "N", "evaluate all voxels at the first N steps"),
        Flag(
            ("slat_carving_ratio",), "slat.where.keep", float, "SHARE",
            "share of the voxels computed after that, as in the paper; Fast-SAM3D's code skips it",
        ),
    ),
    "mesh": (
        Flag(
            ("mesh_spectral_threshold_low",), "mesh.threshold_low", float, "H",
            "objects with a lower high-frequency ratio are merged most",
        ),
        Flag(
            ("mesh_spectral_threshold_high",), "mesh.threshold_high", float, "H",
            "objects with a higher one are merged least",
        ),
    ),
}  # fmt: skip
"""Settings of the paper's methods, by module."""


# ------------------------------------------------------------------------------------------------------- adding flags


def add_config_flags(parser: argparse.ArgumentParser, scene: bool = False, preset: str = "off") -> None:
    """Every flag that sets a configuration key; for a scene all but those of `OBJECT`.

    Args:
        preset: what the help of --preset calls the default.
    """
    group = parser.add_argument_group("input")
    add_image_path(group, SCENES_HELP if scene else INPUT_HELP)
    for flag in () if scene else OBJECT:
        _add(group, flag)
    either = group.add_mutually_exclusive_group()
    _add(either, POINTMAP)
    either.add_argument(
        "--no_pointmap",
        dest="pointmap",
        action="store_const",
        const="none",
        help="ignore a pointmap beside the picture",
    )
    group = parser.add_argument_group("run")
    _add(group, OUTPUT_DIR)
    add_model_flags(group)
    group = parser.add_argument_group("acceleration")
    add_preset(group, default=preset)
    _add_switch(group, "exact")
    group.add_argument(
        "--no_calibrated", dest="use_calibrated", action="store_const", const=False, default=None,
        help="presets default and fast as shipped, without the schedule that `tune` measured on the model",
    )  # fmt: skip
    _add(group, QUALITY)
    group = parser.add_argument_group(
        "flags of Fast-SAM3D's releases, with the settings that they stand for; two for one setting must agree"
    )
    group.add_argument(
        "--enable_acceleration", action="store_true",
        help=f"the same as --preset {PRESET}; the paper's three methods together are --preset fast_sam3d",
    )  # fmt: skip
    for module, flags in METHODS.items():
        _add_switch(group, module)
        for flag in flags:
            _add(group, flag, flag.key)
    group.add_argument(
        "--slat_token_ratio", dest="slat_carving_ratio", type=skipped, metavar="SHARE", action=Named,
        help="1 - slat.where.keep: share of the voxels skipped, 0.9 is --slat_carving_ratio 0.1 (default: as there)",
    )  # fmt: skip


def add_image_path(group: Any, text: str, required: bool = False) -> None:
    """--image_path and its other name, --image_dir."""
    default = "" if required or "default" in text else " (default: none)"
    names = "--image_path", "--image_dir"
    group.add_argument(*names, metavar="PATH", type=bundled, action=Named, required=required, help=text + default)


def add_mask_index(group: Any) -> None:
    """--mask_index."""
    _add(group, OBJECT[0])


def add_model_flags(group: Any, seed: bool = True) -> None:
    """--tag, --device, --dtype and, if asked for, --seed."""
    for flag in (*MODEL, SEED) if seed else MODEL:
        _add(group, flag)


def add_preset(group: Any, text: str = "how to accelerate", default: str = "off", repeat: bool = False) -> None:
    """--preset NAME, with the existing names in its help."""
    names = ", ".join(group_options()["preset"])
    action: Any = "append" if repeat else Named
    group.add_argument("--preset", action=action, metavar="NAME", help=f"{text}: {names} (default: {default})")


def add_ways(group: Any, text: str, default: str, example: str) -> None:
    """--preset and --accelerate, both repeatable: what a command measures; read by `overrides_of`."""
    add_preset(group, f"{text}; repeatable", default, repeat=True)
    group.add_argument(
        "--accelerate", action="append", default=[], metavar="OVERRIDES", help=f"the same by overrides{example}"
    )


def add_sampler(group: Any, text: str = "of every run") -> None:
    """--sampler."""
    group.add_argument(
        "--sampler", metavar="NAME", default="own",
        help=f"of the sparse structure, {text}: own, published, mild, or a file with rescale_t and strength",
    )  # fmt: skip


def add_rounds(group: Any, default: int) -> None:
    """--rounds."""
    text = "measured runs of each variant, after a warm-up"
    group.add_argument("--rounds", type=at_least(1), default=default, metavar="N", help=text)


def add_overwrite(group: Any, text: str = "results of other settings or inputs") -> None:
    """--overwrite."""
    group.add_argument("--overwrite", action="store_true", help=f"replace {text}")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _add(group: Any, flag: Flag, about: str = "") -> None:
    text = flag.text if "default" in flag.text else f"{flag.text} ({_default(flag.key)})"
    text, names = f"{about}: {text}" if about else text, [f"--{name}" for name in flag.names]
    group.add_argument(*names, type=flag.kind, metavar=flag.metavar, choices=flag.choices, action=Named, help=text)


def _add_switch(group: Any, module: str) -> None:
    names, text = MODULES[module]
    group.add_argument(*(f"--{name}" for name in names), action=Named, nargs=0, const=True, default=False, help=text)


def _default(key: str) -> str:
    """What the packaged configuration sets, for a module the method that its flag picks; read without Hydra."""
    module, _, rest = key.partition(".")
    option = ACCELERATED.get(module)
    node: Any = _packaged("config.yaml" if option is None else f"{module}/{option}.yaml")
    for part in (key if option is None else rest).split("."):
        node = node[part]
    return f"default: {node}" if option is None else f"default of {module}={option}: {node}"


@cache
def _packaged(name: str) -> Mapping[str, Any]:
    import yaml

    tree: Mapping[str, Any] = yaml.safe_load((resource("configs") / name).read_text(encoding="utf-8"))
    return tree


# ------------------------------------------------------------------------------------------------ reading them again


def config_from(args: argparse.Namespace) -> Config:
    """Composes the configuration from parsed flags and overrides. A flag takes precedence over an override of its key.

    A flag for a setting that the default preset's method lacks, such as --slat_carving_ratio beside
    --enable_acceleration, picks the method that has it, and logs so.

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
    return _load(args, overrides, _values(args))


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
    log.info("acceleration: %s", on if on and preset == "off" else f"preset {preset} ({on or 'every module is off'})")


def _values(args: argparse.Namespace) -> dict[str, Any]:
    """Configuration keys to the values of the flags that were given."""
    values = {f.key: value for f in _PLAIN if (value := getattr(args, f.names[0], None)) is not None}
    if getattr(args, "use_calibrated", None) is not None:
        values["use_calibrated"] = args.use_calibrated
    return values


_IMAGE = Flag(("image_path",), "input.image_path", str, None, "")
_PLAIN = (_IMAGE, *OBJECT, POINTMAP, OUTPUT_DIR, SEED, QUALITY, *MODEL)


def _load(args: argparse.Namespace, overrides: Sequence[str], values: Mapping[str, Any] | None = None) -> Config:
    """Composes; an error over a value that a flag has set begins with the flag."""
    try:
        return load(overrides, values)
    except ConfigError as error:
        flag = next((f.names[0] for f in _PLAIN if values and f.key == error.key and f.key in values), None)
        if flag is None or getattr(args, flag, None) is None:
            raise
        raise ConfigError(f"--{flag}: {error}", error.key) from error


def _mistake(overrides: Sequence[str]) -> ConfigError | None:
    try:
        load(overrides)
    except ConfigError as error:
        return error
    return None
