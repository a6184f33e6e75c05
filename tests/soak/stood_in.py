"""Lets a process load a pipeline without networks; worker processes import this in place of the main module."""

from __future__ import annotations

from fast_sam3d.checkpoints import load as loading
from tests.stand_in import StandIn

loading.load_checkpoint = lambda *asked: StandIn()  # type: ignore[assignment]
