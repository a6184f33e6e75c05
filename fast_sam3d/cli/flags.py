"""The flags that commands share, and the configuration keys that they set; `configuration` reads them again."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from fast_sam3d.cli.arguments import Named, at_least, bundled, listed, pixels, skipped, whole
from fast_sam3d.config.compose import (
    ACCELERATED,
    DTYPES,
    MEMORY,
    MODELS,
    POINTMAP_AXES,
    PRESET,
    RUNTIMES,
    group_options,
)
from fast_sam3d.config.packaged import resource
from fast_sam3d.documents import read_yaml

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
    Flag(("mask_index",), "input.mask_index", whole, "N", "number of the mask (default: the lowest that is there)"),
    Flag(
        ("mask_label",), "input.mask_label", str, "LABEL",
        "number or name of an object in --mask_path, where that holds several (default: none)",
    ),
)  # fmt: skip
"""Flags that choose one object; a scene takes all of them."""
MASKS = (
    Flag(
        ("mask_path",), "input.mask_path", str, "FILE",
        "a mask file instead of the numbered ones; or the masks of several objects: a label map (PNG, npy), COCO or"
        " labelme annotations (default: none)",
    ),
    Flag(
        ("mask_threshold",), "input.mask_threshold", float, "SHARE",
        "a pixel is of the object from this share of the full range on, 0.5 for alpha 128 (default: any alpha, half of"
        " the grey values)",
    ),
)  # fmt: skip
"""How masks are read."""
POINTMAP = Flag(
    ("pointmap",), "input.pointmap", str, "FILE", "a pointmap, .npz or .npy (default: pointmap.npz beside the picture)"
)
POINTMAP_FRAME = Flag(
    ("pointmap_axes",), "input.pointmap_axes", str, None, "frame of the pointmap; auto recognises it", POINTMAP_AXES
)
MARKS = (
    Flag(
        ("click",), "input.click", pixels, "X,Y",
        "select the object at this pixel instead of a mask; repeatable (default: none)",
    ),
    Flag(
        ("background",), "input.background", pixels, "X,Y",
        "a pixel that the selection should not contain; repeatable (default: none)",
    ),
    Flag(("box",), "input.box", str, "X0,Y0,X1,Y1", "select the object in this box, instead of a mask (default: none)"),
)  # fmt: skip
"""Flags that select an object without a mask."""
OUTPUT_DIR = Flag(("output_dir",), "output.dir", str, "DIR", "where the folder of results is created")
FILES = (
    Flag(
        ("formats",), "output.formats", listed, "NAME,NAME",
        "files to write: mesh, gaussian, gaussian_4, spz, sog, glb-splat, obj, stl; decodes what they need (default:"
        " mesh,gaussian)",
    ),
    Flag(("faces",), "output.faces", whole, "N", "at most N faces for the mesh (default: all; with --texture 20000)"),
    Flag(
        ("texture",), "output.texture", whole, "PX",
        "a texture of PX by PX pixels for the mesh, such as 1024 (default: none, colours of vertices)",
    ),
)  # fmt: skip
"""Flags that choose the files of an object."""
SEED = Flag(("seed",), "seed", whole, "N", "seed of the noise; the same seed gives the same result")
QUALITY = Flag(
    ("quality",), "quality", float, "IOU",
    "of the schedules that `tune` measured on the model the fastest with this voxel IoU to the unaccelerated result,"
    " such as 0.97; with --preset (default: the preset's)",
)  # fmt: skip
WHICH = Flag(
    ("model",), "pipeline.model", str, None, "SAM 3D Objects, or TRELLIS by its own package (default: sam3d)", MODELS
)
MODEL = (
    Flag(
        ("tag",), "pipeline.tag", str, "TAG",
        "mini, a folder under checkpoints/, the path of a checkpoint, or of TRELLIS a name on the hub (default: your"
        " own weights if usable, else mini; the log says which)",
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
        Flag(
            ("ss_cache_stride", "ss_faster_stride"), "ss.when.stride", at_least(0), "K",
            "evaluate the network every K steps",
        ),
        Flag(("ss_warmup",), "ss.when.warmup", at_least(0), "N", "evaluate it at the first N steps"),
        Flag(("ss_order",), "ss.predict.shape.order", at_least(0), "N", "order of the shape's extrapolation"),
        Flag(
            ("ss_momentum_beta",), "ss.predict.layout.beta", float, "B",
            "0: the layout's last velocity is reused, 1: it is extrapolated linearly",
        ),
    ),
    "slat": (
        Flag(("slat_thresh",), "slat.when.threshold", float, "E", "evaluate when the expected change reaches E"),
        Flag(("slat_warmup",), "slat.when.warmup", at_least(0), "N", "evaluate all voxels at the first N steps"),
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
PLAIN = (
    Flag(("image_path",), "input.image_path", str, None, ""),
    *OBJECT,
    *MASKS,
    *MARKS,
    POINTMAP,
    POINTMAP_FRAME,
    OUTPUT_DIR,
    *FILES,
    SEED,
    QUALITY,
    WHICH,
    *MODEL,
)
"""Every flag that sets one key and is no method's."""
SWITCHES = {"use_calibrated": "use_calibrated", "rembg": "input.rembg"}
"""Keys of flags without a value, by attribute; None where the flag was not given."""


def add_config_flags(parser: argparse.ArgumentParser, scene: bool = False, preset: str = "off") -> None:
    """Every flag that sets a configuration key; for a scene all but those of `OBJECT`.

    Args:
        preset: what the help of --preset calls the default.
    """
    group = parser.add_argument_group("input")
    add_image_path(group, SCENES_HELP if scene else INPUT_HELP)
    for flag in MASKS if scene else (*OBJECT, *MASKS, *MARKS):
        _add(group, flag)
    if not scene:
        group.add_argument(
            "--rembg", action="store_const", const=True,
            help="cut the object out with the package rembg where there is no mask; it downloads its network once",
        )  # fmt: skip
    either = group.add_mutually_exclusive_group()
    _add(either, POINTMAP)
    either.add_argument(
        "--no_pointmap",
        dest="pointmap",
        action="store_const",
        const="none",
        help="ignore a pointmap beside the picture",
    )
    add_pointmap_axes(group)
    group = parser.add_argument_group("output")
    for flag in (OUTPUT_DIR, *FILES):
        _add(group, flag)
    group = parser.add_argument_group("run")
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


def add_pointmap_axes(group: Any) -> None:
    """--pointmap_axes."""
    _add(group, POINTMAP_FRAME)


def add_mask_index(group: Any) -> None:
    """--mask_index."""
    _add(group, OBJECT[0])


def add_model_flags(group: Any, seed: bool = True, which: bool = True) -> None:
    """--tag, --device, --dtype and, if asked for, --model and --seed."""
    for flag in (*[WHICH] * which, *MODEL, *[SEED] * seed):
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
    tree: Mapping[str, Any] = read_yaml(resource("configs") / name)
    return tree
