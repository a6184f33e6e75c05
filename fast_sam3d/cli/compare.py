"""`fast-sam3d compare`: one object with and without acceleration, as a sheet of views, times and drift."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.cli.arguments import ANY
from fast_sam3d.cli.configuration import config_from
from fast_sam3d.cli.flags import add_config_flags, add_overwrite, add_rounds, add_sampler
from fast_sam3d.cli.object_input import Request, prepare
from fast_sam3d.cli.tables import aligned, print_path
from fast_sam3d.config.compose import MODULES, PRESET, Config
from fast_sam3d.errors import ConfigError
from fast_sam3d.outputs.folder import result_folder, results_complete
from fast_sam3d.run.notices import checkpoint_notices, notices_of
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from fast_sam3d.run.results import RESULT_NAMES, write_results

if TYPE_CHECKING:
    from fast_sam3d.bench.samplers import Sampler

OVERRIDES = ANY
SHEET, FACTS = "compare.png", "compare.json"
BASELINE, ACCELERATED = "baseline", "accelerated"
DRIFT = {"voxel_iou": "voxel IoU", "box_iou": "box IoU", "f1@0.05": "F1@0.05", "ssim": "SSIM"}
"""Measures on the sheet; the JSON file has all of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser, preset=PRESET)
    add_sampler(parser, "with and without acceleration")
    add_rounds(parser, 3)
    add_overwrite(parser)


def main(args: argparse.Namespace) -> int:
    from fast_sam3d.bench.samplers import OWN, find_samplers

    (sampler,) = find_samplers([args.sampler])
    config = _accelerated_config(args)
    more = {"rounds": args.rounds, "device": config.pipeline.device}
    more |= {} if sampler == OWN else {"sampler": sampler.label}
    names, ways = (*RESULT_NAMES, SHEET, FACTS), (BASELINE, ACCELERATED)
    with prepare(config, args.overwrite, FACTS, names, ways, "_compare", more) as request:
        if request is not None:
            _compare(request, sampler, args.rounds)
    return 0


def _compare(request: Request, sampler: Sampler, rounds: int) -> None:
    import torch

    from fast_sam3d.bench.profile import PLAIN, profile
    from fast_sam3d.checkpoints.load import load_checkpoint
    from fast_sam3d.metrics import Reconstruction, compare
    from fast_sam3d.outputs.seals import save_sealed
    from fast_sam3d.run.progress import Bar

    config, given, checkpoint, target = request.config, request.given, request.checkpoint, request.target
    asked = config.pipeline
    pipeline = load_checkpoint(checkpoint, *asked.loading)
    settings = RunSettings.of(config.seed, asked)
    runs: dict[str, ObjectRun] = {}

    def run() -> ObjectRun:
        found = run_object(pipeline, given.image, given.mask_for(asked.model), given.pointmap, settings=settings)
        runs.setdefault(ACCELERATED if found.report.methods else BASELINE, found)
        return found

    with sampler.on(pipeline), Bar("compare", None) as bar:
        timings = profile(
            pipeline, run, {ACCELERATED: config}, rounds, lambda done, total: bar.update(done, total=total)
        )
    times = {BASELINE if timing.name == PLAIN else timing.name: timing for timing in timings}
    medians = {way: timing.median for way, timing in times.items()}
    found = {way: Reconstruction.of(run.result).on_host() for way, run in runs.items()}
    device = runs[BASELINE].device
    facts: dict[str, Any] = {
        "input": {"image": str(given.image_path), "mask": str(given.mask_path)},
        "pipeline": {"tag": checkpoint.tag, "device": device, "dtype": asked.dtype},
        "threads": torch.get_num_threads() if device.startswith("cpu") else None,
        "seed": config.seed,
        "steps": {"ss": asked.ss_steps, "slat": asked.slat_steps},
        "sampler": sampler.label,
        "preset": config.choices["preset"],
        "methods": runs[ACCELERATED].report.methods,
        "rounds": rounds,
        "seconds": {way: timing.totals for way, timing in times.items()},
        "median_seconds": medians,
        "median_stage_seconds": {way: timing.medians() for way, timing in times.items()},
        "speedup": medians[BASELINE] / medians[ACCELERATED],
        "speedups": times[ACCELERATED].ratios(times[BASELINE]),
        "network_calls": {way: timing.network_calls for way, timing in times.items()},
        "drift": compare(found[ACCELERATED], found[BASELINE]),
    }
    off = replace(config, modules={module: {} for module in MODULES}, choices={**config.choices, "preset": "off"})
    about = checkpoint_notices(checkpoint)
    with result_folder(target) as folder:
        for way, own in ((BASELINE, off), (ACCELERATED, config)):
            (folder / way).mkdir()
            notices = notices_of(given, runs[way], about)
            write_results(folder / way, own, given, runs[way], tag=checkpoint.tag, notices=notices)
        _draw(folder / SHEET, request, runs, facts)
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*.*")}
        save_sealed(folder / FACTS, facts | {"identity": request.identity, "files": sizes}, sizes)
    with results_complete(target):
        print("\n".join(_table(facts)))
        print_path(f"results in {target}: {SHEET}, {FACTS}, {BASELINE}/, {ACCELERATED}/")


