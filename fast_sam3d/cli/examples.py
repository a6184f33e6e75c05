"""`fast-sam3d examples`: renders the folders of examples/ again."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from fast_sam3d.errors import ConfigError, suggest
from fast_sam3d.mini.data import examples
from fast_sam3d.mini.data.still_lifes import EXAMPLES, render

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--output_dir", metavar="DIR", type=Path, default=Path("examples"), help="their parent folder")
    names = examples.names()
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", default=names, help=f"of {', '.join(names)} (default: all)"
    )
    parser.add_argument("--longest", metavar="PIXELS", type=int, help="longer side (default: as bundled)")


def main(args: argparse.Namespace) -> int:
    """Render and write the examples."""
    from fast_sam3d.outputs.folder import check_target, result_folder

    wanted = args.only
    for name in set(wanted) - set(examples.names()):
        raise ConfigError(f"--only: there is no example '{name}': {suggest(name, examples.names())}")
    if args.longest is not None and not 32 <= args.longest <= 4096:
        raise ConfigError(f"--longest is {args.longest}: give 32 to 4096 pixels")
    for name in wanted:
        check_target(args.output_dir / name, examples.file_names())
    for example in EXAMPLES:
        if example.name in wanted:
            with result_folder(args.output_dir / example.name) as folder:
                examples.write(folder, example, render(example, args.longest))
            log.info("%s", args.output_dir / example.name)
    if examples.PHOTO in wanted:
        rgb = examples.photograph()
        if rgb is None:
            log.warning("%s is left out: this scikit-image brings no picture 'coffee'", examples.PHOTO)
            return 0
        with result_folder(args.output_dir / examples.PHOTO) as folder:
            examples.write_photo(folder, rgb)
        log.info("%s", args.output_dir / examples.PHOTO)
    return 0
