"""Builds the stock pipeline of SAM 3D Objects from a checkpoint folder, as its own loader does."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.files import check_stock_files, check_stock_homes, converted_files, read_yaml
from fast_sam3d.checkpoints.packages import holds, importable
from fast_sam3d.checkpoints.requirements import FORK_MARK
from fast_sam3d.checkpoints.tensors import instantiate_and_load_from_pretrained as load_network
from fast_sam3d.errors import CheckpointError, first_line, is_out_of_memory

__all__ = [
    "GATED_HELP", "check_depth_model", "check_named_depth_model", "check_package", "check_stock", "load_stock",
    "stock_environment",
]  # fmt: skip

log = logging.getLogger(__name__)

GATED_HELP = (
    "the SAM 3D Objects weights are gated: request access on https://huggingface.co/facebook/sam-3d-objects, "
    "run `hf auth login` (or set HF_TOKEN), then `fast-sam3d download` puts them into checkpoints/hf"
)
# Where pipeline.yaml says what the depth model's from_pretrained takes: a file, or a name on the hub.
_DEPTH_KEY = "depth_model.model.pretrained_model_name_or_path"
_DEPTH_CLASSES = "sam3d_objects.pipeline.depth_models."


def check_stock(folder: Path) -> None:
    """Raises CheckpointError unless the stock pipeline could be built from `folder` here."""
    import torch

    check_stock_files(folder, GATED_HELP)
    check_package()
    if not torch.cuda.is_available():
        raise CheckpointError(
            "the stock runtime needs an NVIDIA GPU and torch sees none: use the native runtime "
            "(pipeline.runtime=native)"
        )


def check_package() -> None:
    """Raises CheckpointError unless sam3d_objects is importable and is the one of SAM 3D Objects. Imports nothing."""
    if not importable("sam3d_objects"):
        raise CheckpointError(
            "the stock runtime needs the package sam3d_objects, which is not importable: install SAM 3D Objects from "
            "its repository (facebookresearch/sam-3d-objects), or use the native runtime, which needs no "
            "further packages (pipeline.runtime=native)"
        )
    if holds(FORK_MARK):
        raise CheckpointError(
            "the package sam3d_objects is the Fast-SAM3D fork's, whose pipeline has another interface: install "
            "facebookresearch/sam-3d-objects in an environment of its own, or use --tag mini"
        )


def check_depth_model(name: str | Path) -> str:
    """Returns what the depth model's `from_pretrained` takes: an existing file, or a name on the hub ("owner/name").

    Raises:
        CheckpointError: a path where nothing is.
    """
    path = Path(name).expanduser()
    file = path / "model.pt" if path.is_dir() else path
    if file.is_file():
        return str(file.resolve())
    # A second slash, a leading dot or an ending of weights: meant as a path.
    weights = file.suffix in (".pt", ".pth", ".ckpt", ".safetensors")
    hub = not weights and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name))
    if path.is_dir() or not hub:
        raise CheckpointError(
            f"there is no depth model {file}: give a MoGe model.pt, a folder that holds one, or a name on the hub "
            "such as Ruicheng/moge-vitl"
        )
    return str(name)


def check_named_depth_model(folder: Path) -> None:
    """Raises CheckpointError if pipeline.yaml names a file as depth model that is not there."""
    path = folder / "pipeline.yaml"
    node: Any = read_yaml(path)
    for key in _DEPTH_KEY.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, str):
        try:
            check_depth_model(node)
        except CheckpointError as error:
            raise CheckpointError(f"{path} names a depth model, but {error}") from error


def load_stock(folder: Path, device: Any, dtype: str | None, depth_model: str | None) -> Any:
    """Builds the stock pipeline.

    Args:
        folder: of pipeline.yaml.
        device: torch device.
        dtype: name of a torch dtype; None leaves it to the checkpoint.
        depth_model: as from `check_depth_model`; None leaves it to the checkpoint.

    Raises:
        CheckpointError: see `check_stock`, or the pipeline cannot be built.
    """
    check_stock(folder)
    if converted := converted_files(folder):
        log.info("weights: %s instead of the files that pipeline.yaml names", ", ".join(converted))
    if depth_model is None:
        check_named_depth_model(folder)
    with stock_environment(), _current_device(device):
        check_stock_homes(folder)
        config = _stock_config(folder, device, dtype, depth_model)
        try:
            return _build(config)
        except CheckpointError:
            raise
        except Exception as error:  # whatever the package raises while it is built; the cause stays attached
            if is_out_of_memory(error):
                raise
            cause = error.__cause__ or error
            raise CheckpointError(
                f"SAM 3D Objects cannot be built from {folder} ({type(cause).__name__}: {first_line(cause)}): "
                "check its installation and that the download is complete"
            ) from error


def _build(config: Any) -> Any:
    """The pipeline of a configuration, with weights read by `load_network`."""
    from hydra.utils import instantiate

    make = instantiate(config, _partial_=True)
    kind = make.func
    if not isinstance(kind, type) or not hasattr(kind, load_network.__name__):
        raise CheckpointError(
            f"'{config._target_}' has no method {load_network.__name__}: install the published SAM 3D Objects"
        )
    # A class of its own instead of a patch of the stock one: a pipeline built in another thread is not affected.
    reading = type(kind)(kind.__name__, (kind,), {load_network.__name__: load_network, "__module__": kind.__module__})
    pipeline = reading(*make.args, **make.keywords)
    pipeline.__class__ = kind
    return pipeline


def _stock_config(folder: Path, device: Any, dtype: str | None, depth_model: str | None) -> Any:
    """pipeline.yaml with the settings of the stock loader, and with what was asked for."""
    from omegaconf import OmegaConf

    config: Any = OmegaConf.create(read_yaml(folder / "pipeline.yaml"))
    # The three values that the stock loader sets too (notebook/inference.py, Inference.__init__).
    config.rendering_engine = "pytorch3d"
    config.compile_model = False
    config.workspace_dir = str(folder)
    config.device = str(device)
    if dtype is not None:
        config.dtype = dtype
    if depth_model is not None:
        if OmegaConf.select(config, _DEPTH_KEY) is None:
            raise CheckpointError(
                f"{folder / 'pipeline.yaml'} names no depth model under {_DEPTH_KEY}, so that none can be replaced"
            )
        OmegaConf.update(config, _DEPTH_KEY, depth_model)
    # Left alone, the depth model goes to "cuda", whatever the pipeline's device is (depth_models/base.py).
    if str(OmegaConf.select(config, "depth_model._target_")).startswith(_DEPTH_CLASSES):
        config.depth_model.setdefault("device", str(device))
    return config


@contextlib.contextmanager
def stock_environment() -> Iterator[None]:
    """Environment variables that the stock code wants while it is imported and built. A user's values stand."""
    # Without the first the package's import runs an initialisation that is not part of the release. The second is read
    # without a default where the code expects conda (notebook/inference.py); any folder will do.
    wanted = {"LIDRA_SKIP_INIT": "true", "CONDA_PREFIX": sys.prefix}
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _current_device(device: Any) -> Iterator[None]:
    """Makes a numbered GPU the current one while the pipeline is built: the stock code loads to plain "cuda"."""
    import torch

    if device.type != "cuda" or device.index is None or device.index == torch.cuda.current_device():
        yield
        return
    log.warning("SAM 3D Objects uses the current GPU in places: call torch.cuda.set_device(%d) too", device.index)
    with torch.cuda.device(device):
        yield
