"""A checkpoint folder of the published form with small random weights, without the stock classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from fast_sam3d.native.names import NETWORKS, ROOT, UNUSED
from fast_sam3d.native.networks import build_networks
from fast_sam3d.native.settings import NativeSettings
from tests.native.file_layout import file_tensor
from tests.stock.native import published


def write_checkpoint(folder: Path, seed: int = 0, equal_encoders: bool = True, ending: str = ".ckpt") -> Path:
    """Every file of a checkpoint.

    Args:
        equal_encoders: all copies of the image encoder have the same weights.
        ending: of the weights; the yaml names `.ckpt` files in any case.
    """
    for name, settings in {"pipeline": published.pipeline(), **published.networks()}.items():
        OmegaConf.save(OmegaConf.create(settings), folder / f"{name}.yaml")
    files: dict[str, dict[str, Tensor]] = {}
    generator = torch.Generator().manual_seed(seed)
    for name, network in build_networks(NativeSettings.read(folder)).items():
        file, inner = NETWORKS[name]
        start = f"{ROOT}{inner}." if inner else ""
        for key, like in network.state_dict().items():
            value = 0.1 * torch.randn(like.shape, generator=generator)
            key, value = file_tensor(key, value)
            files.setdefault(file, {})[start + key] = value.contiguous()
    if equal_encoders:
        for tensors in files.values():
            for key in [key for key in tensors if "module_list.1.backbone" in key]:
                tensors[key] = files["ss_generator"][key.replace("module_list.1", "module_list.0")]
        for key in [key for key in files["slat_generator"] if "module_list.0.backbone" in key]:
            files["slat_generator"][key] = files["ss_generator"][key]
    files["ss_generator"] |= {UNUSED + key: value for key, value in files["ss_decoder"].items()}
    for file, tensors in files.items():
        save(folder / f"{file}{ending}", tensors, wrapped=file.endswith("generator"))
    return folder


def save(path: Path, tensors: dict[str, Tensor], wrapped: bool) -> None:
    """A weights file; wrapped: as Lightning writes it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({key: value.clone() for key, value in tensors.items()}, path)
        return
    torch.save({"state_dict": tensors, "epoch": 1} if wrapped else tensors, path)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.ckpt`."""
    content: Any = torch.load(path, weights_only=True)
    return content.get("state_dict", content)


def change(path: Path, **changes: Any) -> None:
    """Replace tensors of a `.ckpt`; None removes one."""
    tensors = read(path)
    for key, value in changes.items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    save(path, tensors, wrapped=path.stem.endswith("generator"))


def names(tensors: dict[str, Tensor], part: str) -> Iterator[str]:
    """Keys that contain a text."""
    return (key for key in tensors if part in key)
