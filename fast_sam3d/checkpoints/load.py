"""Finds a checkpoint and builds its pipeline: the embedded model, or SAM 3D Objects with the user's own weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fast_sam3d.checkpoints.files import check_stock_files, check_stock_homes, read_yaml
from fast_sam3d.config.packaged import checkpoint_roots, resource
from fast_sam3d.errors import CheckpointError, suggest

__all__ = [
    "GATED_HELP",
    "Checkpoint",
    "check_depth_model",
    "check_stock_folder",
    "find_checkpoint",
    "load_checkpoint",
    "load_pipeline",
    "stock_folders",
]

log = logging.getLogger(__name__)

DEFAULT_STOCK_TAG = "hf"
GATED_HELP = (
    "the SAM 3D Objects weights are gated: request access on https://huggingface.co/facebook/sam-3d-objects, "
    "run `hf auth login` (or set HF_TOKEN), then `fast-sam3d download` puts them into checkpoints/hf"
)
# Where pipeline.yaml says what the depth model's from_pretrained takes: a file, or a name on the hub.
_DEPTH_KEY = "depth_model.model.pretrained_model_name_or_path"
_DEPTH_CLASSES = "sam3d_objects.pipeline.depth_models."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with weights. `kind`: "mini" for the embedded model's classes, "sam3d" for the stock ones."""

    tag: str
    folder: Path
    kind: Literal["mini", "sam3d"]
    reason: str


def load_pipeline(
    tag_or_path: str | Path | None = None,
    device: Any = None,
    dtype: Any = None,
    depth_model: str | Path | None = None,
) -> Any:
    """Builds a pipeline that `accelerate` and `run` work on.

    Args:
        tag_or_path: "mini", the name of a folder under checkpoints/, or a path. None takes the user's SAM 3D Objects
            weights if they are there and usable, else the embedded model, and logs which and why.
        device: torch device or its name; None takes cuda if there is one, else cpu.
        dtype: torch dtype or its name; None leaves it to the checkpoint.
        depth_model: MoGe weights instead of those that the SAM 3D Objects checkpoint names: a model.pt, a folder that
            holds one, or a name on the hub. None leaves it to the checkpoint.

    Raises:
        CheckpointError: no such folder; files missing, corrupt or not to be trusted; the package or the GPU that they
            need is not there.
    """
    chosen_depth = None if depth_model is None else check_depth_model(depth_model)
    checkpoint = find_checkpoint(tag_or_path)
    log.info("pipeline: %s (%s), because %s", checkpoint.tag, checkpoint.folder, checkpoint.reason)
    return load_checkpoint(checkpoint, device, dtype, chosen_depth)


def load_checkpoint(
    checkpoint: Checkpoint, device: Any = None, dtype: Any = None, depth_model: str | Path | None = None
) -> Any:
    """Builds the pipeline of a checkpoint that was found. Arguments and errors as `load_pipeline`."""
    chosen = _device(device)
    if checkpoint.kind == "mini":
        if depth_model is not None:
            raise CheckpointError("the embedded model has no depth model to replace: give a pointmap, or leave it out")
        precision = _dtype(dtype)
        if chosen.type == "cpu" and str(precision) == "torch.float16":
            log.warning("float16 is much slower than float32 on a CPU: leave pipeline.dtype out")
        return _load_mini(checkpoint, chosen, precision)
    name = None if dtype is None else str(_dtype(dtype)).removeprefix("torch.")
    return _load_stock(checkpoint, chosen, name, None if depth_model is None else check_depth_model(depth_model))


