"""`fast-sam3d download`: the gated SAM 3D Objects weights, with the user's own login, into checkpoints/hf."""

from __future__ import annotations

import argparse
from pathlib import Path

from fast_sam3d.checkpoints.download import REPOSITORY, download_weights, unfinished_folder

DEFAULT_FOLDER = "checkpoints/hf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", default=REPOSITORY, metavar="OWNER/NAME", help="repository on the hub")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the main branch)")
    parser.add_argument("--output_dir", default=DEFAULT_FOLDER, metavar="DIR", help="the folder to create")
    parser.epilog = (
        "The weights are gated: accept their licence on the hub page first, then log in with `hf auth login` or set "
        "HF_TOKEN. An interrupted download resumes with the same command."
    )


def main(args: argparse.Namespace) -> int:
    target = Path(args.output_dir)
    try:
        folder = download_weights(target, args.repo, args.revision)
    except KeyboardInterrupt as error:
        kept = unfinished_folder(target)
        raise KeyboardInterrupt(f"partial downloads are kept in {kept}, and the same command resumes") from error
    print(f"weights in {folder}; `fast-sam3d doctor` checks whether they can run here")
    return 0
