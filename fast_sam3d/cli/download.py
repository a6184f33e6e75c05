"""`fast-sam3d download`: the gated SAM 3D Objects weights, with the user's own login, into checkpoints/hf."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from fast_sam3d.checkpoints.download import (
    REPOSITORY,
    DownloadPlan,
    fetch,
    plan_download,
    unfinished_folder,
)
from fast_sam3d.checkpoints.remote_file import human
from fast_sam3d.cli.tables import aligned, print_path
from fast_sam3d.outputs.interrupts import on_interrupt

DEFAULT_FOLDER = "checkpoints/hf"
NOT_POSSIBLE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", default=REPOSITORY, metavar="OWNER/NAME", help="repository on the hub")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the main branch)")
    parser.add_argument("--output_dir", default=DEFAULT_FOLDER, metavar="DIR", help="the folder to create")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the files, their sizes, the disk's space and the login"
    )
    parser.epilog = (
        "The weights are gated: accept their licence on the hub page first, then log in with `hf auth login` or set "
        "HF_TOKEN. An interrupted download resumes with the same command. Without a network, copy the folder from a "
        "computer that has it, and give its path: --tag PATH."
    )


def main(args: argparse.Namespace) -> int:
    target = Path(args.output_dir)
    plan = plan_download(target, args.repo, args.revision)
    if plan is not None:
        for line in _lines(plan):
            print_path(line)
        if args.dry_run:
            return NOT_POSSIBLE if plan.problem else 0
        kept = unfinished_folder(target)
        with on_interrupt(f"partial downloads are kept in {kept}, and the same command resumes"):
            fetch(plan)
    print_path(f"weights in {target.absolute()}; `fast-sam3d doctor` checks whether they can run here")
    return 0


def _lines(plan: DownloadPlan) -> Iterator[str]:
    listing = plan.listing
    yield f"{listing.repository} at {listing.commit[:12]}"
    rows = [
        (file.path.removeprefix(listing.prefix), human(file.size), "here" if file.path in plan.here else "")
        for file in listing.files
    ]
    rows.append((f"{len(listing.files)} files", human(plan.total), f"{human(plan.needed)} to download"))
    yield from (f"  {line}" for line in aligned(rows))
    yield f"into     {plan.target} ({human(plan.free)} free)"
    yield f"login    {plan.login}"
    yield f"access   {plan.problem or 'granted'}"
    if plan.cached is not None:
        yield f"cached   {plan.cached} is a complete copy: --tag {plan.cached} uses it without a download"