def _accelerated_config(args: argparse.Namespace) -> Config:
    """The configuration, with the default preset where nothing else says how to accelerate."""
    config = config_from(args)
    if not any(config.modules.values()) and args.preset is None:
        args.preset = PRESET
        config = config_from(args)
    if not any(config.modules.values()):
        raise ConfigError("nothing is accelerated, so there is nothing to compare: give --preset, such as default")
    return config


def _drift_line(drift: Mapping[str, float]) -> str:
    measured = [f"{label} {drift[name]:.3f}" for name, label in DRIFT.items() if name in drift]
    return f"Similarity to the baseline (1 is identical):  {',  '.join(measured)}"


def _draw(path: Path, request: Request, runs: Mapping[str, ObjectRun], facts: Mapping[str, Any]) -> None:
    from fast_sam3d.outputs.files import atomic_write
    from fast_sam3d.render.comparison import Row, compose_comparison

    def row(way: str, accent: str = "") -> Row:
        seconds, calls = facts["median_seconds"][way], facts["network_calls"][way]
        return Row(way, f"{seconds:.2f} s, {calls} network calls", accent, runs[way].result)

    config, given, rounds, speedup = request.config, request.given, facts["rounds"], facts["speedup"]
    threads = "" if facts["threads"] is None else f", {facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    how = f"preset {facts['preset']}"
    if facts["preset"] == "off":
        how = " ".join(f"{module}={config.choices[module]}" for module in MODULES if config.modules.get(module))
    lines = [
        _drift_line(facts["drift"]),
        f"{given.name}; weights {request.checkpoint.folder.name} on {facts['pipeline']['device']}{threads};"
        f" {config.pipeline.ss_steps} + {config.pipeline.slat_steps} steps"
        f"{'' if facts['sampler'] == 'own' else ', sampler ' + facts['sampler']}, seed {config.seed}; {how};"
        f" median of {rounds} alternating run{'s' * (rounds > 1)}",
    ]
    rows = [row(BASELINE), row(ACCELERATED, f"{speedup:.2f}x faster" if speedup >= 1 else f"{speedup:.2f}x the speed")]
    sheet = compose_comparison(given.image, given.mask, rows, lines)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG", compress_level=9)


def _table(facts: Mapping[str, Any]) -> list[str]:
    """Median seconds, network calls and drift."""
    rows = [["", "seconds", "from .. to", "network calls"]]
    for way, totals in facts["seconds"].items():
        spread = f"{min(totals):.2f} .. {max(totals):.2f}"
        rows.append([way, f"{facts['median_seconds'][way]:.2f}", spread, str(facts["network_calls"][way])])
    return [*aligned(rows), f"{facts['speedup']:.2f}x as fast", _drift_line(facts["drift"])]
