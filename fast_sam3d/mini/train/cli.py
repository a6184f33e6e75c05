"""`fast-sam3d train-mini`: data, autoencoders, two flows, weights, evaluation, model card."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from fast_sam3d.errors import ConfigError

log = logging.getLogger(__name__)

STAGE_NAMES = ("data", "ss_vae", "slat_vae", "ss_flow", "slat_flow", "export", "evaluate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    cores = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1)
    parser.add_argument(
        "--run_dir", type=Path, default=Path("runs/mini"),
        help="data, checkpoints and curves; run the command again with the same folder to go on after a stop",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint_dir", type=Path, default=Path("runs/mini/checkpoint"),
        help="where the finished weights, pipeline.yaml and the model card go",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, batches and noise")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, default=cores, help="of the training itself, on a CPU")
    parser.add_argument("--processes", type=int, default=cores, help="that make data and evaluate")
    parser.add_argument(
        "--share", type=float, default=1.0,
        help="of the recipe's objects and updates, for a trial: 0.001 runs in minutes and learns nothing",
    )  # fmt: skip
    parser.add_argument(
        "--stages", nargs="+", choices=STAGE_NAMES, default=list(STAGE_NAMES), metavar="STAGE",
        help=f"only these, of {', '.join(STAGE_NAMES)}; each reads what the ones before it left",
    )  # fmt: skip
    parser.add_argument("--objects", type=int, default=160, help="held-out objects of the evaluation")


def main(args: argparse.Namespace) -> int:
    """Run the stages that are asked for, in their order."""
    import torch

    from fast_sam3d.mini.train import card, stages
    from fast_sam3d.mini.train.recipe import Recipe

    if args.threads < 1 or args.processes < 1:
        raise ConfigError("--threads and --processes must be at least 1")
    try:
        recipe = Recipe().scaled(args.share)
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from error
    torch.set_num_threads(args.threads)
    args.run_dir.mkdir(parents=True, exist_ok=True)
    run = stages.Run(args.run_dir, recipe, args.seed, device, args.processes)
    if "data" in args.stages:
        log.info("%d training shards, %d held-out", len(run.training_shards), len(run.validation_shards))
    for name, stage in stages.STAGES.items():
        if name in args.stages:
            stage(run)
    if "export" in args.stages:
        stages.export(run, args.checkpoint_dir)
        log.info("weights are in %s", args.checkpoint_dir)
    if "evaluate" in args.stages:
        from fast_sam3d.mini.train import evaluate_cli

        evaluate_cli.measure(args.checkpoint_dir, args.objects, args.processes, args.run_dir / "evaluation")
        card.write(run, args.checkpoint_dir, args.run_dir / "evaluation")
    return 0
