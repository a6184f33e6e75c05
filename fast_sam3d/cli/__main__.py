"""`python -m fast_sam3d.cli` is the console script."""

import sys

from fast_sam3d.cli import main

sys.exit(main())
