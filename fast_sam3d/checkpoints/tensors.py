"""The networks inside the weights files of a stock checkpoint, and their loading into the stock classes.

Names are those of sam3d_objects/pipeline/inference_pipeline.py, `init_*`; see `native.names`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config import LARGEST
from fast_sam3d.native.names import ROOT, of_network, published_name, weights_file

__all__ = ["check_weights", "instantiate_and_load_from_pretrained", "weights_file"]


def check_weights(named: Path, networks: Mapping[str, Mapping[str, Any]], restore: str) -> None:
    """Check the names and dtypes in a weights file. Reads its header, and no weights.

    Args:
        named: the file that pipeline.yaml names.
        networks: settings by network: "generator", "condition_embedder", or "" for the only one of its file.
        restore: what to do about a bad file, for error messages.

    Raises:
        CheckpointError: the file is damaged, lacks a network or a block of one, or has weights of another type.
    """
    from fast_sam3d.model.weight_files import check_dtype

    path, restore = weights_file(named), _advice(named, restore)
    tensors = _tensors(path, restore)
    for network, settings in networks.items():
        found = of_network(tensors, network)
        if not found:
            raise CheckpointError(f"the weights {path} lack {ROOT}{network}.*: {restore}")
        for name, value in found.items():
            check_dtype(path, name, value.dtype, restore)
        for place, part in _parts(settings):
            count = part.get("num_blocks")
            fault = _block_fault(found, f"{place}blocks.", count) if isinstance(count, int) else None
            if fault := fault or _width_fault(found, place, part):
                raise CheckpointError(f"the weights {path} {fault}: {restore}")


def instantiate_and_load_from_pretrained(
    pipeline: object,
    config: Any,
    ckpt_path: str,
    state_dict_fn: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    state_dict_key: str | None = "state_dict",
    device: Any = "cuda",
) -> Any:
    """Replaces `InferencePipeline.instantiate_and_load_from_pretrained`, with its arguments.

    Reads both formats mapped, without unpickling code, strictly, tensor by tensor and on any device. The stock method
    unpickles `.ckpt` files without restriction, and `.safetensors` on CUDA only, with missing names ignored.
    """
    from hydra.utils import instantiate

    from fast_sam3d.model.weight_files import fill

    named = Path(ckpt_path)
    path, restore = weights_file(named), _advice(named, "download or convert this file again")
    tensors = _tensors(path, restore)
    network = instantiate(config)
    if state_dict_fn is not None:
        wanted = network.state_dict()
        tensors = state_dict_fn(tensors) or {name: value for name, value in tensors.items() if name in wanted}
    fill(network, tensors, path, restore)
    return network.requires_grad_(False).eval().to(device)


def _tensors(path: Path, restore: str) -> dict[str, Any]:
    """The tensors of a file by the names of the published files."""
    from fast_sam3d.model.weight_files import map_tensors

    return {published_name(name): value for name, value in map_tensors(path, restore).items()}


def _parts(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(beginning of the tensors' names, settings) of each part: settings nest as parts do."""
    yield place, settings
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _parts(value, f"{place}{key}.")


def _width_fault(tensors: Mapping[str, Any], start: str, settings: Mapping[str, Any]) -> str | None:
    """What is wrong with the widths of the tensors whose names begin with `start`: one has each width in the yaml."""
    width, ratio = settings.get("model_channels"), settings.get("mlp_ratio")
    sizes = {size for name, value in tensors.items() if name.startswith(start) for size in value.shape}
    widths = {"model_channels": width}
    if isinstance(width, int) and isinstance(ratio, (int, float)) and abs(ratio) < LARGEST:
        widths["mlp_ratio"] = int(width * ratio)
    for key, needed in widths.items():
        if isinstance(needed, int) and sizes and needed not in sizes:
            return f"have no {start}* with {needed} channels ({key} is {settings[key]} in the yaml)"
    return None


def _block_fault(tensors: Mapping[str, Any], start: str, count: int) -> str | None:
    """What is wrong with the blocks whose names begin with `start`: all have the same tensors."""
    blocks: dict[int, dict[str, Any]] = defaultdict(dict)
    for name, value in tensors.items():
        if match := re.match(rf"{re.escape(start)}(\d+)\.(.*)", name):
            blocks[int(match[1])][match[2]] = tuple(value.shape)
    # Not a set of all numbers: what the yaml says may be anything.
    lacking = next((number for number in range(count) if number not in blocks), None)
    surplus = min((number for number in blocks if number >= count), default=None)
    if (odd := surplus if lacking is None else lacking) is not None:
        return f"{'have a surplus' if lacking is None else 'lack'} {start}{odd} (num_blocks is {count} in the yaml)"
    if not blocks:
        return None
    usual = dict(Counter(tuple(sorted(block.items())) for block in blocks.values()).most_common(1)[0][0])
    for number, block in sorted(blocks.items()):
        for name in sorted(usual.keys() | block.keys()):
            if usual.get(name) != block.get(name):
                fault = "lack" if name not in block else "have another shape of" if name in usual else "have a surplus"
                return f"{fault} {start}{number}.{name}"
    return None


def _advice(named: Path, restore: str) -> str:
    used = weights_file(named)
    rest = [path.name for path in (named, named.with_suffix(".ckpt")) if path != used and path.is_file()]
    return f"remove it to use {rest[0]} beside it, or {restore}" if rest else restore
