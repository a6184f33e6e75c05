"""`fast-sam3d demo`: a page in the browser, from a picture to files that can be looked at and downloaded."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from fast_sam3d.cli.flags import MODEL, add_model_flags
from fast_sam3d.cli.tables import print_path
from fast_sam3d.demo.server import PORT, check_gradio, free_port, serving
from fast_sam3d.segment.sam2 import MODEL as SAM2
from fast_sam3d.segment.sam2 import Sam2

OVERRIDES = ("pipeline.layout_postprocess=false", "pipeline.depth_model=FILE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("page")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to serve on; 0.0.0.0 lets other computers of the network in (default: 127.0.0.1, this one alone)",
    )  # fmt: skip
    group.add_argument(
        "--port", type=int, metavar="N", help=f"port to serve on (default: the first free one from {PORT} on)"
    )
    group.add_argument(
        "--share", action="store_true",
        help="also create a public link through Gradio's servers: everybody who has it can use this computer's model",
    )  # fmt: skip
    group.add_argument("--open", action="store_true", help="open the page in the browser")
    group.add_argument(
        "--output_dir", type=Path, metavar="DIR",
        help="keep all results here (default: a temporary folder, with those of the last 20 runs)",
    )  # fmt: skip
    group.add_argument(
        "--sam2", nargs="?", const=SAM2, metavar="MODEL",
        help=f"select objects by SAM 2; needs transformers, and downloads {SAM2} unless another model is named"
        " (default: without weights, by colours and edges)",
    )  # fmt: skip
    add_model_flags(parser.add_argument_group("model"), seed=False, which=False)


def main(args: argparse.Namespace) -> int:
    # The browser needs cores, too: threads of the model that wait for each other without sleeping would then lose most
    # of the time. OpenMP reads this when torch is imported, which is when the model is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    port = free_port(args.host, args.port)
    check_gradio()
    sam2 = None if args.sam2 is None else Sam2(args.sam2)
    from fast_sam3d.demo.engine import Engine

    values = {flag.key: value for flag in MODEL if (value := getattr(args, flag.names[0])) is not None}
    with (
        Engine(values, args.overrides, args.output_dir, start=False) as engine,
        serving(engine, args.host, port, args.share, sam2) as page,
    ):
        print_path(f"demo on {page.local}  (model: {engine.checkpoint.tag}; Ctrl-C ends it)")
        if page.public is not None:
            print_path(f"public link: {page.public}")
        if args.open:
            import webbrowser

            webbrowser.open(page.local)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("ended")
    return 0
