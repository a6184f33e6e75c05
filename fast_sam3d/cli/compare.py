"""`fast-sam3d compare`: one object with and without acceleration, as a sheet of views, times and drift."""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.cli.arguments import ANY
from fast_sam3d.cli.flags import add_config_flags, config_from, log_acceleration
from fast_sam3d.cli.object_input import object_identity, read_object, reduced
from fast_sam3d.cli.tables import aligned, print_path
from fast_sam3d.config.compose import MODULES, PRESET, Config, check_methods
from fast_sam3d.errors import ConfigError
from fast_sam3d.outputs.folder import check_target, has_results, result_folder, results_complete
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from fast_sam3d.run.results import RESULT_NAMES, write_results

if TYPE_CHECKING:
    from fast_sam3d.bench.profile import Timing

__all__ = ["OVERRIDES", "add_arguments", "main"]

log = logging.getLogger(__name__)

OVERRIDES = ANY
SHEET, FACTS = "compare.png", "compare.json"
BASELINE, ACCELERATED = "baseline", "accelerated"
DRIFT = {"voxel_iou": "voxel IoU", "box_iou": "box IoU", "f1@0.05": "F1@0.05", "ssim": "SSIM"}
"""Measures on the sheet; the JSON file has all of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser, preset=PRESET)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measured runs of each way, after a warm-up")
    parser.add_argument("--overwrite", action="store_true", help="replace results of other settings or inputs")


def main(args: argparse.Namespace) -> int:
    from fast_sam3d.bench.profile import PLAIN, profile
    from fast_sam3d.checkpoints.load import load_checkpoint
    from fast_sam3d.run.progress import Bar

    if args.rounds < 1:
        raise ConfigError(f"--rounds is {args.rounds}: give at least 1")
    config = _accelerated_config(args)
    given = read_object(config)
    target = config.output.dir / f"{given.name}_compare"
    check_target(target, (*RESULT_NAMES, SHEET, FACTS), (BASELINE, ACCELERATED))
    checkpoint = find_checkpoint(config.pipeline.tag)
    check_methods(config)
    log_acceleration(config)
    identity = object_identity(config, given, checkpoint)
    identity["settings"] |= {"rounds": args.rounds, "device": config.pipeline.device}
    if not args.overwrite and has_results(target, FACTS, identity):
        print_path(f"results in {target} are complete, from the same input and settings; --overwrite repeats the runs")
        return 0
    if checkpoint.kind == "mini":
        given = reduced(given)
    asked = config.pipeline
    pipeline = load_checkpoint(checkpoint, asked.device, asked.dtype, asked.depth_model)
    settings = RunSettings.of(config.seed, asked)
    runs: dict[str, ObjectRun] = {}

    def run() -> ObjectRun:
        found = run_object(pipeline, given.image, given.mask, given.pointmap, settings=settings)
        runs.setdefault(ACCELERATED if found.report.methods else BASELINE, found)
        return found

    with Bar("compare", None) as bar:
        timings = profile(
            pipeline,
            run,
            {ACCELERATED: dict(config.modules)},
            args.rounds,
            lambda done, total: bar.update(done, total=total),
        )
    times = {BASELINE if timing.name == PLAIN else timing.name: timing for timing in timings}
    drift = _drift(runs)
    off = replace(config, modules={module: {} for module in MODULES}, choices={**config.choices, "preset": "off"})
    with result_folder(target) as folder:
        files: dict[str, int] = {}
        for way, own in ((BASELINE, off), (ACCELERATED, config)):
            (folder / way).mkdir()
            for name in write_results(folder / way, own, given, runs[way], tag=checkpoint.tag):
                files[f"{way}/{name}"] = (folder / way / name).stat().st_size
        _draw(folder / SHEET, config, given, runs, times, drift, checkpoint.folder.name, args.rounds)
        facts = {
            "input": {"image": str(given.image_path), "mask": str(given.mask_path)},
            "pipeline": {"tag": checkpoint.tag, "device": runs[BASELINE].device, "dtype": asked.dtype},
            "threads": _threads(runs[BASELINE].device),
            "seed": config.seed,
            "steps": {"ss": asked.ss_steps, "slat": asked.slat_steps},
            "preset": config.choices["preset"],
            "methods": runs[ACCELERATED].report.methods,
            "rounds": args.rounds,
            "seconds": {way: timing.totals for way, timing in times.items()},
            "median_seconds": {way: statistics.median(timing.totals) for way, timing in times.items()},
            "median_stage_seconds": {way: timing.medians() for way, timing in times.items()},
            "speedup": _speedup(times),
            "speedups": times[ACCELERATED].ratios(times[BASELINE]),
            "network_calls": {way: timing.network_calls for way, timing in times.items()},
            "drift": drift,
            "identity": identity,
            "files": files | {SHEET: (folder / SHEET).stat().st_size},
        }
        _save(folder / FACTS, facts)
    with results_complete(target):
        print("\n".join(_table(times)))
        print(_drift_line(drift))
        print_path(f"results in {target}: {SHEET}, {FACTS}, {BASELINE}/, {ACCELERATED}/")
    return 0


def _accelerated_config(args: argparse.Namespace) -> Config:
    """The configuration, with the default preset where nothing else says how to accelerate."""
    config = config_from(args)
    if not any(config.modules.values()) and args.preset is None:
        args.preset = PRESET
        config = config_from(args)
    if not any(config.modules.values()):
        raise ConfigError("nothing is accelerated, so there is nothing to compare: give --preset, such as default")
    return config


def _drift(runs: Mapping[str, ObjectRun]) -> dict[str, float]:
    from fast_sam3d.metrics import Reconstruction, compare

    found, baseline = (Reconstruction.of(runs[way].result).on_host() for way in (ACCELERATED, BASELINE))
    return compare(found, baseline)


def _drift_line(drift: Mapping[str, float]) -> str:
    measured = [f"{label} {drift[name]:.3f}" for name, label in DRIFT.items() if name in drift]
    return f"Similarity to the baseline (1 is identical):  {',  '.join(measured)}"


def _speedup(times: Mapping[str, Timing]) -> float:
    baseline, accelerated = (statistics.median(times[way].totals) for way in (BASELINE, ACCELERATED))
    return baseline / accelerated


def _draw(
    path: Path, config: Config, given: Any, runs: Mapping[str, ObjectRun], times: Mapping[str, Timing],
    drift: Mapping[str, float], weights: str, rounds: int,
) -> None:  # fmt: skip
    from fast_sam3d.outputs.files import atomic_write
    from fast_sam3d.render.comparison import Row, compose_comparison

    def row(way: str, accent: str = "") -> Row:
        seconds, calls = statistics.median(times[way].totals), times[way].network_calls
        return Row(way, f"{seconds:.2f} s, {calls} network calls", accent, runs[way].result)

    speedup, device, asked = _speedup(times), runs[BASELINE].device, config.pipeline
    threads = "" if (count := _threads(device)) is None else f", {count} threads"
    how = f"preset {config.choices['preset']}"
    if config.choices["preset"] == "off":
        how = " ".join(f"{module}={config.choices[module]}" for module in MODULES if config.modules.get(module))
    lines = [
        _drift_line(drift),
        f"{given.name}; weights {weights} on {device}{threads}; {asked.ss_steps} + {asked.slat_steps} steps, seed"
        f" {config.seed}; {how}; median of {rounds} alternating run{'s' * (rounds > 1)}",
    ]
    rows = [row(BASELINE), row(ACCELERATED, f"{speedup:.2f}x faster" if speedup >= 1 else f"{speedup:.2f}x the speed")]
    sheet = compose_comparison(given.image, given.mask, rows, lines)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG", compress_level=9)


def _save(path: Path, facts: Mapping[str, Any]) -> None:
    from fast_sam3d.outputs.files import save_json

    save_json(path, facts)


def _threads(device: str) -> int | None:
    """torch's threads, where they matter."""
    import torch

    return torch.get_num_threads() if device.startswith("cpu") else None


def _table(times: Mapping[str, Timing]) -> list[str]:
    """Median seconds and network calls."""
    rows = [["", "seconds", "from .. to", "network calls"]]
    for way, timing in times.items():
        totals = timing.totals
        spread = f"{min(totals):.2f} .. {max(totals):.2f}"
        rows.append([way, f"{statistics.median(totals):.2f}", spread, str(timing.network_calls)])
    return [*aligned(rows), f"{_speedup(times):.2f}x as fast"]