def find_checkpoint(tag_or_path: str | Path | None = None) -> Checkpoint:
    """Resolves a tag or path to a folder, without loading anything. Arguments and errors as `load_pipeline`."""
    if tag_or_path is None:
        return _default()
    name = str(tag_or_path)
    if not name:
        raise CheckpointError("the tag is empty: give mini, the name of a folder under checkpoints/, or a path")
    roots = checkpoint_roots()
    # A tag wins over a folder of that name in the working folder; a path has a separator, or is only dots.
    tagged = [root / name for root in roots] if name.strip(".") else []
    for folder in [*tagged, Path(name)]:
        if _is_folder(folder):
            return Checkpoint(name, folder.resolve(), _kind(folder.resolve()), "it was asked for")
    if name == "mini":
        return Checkpoint("mini", resource("checkpoints/mini"), "mini", "it was asked for")
    tags = {p.name for root in roots for p in _folders(root)} | {"mini"}
    help_text = f"; {GATED_HELP}" if name == DEFAULT_STOCK_TAG else ""
    raise CheckpointError(f"there is no checkpoint '{name}' under checkpoints/: {suggest(name, tags)}{help_text}")


def _default() -> Checkpoint:
    problem = f"there are no SAM 3D Objects weights in checkpoints/{DEFAULT_STOCK_TAG}"
    for folder in stock_folders():
        try:
            _check_stock(folder)
        except CheckpointError as error:
            problem = f"the weights in {folder} cannot be used: {error}"
            continue
        return Checkpoint(folder.name, folder, "sam3d", "these SAM 3D Objects weights are there and usable")
    return Checkpoint("mini", resource("checkpoints/mini"), "mini", problem)


def stock_folders() -> list[Path]:
    """Folders under checkpoints/ that are meant for the stock weights, checkpoints/hf first."""
    found = [p for root in checkpoint_roots() for p in _folders(root) if p.name != "mini"]
    stock = [p for p in found if p.name == DEFAULT_STOCK_TAG or ((p / "pipeline.yaml").is_file() and _is_stock(p))]
    return sorted(stock, key=lambda p: p.name != DEFAULT_STOCK_TAG)


def check_stock_folder(folder: Path) -> str | None:
    """Says what is wrong with the files of a stock checkpoint; None where they are whole. Imports no class of it."""
    try:
        _kind(folder)
        check_stock_files(folder, GATED_HELP)
    except CheckpointError as error:
        return str(error)
    return None


def _is_folder(path: Path) -> bool:
    try:
        return path.expanduser().is_dir()
    except (OSError, RuntimeError):  # a name too long for the file system, or the home of an unknown user
        return False


