"""`fast-sam3d view`: opens a finished result in the browser."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from fast_sam3d.viewer.server import ViewerServer, result_page

PORT = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "result", metavar="RESULT", help="a folder that infer or scene has written, or a .glb, .ply, .spz or .sog"
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--no_browser", action="store_true", help="print the address, and open no browser")


def main(args: argparse.Namespace) -> int:
    folder, page = result_page(Path(args.result))
    with ViewerServer(folder, args.port) as server:
        print(f"{server.address}{page}\nCtrl-C ends the viewer.", flush=True)
        if not args.no_browser:
            webbrowser.open(server.address + page)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
