"""The depth model of a pipeline: MoGe v1 with the user's weights, from a file or the Hugging Face hub.

part = depth_part("Ruicheng/moge-vitl", folder)
pipeline.depth_model = DepthModel(part.module)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fast_sam3d.errors import CheckpointError, first_line
from fast_sam3d.model.half import half_weights
from fast_sam3d.model.weight_files import map_content, map_tensors
from fast_sam3d.native.moge import PUBLISHED_DEPTH, MoGe, MoGeConfig
from fast_sam3d.native.weights import Tensors, WeightsPart

__all__ = ["PUBLISHED_DEPTH", "DepthModel", "MoGeWeights", "depth_part"]

_FILE: Final = "model.pt"
_ON_HUB: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OTHERWISE: Final = (
    f"give the model.pt of {PUBLISHED_DEPTH} (pipeline.depth_model=PATH) or a pointmap (--pointmap FILE)"
)
_RESTORE: Final = f"give the model.pt of {PUBLISHED_DEPTH}, or a pointmap"


class DepthModel:
    """Called with a picture for its points, as the stock pipeline's depth model is.

    Attribute names match sam3d_objects/pipeline/depth_models (`MoGe`).

    Args:
        model: a `MoGe`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return self.model.device

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """What `MoGe.infer` returns for an image [3, H, W] in 0..1, with the points also as `pointmaps`."""
        found = self.model.infer(image.to(self.device))
        return {**found, "pointmaps": found["points"]}


class MoGeWeights:
    """Source of the weights of a MoGe network (see `native.weights.Source`); the hub is asked when they are needed.

    Args:
        name: a file, or a name on the hub.
        folder: of the checkpoint; relative files may be in there.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path = name, _here(name, folder)
        # Of a file on the hub that is not here yet: those of the published one.
        self.config = MoGeConfig() if self.path is None else _settings(self.path)

    @contextmanager
    def opened(self) -> Iterator[Tensors]:
        """The tensors by their names in the network."""
        if self.path is None:
            path = _downloaded(self.name)
            if _settings(path) != self.config:
                raise CheckpointError(f"{path} has other settings than {PUBLISHED_DEPTH}: load the pipeline again")
            self.path = path
        yield map_tensors(self.path, _RESTORE, under="model")

    def refuse(self, name: str, fault: str) -> CheckpointError:
        """The error about a tensor; `{}` in the fault stands for its name."""
        return CheckpointError(f"the weights {self.path or self.name} {fault.format(name)}: {_RESTORE}")


def depth_part(name: str, folder: Path) -> WeightsPart:
    """The depth network on the meta device and the source of its weights, as a part of a pipeline.

    Args:
        name: a file, or a folder with a model.pt, absolute or relative to the working directory or to `folder`; or
            owner/name on the hub, which is asked when the weights are needed.
        folder: of the checkpoint.

    Raises:
        CheckpointError: a file that is missing, damaged or not of MoGe v1; settings that are not implemented; a tensor
            that is missing, surplus or misshapen.
    """
    weights = MoGeWeights(name, folder)
    try:
        with torch.device("meta"):
            network = MoGe(weights.config)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"the depth model {name} describes a network that cannot be built ({first_line(error)}): {_RESTORE}"
        ) from error
    part = WeightsPart("depth_model", network, {None: weights}, frozenset(half_weights(network)), [])
    if weights.path is not None:
        part.check()
    return part


def _here(name: str, folder: Path) -> Path | None:
    """The file on this machine; None: on the hub, and not in its cache.

    Raises:
        CheckpointError: the name can only be a file, and there is none.
    """
    from huggingface_hub import try_to_load_from_cache

    path = Path(name).expanduser()
    for found in (path, path / _FILE, folder / path, folder / path / _FILE):
        if found.is_file():
            return found
    if not _ON_HUB.fullmatch(name) or path.suffix in (".ckpt", ".pt", ".pth", ".safetensors"):
        raise CheckpointError(f"the depth model {name} is missing: {_RESTORE}")
    cached = try_to_load_from_cache(name, _FILE)
    return Path(cached) if isinstance(cached, str) else None


def _downloaded(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, _FILE))
    except Exception as error:  # of the hub, the network, the disk, or HF_HUB_OFFLINE
        raise CheckpointError(
            f"the depth model {name} is not in the hub's cache and cannot be downloaded ({first_line(error)}): "
            f"connect this computer, or {_OTHERWISE}"
        ) from error


def _settings(path: Path) -> MoGeConfig:
    """What a file says of its network.

    Raises:
        CheckpointError: no file of MoGe v1.
    """
    content = map_content(path, _RESTORE)
    config: Any = content.get("model_config")
    if not isinstance(config, Mapping) or not isinstance(content.get("model"), Mapping):
        raise CheckpointError(f"{path} is no file of MoGe, which has `model_config` and `model`: {_RESTORE}")
    return MoGeConfig.read(config, str(path))
