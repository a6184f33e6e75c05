"""Names and layouts of tensors: those of the published files, and those of the native modules.

A generator's file also holds its condition embedder. Its names begin with `_base_models.generator.` and
`_base_models.condition_embedder.`; the copy of the decoder under `_base_models.decoder.` has no use. Decoders have
files of their own, with plain names. Converted files keep these names, or drop `_base_models.` or the whole beginning;
some add `state_dict.`.

Sparse convolutions are spconv's: named `X.conv.weight`, with the layout [out, k, k, k, in]. A kernel of one tap is
stored in that shape, but spconv multiplies by the same memory as [in, out] (traveller59/spconv#450).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "NETWORKS", "ROOT", "SPARSE", "UNUSED", "module_tensor", "of_network", "published_name", "stray_names",
    "weights_file",
]  # fmt: skip

ROOT: Final = "_base_models."
UNUSED: Final = f"{ROOT}decoder."
"""Beginning of the names of a copy of the decoder, which nothing reads."""
_KNOWN: Final = (f"{ROOT}generator.", f"{ROOT}condition_embedder.", UNUSED)

NETWORKS: Final[Mapping[str, tuple[str, str]]] = {
    "ss_generator": ("ss_generator", "generator"),
    "ss_condition_embedder": ("ss_generator", "condition_embedder"),
    "slat_generator": ("slat_generator", "generator"),
    "slat_condition_embedder": ("slat_generator", "condition_embedder"),
    "ss_decoder": ("ss_decoder", ""),
    "slat_decoder_mesh": ("slat_decoder_mesh", ""),
    "slat_decoder_gs": ("slat_decoder_gs", ""),
    "slat_decoder_gs_4": ("slat_decoder_gs_4", ""),
}
"""The networks of a checkpoint: the file that holds each, and its name in there; "" for the only one of its file."""

SPARSE: Final = r"((?:input|out)_blocks\.\d+\.conv[12]|upsample\.\d+\.(?:out_layers\.[03]|skip_connection))"
"""Pattern of the ends of names of sparse convolutions, without what follows."""
_IN_FILE: Final = re.compile(rf"(.*\b{SPARSE})\.conv\.(weight|bias)")
_Value = TypeVar("_Value")


def weights_file(named: Path) -> Path:
    """The file to read for the one that pipeline.yaml names: the `.safetensors` of that name where there is one.

    Of both formats, `.safetensors` takes precedence; `named` where there is neither.
    """
    converted, other = named.with_suffix(".safetensors"), named.with_suffix(".ckpt")
    return next((path for path in (converted, named, other) if os.path.isfile(path)), named)


def published_name(name: str) -> str:
    """The name in the published file for one in a converted file."""
    name = name.removeprefix("state_dict.")
    return ROOT + name if name.startswith(("generator.", "condition_embedder.", "decoder.")) else name


def of_network(tensors: Mapping[str, _Value], network: str) -> dict[str, _Value]:
    """The tensors of one network by their names in it; all, where names carry no network."""
    start = f"{ROOT}{network}."
    if not network or not any(name.startswith(ROOT) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def stray_names(tensors: Mapping[str, object]) -> list[str]:
    """Names in a generator's file that belong to no network, which the stock loader skips too."""
    if not any(name.startswith(ROOT) for name in tensors):
        return []
    return sorted(name for name in tensors if not name.startswith(_KNOWN))


def module_tensor(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Name and layout in a module of a tensor of a file; a view of its memory.

    Args:
        name: in the file, without the beginning that says the network.
        tensor: kernels [out, k, k, k, in] of sparse convolutions become [k³, in, out], and, with one tap, the weight
            [out, in] of a linear layer. All others are unchanged.
    """
    found = _IN_FILE.fullmatch(name)
    if found is None:
        return name, tensor
    name = f"{found[1]}.{found[3]}"
    if tensor.dim() != 5:
        return name, tensor
    out_channels, *taps, in_channels = tensor.shape
    if taps == [1, 1, 1]:
        return name, tensor.reshape(in_channels, out_channels).T
    return name, tensor.flatten(1, 3).permute(1, 2, 0)
