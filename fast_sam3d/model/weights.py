"""Weights of one network in one safetensors file: float16 on disk, float32 in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import nn

from fast_sam3d.documents import read_json
from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config_file import CONFIG_NAME, REPAIR
from fast_sam3d.model.finite import is_finite
from fast_sam3d.model.weight_files import fill, map_tensors
from fast_sam3d.outputs.digests import file_digest
from fast_sam3d.outputs.files import atomic_write, save_json

HASHES_NAME: Final = "sha256.json"
"""File with the SHA-256 of every weights file of a folder, to detect flipped bits."""


def save_weights(module: nn.Module, path: Path) -> str:
    """Write a network's state as float16, atomically.

    Returns:
        The file's SHA-256, 64 hexadecimal digits.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    from safetensors.torch import save

    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in module.state_dict().items()}
    for name, value in state.items():
        if not is_finite(value):
            raise ValueError(f"{name} has values that float16 cannot hold")
    content = save(state)
    with atomic_write(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def load_weights(module: nn.Module, path: Path, sha256: str | None = None) -> None:
    """Read what `save_weights` wrote, converted to the network's dtypes.

    Args:
        module: receives the weights.
        path: of the file.
        sha256: expected checksum; None for no check.

    Raises:
        CheckpointError: missing, truncated, damaged, or of another network; names the file and what to do.
    """
    tensors = map_tensors(path, REPAIR)
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise CheckpointError(f"the weights {path} are damaged ({HASHES_NAME} has another checksum): {REPAIR}")
    fill(module, tensors, path, REPAIR)


def save_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Write `HASHES_NAME`: file name to SHA-256."""
    save_json(folder / HASHES_NAME, dict(hashes))


def load_hashes(folder: Path) -> dict[str, str]:
    """Read what `save_hashes` wrote; empty if there is no such file, as in older folders.

    Raises:
        CheckpointError: not a mapping of file names to SHA-256.
    """
    path = folder / HASHES_NAME
    if not path.exists():
        return {}
    found = read_json(path, error=CheckpointError, advice=REPAIR)
    hashes = found.values() if isinstance(found, dict) else ()
    if not hashes or not all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in hashes):
        raise CheckpointError(f"{path} holds no checksums: {REPAIR}")
    return found


def weights_digest(folder: Path) -> str:
    """Hexadecimal SHA-256 of a checkpoint folder's weights and `CONFIG_NAME`."""
    return file_digest([folder / CONFIG_NAME, *folder.glob("*.safetensors")], folder)
