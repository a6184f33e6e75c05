"""A command of fast-sam3d with the stock classes on a CPU: `python -m tests.stock.command measure-native --json`."""

from __future__ import annotations

import importlib
import sys

from fast_sam3d.cli import main
from tests.stock.stand_ins import importable, on_cpu


def import_stock() -> None:
    """Import the parts that are measured, so that they can be imported outside of `importable`, too."""
    with importable():
        for name in ("modules.sparse", "representations.mesh", "models.structured_latent_vae.decoder_mesh"):
            importlib.import_module(f"sam3d_objects.model.backbone.tdfy_dit.{name}")


if __name__ == "__main__":
    import_stock()
    with on_cpu():
        sys.exit(main(sys.argv[1:]))
