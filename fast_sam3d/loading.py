"""Finds a checkpoint and builds its pipeline: the embedded model, or SAM 3D Objects with the user's own weights."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fast_sam3d.checkpoint_files import check_stock_files, check_target_homes, read_yaml
from fast_sam3d.errors import CheckpointError, suggest
from fast_sam3d.resources import checkpoint_roots, resource

__all__ = ["GATED_HELP", "Checkpoint", "find_checkpoint", "load_checkpoint", "load_pipeline"]

log = logging.getLogger(__name__)

# The roots that a pipeline.yaml may name as _target_, as in the stock loader (notebook/inference.py).
TARGET_ROOTS = frozenset({"sam3d_objects", "torch", "torchvision", "moge"})
DEFAULT_STOCK_TAG = "hf"
GATED_HELP = (
    "the SAM 3D Objects weights are gated: request access on the hub page facebook/sam-3d-objects, run `hf auth login` "
    "(or `huggingface-cli login`), then download them into checkpoints/hf as checkpoints/README.md says"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with weights. `kind`: "mini" for the embedded model's classes, "sam3d" for the stock ones."""

    tag: str
    folder: Path
    kind: Literal["mini", "sam3d"]
    reason: str


def load_pipeline(tag_or_path: str | Path | None = None, device: Any = None, dtype: Any = None) -> Any:
    """Builds a pipeline that `accelerate` and `run` work on.

    Args:
        tag_or_path: "mini", the name of a folder under checkpoints/, or a path. None takes the user's SAM 3D Objects
            weights if they are there and usable, else the embedded model, and logs which and why.
        device: torch device or its name; None takes cuda if there is one, else cpu.
        dtype: torch dtype or its name; None leaves it to the checkpoint.

    Raises:
        CheckpointError: no such folder; files missing or corrupt; the package or the GPU that they need is not there.
    """
    checkpoint = find_checkpoint(tag_or_path)
    log.info("pipeline: %s (%s), because %s", checkpoint.tag, checkpoint.folder, checkpoint.reason)
    return load_checkpoint(checkpoint, device, dtype)


def load_checkpoint(checkpoint: Checkpoint, device: Any = None, dtype: Any = None) -> Any:
    """Builds the pipeline of a checkpoint that was found. Arguments and errors as `load_pipeline`."""
    chosen = _device(device)
    if checkpoint.kind == "mini":
        return _load_mini(checkpoint, chosen, _dtype(dtype))
    return _load_stock(checkpoint, chosen, None if dtype is None else str(_dtype(dtype)).removeprefix("torch."))


def find_checkpoint(tag_or_path: str | Path | None = None) -> Checkpoint:
    """Resolves a tag or path to a folder, without loading anything. Arguments and errors as `load_pipeline`."""
    if tag_or_path is None:
        return _default()
    name = str(tag_or_path)
    roots = checkpoint_roots()
    # A tag wins over a folder of that name in the working folder; a path has a separator.
    for folder in [root / name for root in roots] + [Path(name).expanduser()]:
        if folder.is_dir():
            return Checkpoint(name, folder.resolve(), _kind(folder), "it was asked for")
    if name == "mini":
        return Checkpoint("mini", resource("checkpoints/mini"), "mini", "it was asked for")
    tags = {p.name for root in roots for p in root.iterdir() if p.is_dir()} | {"mini"}
    help_text = f"; {GATED_HELP}" if name == DEFAULT_STOCK_TAG else ""
    raise CheckpointError(f"there is no checkpoint '{name}' under checkpoints/: {suggest(name, tags)}{help_text}")


def _default() -> Checkpoint:
    problem = f"there are no SAM 3D Objects weights in checkpoints/{DEFAULT_STOCK_TAG}"
    for folder in _stock_folders():
        try:
            _check_stock(folder)
        except CheckpointError as error:
            problem = f"the weights in {folder} cannot be used: {error}"
            continue
        return Checkpoint(folder.name, folder, "sam3d", "these SAM 3D Objects weights are there and usable")
    return Checkpoint("mini", resource("checkpoints/mini"), "mini", problem)


def _stock_folders() -> list[Path]:
    """Folders under checkpoints/ that are meant for the stock weights, checkpoints/hf first."""
    found = [p for root in checkpoint_roots() for p in sorted(root.iterdir()) if p.is_dir() and p.name != "mini"]
    stock = [p for p in found if p.name == DEFAULT_STOCK_TAG or ((p / "pipeline.yaml").is_file() and _is_stock(p))]
    return sorted(stock, key=lambda p: p.name != DEFAULT_STOCK_TAG)


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
        raise CheckpointError(f"{folder} holds no pipeline.yaml; {GATED_HELP}")
    target = str(read_yaml(path).get("_target_", ""))
    return "sam3d" if target.split(".", 1)[0] == "sam3d_objects" else "mini"


def _device(device: Any) -> Any:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"'{device}' is not a device: give cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device} was asked for and torch sees no CUDA GPU: use pipeline.device=cpu")
    if chosen.type == "cuda" and chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise CheckpointError(f"there is no device {device}: torch sees {torch.cuda.device_count()} GPU(s)")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise CheckpointError("device mps was asked for and torch cannot use it here: use pipeline.device=cpu")
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
    from fast_sam3d.mini.pipeline import MiniPipeline

    return MiniPipeline.from_pretrained(checkpoint.folder, device=device, dtype=dtype)


def _check_stock(folder: Path) -> None:
    """Raises CheckpointError unless the stock pipeline could be built from `folder` here."""
    import torch

    if not (folder / "pipeline.yaml").is_file():
        _kind(folder)
    check_stock_files(folder, TARGET_ROOTS, GATED_HELP)
    if importlib.util.find_spec("sam3d_objects") is None:
        raise CheckpointError(
            "the package sam3d_objects is not importable: install SAM 3D Objects from its repository "
            "(facebookresearch/sam-3d-objects), or use --tag mini"
        )
    if not torch.cuda.is_available():
        raise CheckpointError("SAM 3D Objects needs an NVIDIA GPU and torch sees none: use --tag mini")


def _load_stock(checkpoint: Checkpoint, device: Any, dtype: str | None) -> Any:
    _check_stock(checkpoint.folder)
    # Without it the package's import runs an initialisation that is not part of the release. A user's value stands.
    os.environ.setdefault("LIDRA_SKIP_INIT", "true")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    check_target_homes(checkpoint.folder, TARGET_ROOTS)
    config = OmegaConf.load(checkpoint.folder / "pipeline.yaml")
    # The three values that the stock loader sets too (notebook/inference.py, Inference.__init__).
    config.rendering_engine = "pytorch3d"
    config.compile_model = False
    config.workspace_dir = str(checkpoint.folder)
    config.device = str(device)
    if dtype is not None:
        config.dtype = dtype
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


def _out_of_memory(error: BaseException | None) -> bool:
    import torch

    while error is not None:
        if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
            return True
        error = error.__cause__
    return False
