"""The object that the package rembg cuts out of a picture without a mask."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, first_line

__all__ = ["cut_out"]

log = logging.getLogger(__name__)


def cut_out(image: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """The opacity [H, W] uint8 of the object in a picture [H, W, 3], by rembg's default network (U2-Net).

    Args:
        path: of the picture, for messages.

    Raises:
        InputError: rembg is not installed, or cannot download its network, or finds no object.
    """
    try:
        rembg = importlib.import_module("rembg")
    except (ImportError, SystemExit) as error:  # it exits where onnxruntime is missing
        raise InputError(
            f"--rembg needs the package rembg ({first_line(error)}): pip install 'rembg[cpu]', or give a mask"
        ) from error
    try:
        alpha = np.array(rembg.remove(image, only_mask=True), np.uint8)
    except (OSError, RuntimeError, ValueError) as error:  # of the download, and of onnxruntime
        raise InputError(f"rembg cannot cut out the object of {path} ({first_line(error)}): give a mask") from error
    alpha = alpha.reshape(alpha.shape[:2])
    if not (alpha > 127).any():
        raise InputError(f"rembg finds no object in {path}: give a mask, or select the object with --click or --box")
    log.info("%s: rembg cut out %.1f %% of the picture", path, 100 * (alpha > 127).mean())
    return alpha
