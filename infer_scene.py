"""One picture and several masks to one scene. `python infer_scene.py --help` lists the flags."""

import sys

from fast_sam3d.cli import main

if __name__ == "__main__":
    sys.exit(main(["scene", *sys.argv[1:]]))
