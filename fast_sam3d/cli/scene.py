"""`fast-sam3d scene`: not there yet, and says so."""

from __future__ import annotations

import argparse

from fast_sam3d.errors import ConfigError

__all__ = ["NOT_YET", "add_arguments", "main"]

OVERRIDES = True
NOT_YET = (
    "scenes come with a later version: "
    "until then run `python infer.py --image_path DIR --mask_index N` once for each mask"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image_dir", "--image_path", metavar="DIR", help="a folder with image.png and its masks")
    parser.add_argument("--output_dir", metavar="DIR", help="where the results go")


def main(args: argparse.Namespace) -> int:
    raise ConfigError(NOT_YET)
