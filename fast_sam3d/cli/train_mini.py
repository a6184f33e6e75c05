"""`fast-sam3d train-mini`: data, autoencoders, two flows, weights, evaluation, model card."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fast_sam3d.cli.arguments import PROCESSES, at_least
from fast_sam3d.cli.flags import cores
from fast_sam3d.errors import ConfigError, suggest

if TYPE_CHECKING:
    from fast_sam3d.mini.train.recipe import Recipe
    from fast_sam3d.mini.train.run import TrainingRun

log = logging.getLogger(__name__)

TRAINED = ("ss_vae", "slat_vae", "ss_flow", "slat_flow")
STAGE_NAMES = ("data", *TRAINED, "export", "evaluate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "--run_dir", type=Path, metavar="DIR", default=Path("runs/mini"),
        help="data, checkpoints and curves; an interrupted run resumes with the same folder",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint_dir", type=Path, default=None, metavar="DIR",
        help="folder for the weights, pipeline.yaml and the model card (default: checkpoint in --run_dir)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="of initial weights, batches and noise")
    parser.add_argument(
        "--device", metavar="DEVICE", default=None, help="cpu, cuda, cuda:1 ... (default: cuda if there is one)"
    )
    parser.add_argument(
        "--threads",
        type=PROCESSES,
        metavar="N",
        default=cores(),
        help="of the training itself, on a CPU",
    )
    parser.add_argument(
        "--processes",
        type=PROCESSES,
        metavar="N",
        default=cores(),
        help="to generate data and evaluate",
    )
    parser.add_argument(
        "--share", type=float, metavar="SHARE", default=1.0,
        help="share of the recipe's objects and updates, for a trial: 0.001 runs in minutes and learns nothing",
    )  # fmt: skip
    parser.add_argument(
        "--steps", nargs="+", default=[], metavar="STAGE=N",
        help="updates of some stages instead of the recipe's: ss_flow=6000; may change between runs (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--stages", nargs="+", choices=STAGE_NAMES, default=STAGE_NAMES, metavar="STAGE",
        help=f"only these, of {', '.join(STAGE_NAMES)}; each reads the results of earlier ones (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--objects", type=at_least(1), metavar="N", default=160, help="held-out objects of the evaluation"
    )


def main(args: argparse.Namespace) -> int:
    """Run the requested stages in order."""
    asked = _stages(args)
    args.checkpoint_dir = args.checkpoint_dir or args.run_dir / "checkpoint"
    import torch

    from fast_sam3d.checkpoints.load import torch_device
    from fast_sam3d.mini.train import recipe_file
    from fast_sam3d.mini.train.export import check_exported
    from fast_sam3d.mini.train.run import TrainingRun, check_inputs
    from fast_sam3d.model.config_file import CONFIG_NAME
    from fast_sam3d.outputs.folder import writable_folder
    from fast_sam3d.outputs.interrupts import on_interrupt

    recipe, device = _recipe(args), torch_device(args.device)
    check_inputs(args.run_dir, asked)
    exported = "evaluate" in asked and "export" not in asked
    if exported and not (args.checkpoint_dir / CONFIG_NAME).exists():
        raise ConfigError(f"evaluate needs the weights in {args.checkpoint_dir}: add export to --stages to write them")
    writable_folder(args.run_dir, "--run_dir")
    recipe_file.settle(args.run_dir, recipe, args.seed)
    if "export" in asked or "evaluate" in asked:
        writable_folder(args.checkpoint_dir, "--checkpoint_dir")
    run = TrainingRun(args.run_dir, recipe, args.seed, device, args.processes)
    for name in TRAINED:
        if name in asked or "export" in asked:
            run.check(name)
    if exported:
        check_exported(run, args.checkpoint_dir)
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with on_interrupt("the same command resumes; updates since the last checkpoint are lost"):
            _work(run, asked, args)
    finally:
        torch.set_num_threads(threads)  # results depend on it, and the caller's must not change
    return 0


def _work(run: TrainingRun, asked: list[str], args: argparse.Namespace) -> None:
    from fast_sam3d.bench.evaluate_mini import measure
    from fast_sam3d.cli.evaluate_mini import show
    from fast_sam3d.mini.train import card, stages
    from fast_sam3d.mini.train.export import export

    if "data" in asked:
        log.info("%d training shards, %d held-out", len(run.training_shards), len(run.validation_shards))
    for name, stage in stages.STAGES.items():
        if name in asked:
            stage(run)
    if "export" in asked:
        export(run, args.checkpoint_dir)
        log.info("weights are in %s", args.checkpoint_dir)
    if "evaluate" in asked:
        summary = measure(args.checkpoint_dir, args.objects, args.processes, args.run_dir / "evaluation")
        show(summary)
        log.info("model card: %s", card.write(run, args.checkpoint_dir, summary))


def _stages(args: argparse.Namespace) -> list[str]:
    """The requested stages in order."""
    # Checked now rather than after hours of training.
    if "evaluate" in args.stages and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "evaluate draws the training curves with matplotlib, which is not installed: pip install"
            " matplotlib, or leave evaluate out of --stages"
        )
    return [name for name in STAGE_NAMES if name in args.stages]


def _recipe(args: argparse.Namespace) -> Recipe:
    from fast_sam3d.mini.train.recipe import Recipe

    try:
        recipe = Recipe().scaled(args.share)
    except ValueError as error:
        raise ConfigError(f"--share: {error}") from error
    for text in args.steps:
        stage, _, count = text.partition("=")
        if stage not in TRAINED:
            raise ConfigError(f"--steps: there is no training stage '{stage}': {suggest(stage, TRAINED)}")
        if not count.isdecimal() or int(count) < 1:
            raise ConfigError(f"--steps: write {stage}=N with N at least 1, not '{text}'")
        recipe = replace(recipe, **{stage: replace(getattr(recipe, stage), steps=int(count))})
    return recipe
