"""One picture and one mask to a mesh, gaussians and a pose. `python infer.py --help` lists the flags."""

import sys

from fast_sam3d.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
