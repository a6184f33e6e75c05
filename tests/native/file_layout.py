"""Names and layouts of the published files for tensors of the native modules: the inverse of what is read."""

from __future__ import annotations

import re
from typing import Final

from torch import Tensor

from fast_sam3d.native.names import SPARSE

_IN_MODULE: Final = re.compile(rf"(.*\b{SPARSE})\.(weight|bias)")


def spconv_name(name: str) -> str:
    """The name in a file for one in a module, both without the beginning that says the network."""
    found = _IN_MODULE.fullmatch(name)
    return f"{found[1]}.conv.{found[3]}" if found else name


def file_tensor(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The inverse of `fast_sam3d.native.names.module_tensor`."""
    in_file = spconv_name(name)
    if in_file == name or not name.endswith("weight"):
        return in_file, tensor
    if tensor.dim() == 2:
        out_channels, in_channels = tensor.shape
        return in_file, tensor.T.reshape(out_channels, 1, 1, 1, in_channels)
    taps, in_channels, out_channels = tensor.shape
    edge = round(taps ** (1 / 3))
    return in_file, tensor.permute(2, 0, 1).reshape(out_channels, edge, edge, edge, in_channels)
