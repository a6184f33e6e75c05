"""`fast-sam3d profile-scene`: times a scene against single runs of its objects, alternating."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from fast_sam3d.cli.configuration import preset_of
from fast_sam3d.cli.flags import add_image_path, add_model_flags, add_overwrite, add_preset, add_rounds
from fast_sam3d.config.compose import PRESET
from fast_sam3d.errors import ConfigError, FastSam3dError
from fast_sam3d.outputs.files import save_json
from fast_sam3d.outputs.folder import check_file

STOCK, SINGLE, SCENE = "single runs, off", "single runs", "scene"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_image_path(parser, "a folder with image.png and masks 0.png, 1.png ...", required=True)
    add_model_flags(parser, which=False)
    add_rounds(parser, 5)
    add_preset(parser, default=PRESET)
    parser.add_argument("--accelerate", metavar="OVERRIDES", help="the same by overrides (default: the preset's)")
    parser.add_argument("--no_pictures", action="store_true", help="without previews and turntable, in every way")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every number (default: none)")
    add_overwrite(parser, "the file of an earlier measurement")


def main(args: argparse.Namespace) -> int:
    """Measures and prints the table."""
    import torch

    from fast_sam3d.cli import main as command
    from fast_sam3d.inputs.load import list_masks

    if args.json is not None:
        check_file(args.json, args.overwrite)
    preset = preset_of(args)
    if preset is not None and args.accelerate is not None:
        raise ConfigError("--preset and --accelerate both say how to accelerate: give one of them")
    how = args.accelerate or f"preset={preset or PRESET}"
    masks = list_masks(Path(args.image_path)) if Path(args.image_path).is_dir() else {}
    given_flags = {name: getattr(args, name) for name in ("tag", "device", "dtype", "seed")}
    shared = [text for name, value in given_flags.items() if value is not None for text in (f"--{name}", str(value))]
    shared += ["output.preview=false"] if args.no_pictures else []

    def run(place: Path, runs: Sequence[Sequence[str]], overrides: Sequence[str]) -> None:
        for arguments in runs:
            given = ["--image_path", args.image_path, "--output_dir", str(place)]
            _silently(command, [*arguments, *given, *shared, *overrides])

    singles = [("infer", "--mask_index", str(number)) for number in masks]
    ways = {
        STOCK: partial(run, runs=singles, overrides=[]),
        SINGLE: partial(run, runs=singles, overrides=how.split()),
        SCENE: partial(run, runs=[("scene",)], overrides=how.split()),
    }
    seconds = measure(ways, args.rounds)
    threads = torch.get_num_threads()
    print(f"{len(masks)} objects, {how}, {threads} threads, {args.rounds} alternating rounds, whole commands")
    for name, values in seconds.items():
        ratios = [other / own for own, other in zip(seconds[SCENE], values, strict=True)]
        line = f"{name:<18} {statistics.median(values):7.2f} s"
        if name != SCENE:
            line += f"   the scene is {statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} .. {max(ratios):.2f})"
        print(line)
    if args.json is not None:
        save_json(args.json, {"objects": len(masks), "threads": threads, "seconds": seconds})
    return 0


def measure(ways: Mapping[str, Callable[[Path], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way and round, each with an empty folder to write to; a warm-up round comes first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            with tempfile.TemporaryDirectory() as place:
                begin = time.perf_counter()
                ways[name](Path(place))
                if number:
                    seconds[name].append(time.perf_counter() - begin)
    return seconds


def _silently(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> None:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            code = command(arguments)
    finally:
        logging.disable(before)
    if code:
        raise FastSam3dError(f"`fast-sam3d {' '.join(arguments)}` ended with {code}: run it to see why")
