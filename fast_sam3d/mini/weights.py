"""Weights of one network in one safetensors file: half precision on disk, float32 in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.mini.pipeline_config import CONFIG_NAME, REPAIR


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a network's state as float16; the file appears whole or not at all.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    from safetensors.torch import save

    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in module.state_dict().items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that float16 cannot hold")
    aside = path.with_suffix(".tmp")
    aside.write_bytes(save(state))
    aside.replace(path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote, converting to the network's own types.

    Raises:
        CheckpointError: missing, cut short, damaged, or of another network; names the file and what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # Read at once, not mapped: a file replaced later cannot change a loaded model.
        state = load(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"the weights {path} are missing: {REPAIR}") from error
    except OSError as error:
        raise CheckpointError(f"the weights {path} cannot be read ({error.strerror}): {REPAIR}") from error
    except SafetensorError as error:
        raise CheckpointError(f"the weights {path} are damaged or cut short: {REPAIR}") from error
    wanted = {name: value.shape for name, value in module.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(f"the weights {path} do not fit {CONFIG_NAME} beside them ({odd[0]} differs): {REPAIR}")
    for name, value in state.items():
        if not value.isfinite().all():
            raise CheckpointError(f"the weights {path} are damaged ({name} is not finite): {REPAIR}")
    module.load_state_dict(state)