def _folders(root: Path) -> list[Path]:
    """The folders in `root`, by name. A hidden one is an unfinished download."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_stock(folder: Path) -> bool:
    try:
        return _kind(folder) == "sam3d"
    except CheckpointError:
        return False


def _kind(folder: Path) -> Literal["mini", "sam3d"]:
    """Tells the two kinds apart by the classes that pipeline.yaml names."""
    path = folder / "pipeline.yaml"
    if not path.is_file():
        inner = folder / "checkpoints" / "pipeline.yaml"
        if inner.is_file():
            raise CheckpointError(f"{folder} is the whole download: use its inner folder, {inner.parent}")
        if folder.name == DEFAULT_STOCK_TAG:
            raise CheckpointError(f"{folder} holds no pipeline.yaml; {GATED_HELP}")
        within = [p.name for p in _folders(folder) if (p / "pipeline.yaml").is_file()]
        hint = f"use a folder in it, such as {within[0]}" if within else "give the folder where the weights lie"
        raise CheckpointError(f"{folder} holds no pipeline.yaml, so it is no checkpoint: {hint}")
    settings = read_yaml(path)
    if "_target_" not in settings:
        return "mini"
    target = str(settings["_target_"])
    if target.split(".", 1)[0] != "sam3d_objects":
        raise CheckpointError(
            f"{path} would build '{target}', which is neither SAM 3D Objects nor the embedded model: "
            "use no checkpoint from a source that you do not trust"
        )
    return "sam3d"


def _device(device: Any) -> Any:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"'{device}' is not a device: give cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device} was asked for and torch sees no CUDA GPU: use --device cpu")
    if chosen.type == "cuda" and chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise CheckpointError(f"there is no device {device}: torch sees {torch.cuda.device_count()} GPU(s)")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise CheckpointError("device mps was asked for and torch cannot use it here: use --device cpu")
    if chosen.type == "meta":
        raise CheckpointError("the device meta holds no numbers, so nothing can run on it: use --device cpu")
    if chosen.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=chosen).cpu()
        # Every backend that torch was built without has its own way to say so, AssertionError among them.
        except Exception as error:
            raise CheckpointError(
                f"device {device} was asked for and this torch cannot use it ({type(error).__name__}): use --device cpu"
            ) from error
    return chosen


def _dtype(dtype: Any) -> Any:
    import torch

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise CheckpointError(f"'{dtype}' is not a dtype: {suggest(str(dtype), known)}")
    return known[dtype]


def _load_mini(checkpoint: Checkpoint, device: Any, dtype: Any) -> Any:
    from fast_sam3d.model.pipeline import MiniPipeline

    return MiniPipeline.from_pretrained(checkpoint.folder, device=device, dtype=dtype)


def _check_stock(folder: Path) -> None:
    """Raises CheckpointError unless the stock pipeline could be built from `folder` here."""
    import torch

    if not (folder / "pipeline.yaml").is_file():
        _kind(folder)
    check_stock_files(folder, GATED_HELP)
    if importlib.util.find_spec("sam3d_objects") is None:
        raise CheckpointError(
            "the package sam3d_objects is not importable: install SAM 3D Objects from its repository "
            "(facebookresearch/sam-3d-objects), or use --tag mini"
        )
    if not torch.cuda.is_available():
        raise CheckpointError("SAM 3D Objects needs an NVIDIA GPU and torch sees none: use --tag mini")


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
    hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)) and file.suffix not in (
        ".pt",
        ".pth",
        ".ckpt",
        ".safetensors",
    )
    if path.is_dir() or not hub:
        raise CheckpointError(
            f"there is no depth model {file}: give a MoGe model.pt, a folder that holds one, or a name on the hub "
            "such as Ruicheng/moge-vitl"
        )
    return str(name)


def _load_stock(checkpoint: Checkpoint, device: Any, dtype: str | None, depth_model: str | None) -> Any:
    _check_stock(checkpoint.folder)
    from hydra.utils import instantiate

    with _stock_environment(), _current_device(device):
        check_stock_homes(checkpoint.folder)
        config = _stock_config(checkpoint.folder, device, dtype, depth_model)
        try:
            return instantiate(config)
        except Exception as error:  # whatever the package raises while it is built; the cause stays attached
            if _out_of_memory(error):
                raise
            cause = error.__cause__ or error
            detail = (str(cause).strip().split("\n", 1)[0] or type(cause).__name__)[:300]
            raise CheckpointError(
                f"SAM 3D Objects cannot be built from {checkpoint.folder} ({type(cause).__name__}: {detail}): "
                "check its installation and that the download is complete"
            ) from error


def _stock_config(folder: Path, device: Any, dtype: str | None, depth_model: str | None) -> Any:
    """pipeline.yaml with the settings of the stock loader, and with what was asked for."""
    from omegaconf import OmegaConf

    config: Any = OmegaConf.load(folder / "pipeline.yaml")
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
def _stock_environment() -> Iterator[None]:
    """Environment variables that the stock code wants while it is imported and built. A user's values stand."""
    wanted = {
        # Without it the package's import runs an initialisation that is not part of the release.
        "LIDRA_SKIP_INIT": "true",
        # Read without a default where the code expects conda (notebook/inference.py); any folder will do.
        "CONDA_PREFIX": sys.prefix,
    }
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


def _out_of_memory(error: BaseException | None) -> bool:
    import torch

    while error is not None:
        if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
            return True
        error = error.__cause__
    return False
