"""Builds the native pipeline: SAM 3D Objects from a checkpoint folder, on PyTorch alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.devices import half_problem
from fast_sam3d.checkpoints.expected_time import cpu_notice
from fast_sam3d.checkpoints.files import check_stock_files, converted_files
from fast_sam3d.errors import CheckpointError

__all__ = ["check_native", "implemented", "load_native", "load_synthetic"]

log = logging.getLogger(__name__)

_RESTORE = "download or convert this file again"


def check_native(folder: Path, device: Any, help_text: str) -> Any:
    """Check that a folder is complete, that its settings are implemented, and that the smallest memory plan fits.

    Reads yaml files and headers of weights, builds nothing. Returns the settings (`native.settings.NativeSettings`).

    Args:
        folder: of pipeline.yaml.
        device: torch device.
        help_text: how to get missing files, for error messages.

    Raises:
        FastSam3dError: why the native runtime cannot use the folder on this device.
    """
    from fast_sam3d.native import plans
    from fast_sam3d.native.settings import NativeSettings

    check_stock_files(folder, help_text)
    settings = NativeSettings.read(folder)
    plans.choose(plans.AUTO, device, _half(settings.dtype, device, None))
    return settings


def load_native(
    folder: Path, device: Any, dtype: Any, depth_model: str | None, memory: str, half_cache: bool, help_text: str
) -> Any:
    """Build the native pipeline. Weights are read from their files when a stage needs them.

    Args:
        folder: of pipeline.yaml.
        device: torch device.
        dtype: torch dtype; None: that of the checkpoint, on a CPU float32.
        depth_model: as from `check_depth_model`; None leaves it to the checkpoint.
        memory: name of the memory plan.
        half_cache: read weights in half precision from a copy of them, which is written once.
        help_text: how to get missing files, for error messages.

    Raises:
        FastSam3dError: a file is missing, damaged or not implemented, or the device has too little memory.
    """
    from fast_sam3d.native.depth import DepthModel, depth_part
    from fast_sam3d.native.half_cache import cached_parts
    from fast_sam3d.native.networks import file_parts

    settings = check_native(folder, device, help_text)
    if converted := converted_files(folder):
        log.info("weights: %s instead of the files that pipeline.yaml names", ", ".join(converted))
    half = _half(settings.dtype, device, dtype)
    if half_cache and half is None:
        log.warning("pipeline.half_cache has no effect in float32, in which the weights are read from their files")
    name = depth_model or settings.depth_model
    depth = None if name is None else depth_part(name, folder)
    if half_cache and half is not None:
        parts = cached_parts(folder, settings, half, _RESTORE)
    else:
        parts = file_parts(folder, settings, _RESTORE)
    if depth is None:
        return _pipeline(settings, parts, device, half, memory, None)
    parts[depth.name] = depth
    return _pipeline(settings, parts, device, half, memory, DepthModel(depth.module))


def load_synthetic(device: Any, dtype: Any, memory: str, settings: Any = None, **sizes: Any) -> Any:
    """Build the native pipeline with random weights (see `native.synthetic`). Needs no files, and writes none.

    Args:
        device, dtype, memory: as of `load_native`.
        settings: sizes; None: the published ones.
        sizes: further arguments of `synthetic_parts`.

    Raises:
        FastSam3dError: the device has too little memory.
    """
    from fast_sam3d.native.settings import PUBLISHED
    from fast_sam3d.native.synthetic import synthetic_parts

    settings = settings or PUBLISHED
    half = _half(settings.dtype, device, dtype)
    log.warning("synthetic: the weights are random, so the result is noise; time and memory are those of real weights")
    parts, depth_model = synthetic_parts(settings, **sizes)
    return _pipeline(settings, parts, device, half, memory, depth_model)


def implemented(folder: Path) -> str | None:
    """The first setting of a checkpoint folder that the native runtime does not implement; None: it implements all."""
    from fast_sam3d.native.settings import NativeSettings

    try:
        NativeSettings.read(folder)
    except CheckpointError as error:
        return str(error)
    return None


def _pipeline(settings: Any, parts: dict[str, Any], device: Any, half: Any, memory: str, depth_model: Any) -> Any:
    """The pipeline of parts on a device, under the memory plan of that name."""
    import torch

    from fast_sam3d.native.pipeline import NativePipeline
    from fast_sam3d.native.residency import Residency

    wanted = getattr(torch, settings.dtype)
    if half is None and device.type != "cpu" and (problem := half_problem(device, wanted)):
        log.warning("the networks run in float32: %s", problem)
    residency = Residency.planned(parts, memory, device, half)
    if device.type == "cpu" and (notice := cpu_notice(settings, half)):
        log.warning(notice)
    return NativePipeline(settings, parts, device, half, residency, depth_model)


def _half(published: str, device: Any, dtype: Any) -> Any:
    """The type of half precision to run in; None: float32."""
    import torch

    if dtype is None:
        dtype = getattr(torch, published)
        if device.type == "cpu" or (dtype.itemsize == 2 and half_problem(device, dtype)):
            dtype = torch.float32
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise CheckpointError(f"the native runtime does not run in {dtype}: give float32, float16 or bfloat16")
    return None if dtype is torch.float32 else dtype
