"""Finds a checkpoint and builds its pipeline: the embedded model, or SAM 3D Objects with the user's weights."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fast_sam3d.checkpoints.devices import half_problem, torch_device, torch_dtype
from fast_sam3d.checkpoints.files import check_stock_files, read_yaml
from fast_sam3d.checkpoints.native import check_native, load_native, load_synthetic
from fast_sam3d.checkpoints.places import check_place
from fast_sam3d.checkpoints.runtime import Runtime, choose_runtime
from fast_sam3d.checkpoints.stock import (
    GATED_HELP,
    check_depth_model,
    check_named_depth_model,
    check_stock,
    load_stock,
)
from fast_sam3d.checkpoints.trellis import check_trellis, load_trellis, locate_trellis
from fast_sam3d.config.compose import MEMORY, MODELS
from fast_sam3d.config.packaged import checkpoint_roots, resource
from fast_sam3d.errors import CheckpointError, FastSam3dError, suggest

__all__ = [
    "Checkpoint",
    "check_ready",
    "check_stock_folder",
    "find_checkpoint",
    "load_checkpoint",
    "load_pipeline",
    "locate_checkpoint",
    "stock_folders",
    "torch_device",
]

log = logging.getLogger(__name__)

DEFAULT_STOCK_TAG = "hf"
SYNTHETIC = "synthetic"
_SETTINGS = "pipeline.yaml"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with weights.

    Args:
        tag: the name or path that was asked for.
        folder: of TRELLIS also a name on the hub, such as microsoft/TRELLIS-image-large.
        kind: "mini" for the embedded model, "sam3d" for SAM 3D Objects, "synthetic" for its sizes with random weights,
            which has no folder, "trellis".
        reason: why it was chosen, for the log.
        runtime: whose classes run SAM 3D Objects; None for the embedded model.
        by_default: no checkpoint was asked for.
    """

    tag: str
    folder: Path
    kind: Literal["mini", "sam3d", "synthetic", "trellis"]
    reason: str
    runtime: Runtime | None = None
    by_default: bool = False

    @property
    def model(self) -> str:
        """Which of `config.settings.MODELS` it is of."""
        return "trellis" if self.kind == "trellis" else "sam3d"


def load_pipeline(
    tag_or_path: str | Path | None = None,
    device: Any = None,
    dtype: Any = None,
    depth_model: str | Path | None = None,
    memory: str = "auto",
    runtime: str = "auto",
    half_cache: bool = False,
    model: str = "sam3d",
) -> Any:
    """Loads a pipeline.

    Args:
        tag_or_path: "mini", "synthetic" (the published sizes with random weights: the result is noise), the name of a
            folder under checkpoints/, or a path. None takes the user's SAM 3D Objects weights if they are there and
            usable, else the embedded model, and logs which and why.
        device: torch device or its name; None takes cuda if there is one, else cpu.
        dtype: torch dtype or its name; None leaves it to the checkpoint.
        depth_model: MoGe weights that replace those named by the SAM 3D Objects checkpoint: a model.pt, a folder that
            holds one, or a name on the hub. None leaves it to the checkpoint.
        memory: memory plan of the native runtime: "8GB", "12GB", "16GB", "24GB" or "all". "auto" asks the device.
        runtime: whose classes run SAM 3D Objects: "stock" or "native", which needs no further packages and any device.
            "auto" takes stock where its packages and an NVIDIA GPU are there.
        half_cache: the native runtime reads weights in half precision from a copy beside them, which it writes once.
        model: "sam3d", or "trellis", whose own package loads a folder or a repository of the hub on an NVIDIA GPU; it
            takes none of the other settings.

    Raises:
        CheckpointError: no such folder; files that are missing, corrupt or not trusted; a missing package or GPU.
    """
    if depth_model is not None:
        check_depth_model(depth_model)
    found = find_checkpoint(tag_or_path, device, runtime, model)
    return load_checkpoint(found, device, dtype, depth_model, memory, half_cache)


def load_checkpoint(
    checkpoint: Checkpoint,
    device: Any = None,
    dtype: Any = None,
    depth_model: str | Path | None = None,
    memory: str = "auto",
    half_cache: bool = False,
) -> Any:
    """Builds the pipeline of a checkpoint that was found. Arguments and errors as `load_pipeline`."""
    check_native_settings(checkpoint, memory, half_cache)
    if checkpoint.kind == "trellis":
        if dtype is not None or depth_model is not None:
            raise CheckpointError("TRELLIS takes neither a dtype nor a depth model: leave them out")
        return load_trellis(str(checkpoint.folder), device)
    chosen, precision = torch_device(device), torch_dtype(dtype)
    if precision is not None and precision.itemsize == 2 and (problem := half_problem(chosen, precision)):
        raise CheckpointError(f"{problem}: give float32")
    if checkpoint.kind == "mini":
        if depth_model is not None:
            raise CheckpointError("the embedded model has no depth model to replace: give a pointmap, or leave it out")
        if chosen.type == "cpu" and str(precision) == "torch.float16":
            log.warning("float16 is much slower than float32 on a CPU: leave pipeline.dtype out")
        if not _packaged(checkpoint.folder):
            for path in (*checkpoint.folder.glob("*.safetensors"), checkpoint.folder / "sha256.json"):
                check_place(checkpoint.folder, path)
        from fast_sam3d.model.pipeline import Pipeline

        return Pipeline.from_pretrained(checkpoint.folder, device=chosen, dtype=precision)
    depth = None if depth_model is None else check_depth_model(depth_model)
    if checkpoint.kind == "synthetic":
        if depth is not None or half_cache:
            raise CheckpointError("the synthetic weights take neither a depth model nor a copy: leave both out")
        return load_synthetic(chosen, precision, memory)
    if checkpoint.runtime == "native":
        return load_native(checkpoint.folder, chosen, precision, depth, memory, half_cache, GATED_HELP)
    name = None if precision is None else str(precision).removeprefix("torch.")
    return load_stock(checkpoint.folder, chosen, name, depth)


def check_native_settings(checkpoint: Checkpoint, memory: str, half_cache: bool) -> None:
    """Refuse a memory plan and a copy of the weights where the pipeline has none. Raises CheckpointError."""
    if memory not in MEMORY:
        raise CheckpointError(f"'{memory}' is not a memory plan: give one of {', '.join(MEMORY)}")
    if checkpoint.runtime == "native":
        return
    kind = {"mini": "the embedded model", "trellis": "TRELLIS"}.get(checkpoint.kind, "the stock runtime")
    if memory != "auto":
        raise CheckpointError(
            f"{kind} has no memory plans, so pipeline.memory={memory} would have no effect: leave it at auto"
        )
    if half_cache:
        raise CheckpointError(
            f"{kind} has no copy of its weights, so that pipeline.half_cache has no effect: leave it off"
        )


def check_ready(checkpoint: Checkpoint, device: Any = None) -> None:
    """Check before anything is written what only loading would find: that TRELLIS can run. Raises CheckpointError."""
    if checkpoint.kind == "trellis":
        check_trellis(str(checkpoint.folder), device)


def find_checkpoint(
    tag_or_path: str | Path | None = None, device: Any = None, runtime: str = "auto", model: str = "sam3d"
) -> Checkpoint:
    """Resolves a tag or path to a folder and a runtime, and logs which and why; loads nothing. Arguments and errors as
    `load_pipeline`."""
    found = locate_checkpoint(tag_or_path, device, runtime, model)
    log.info("pipeline: %s (%s), because %s", found.tag, found.folder, found.reason)
    return found


def locate_checkpoint(
    tag_or_path: str | Path | None = None, device: Any = None, runtime: str = "auto", model: str = "sam3d"
) -> Checkpoint:
    """As `find_checkpoint`, without the log message."""
    if model not in MODELS:
        raise CheckpointError(f"there is no model '{model}': {suggest(model, MODELS)}")
    if model == "trellis":
        place, why = locate_trellis(None if tag_or_path is None else str(tag_or_path))
        return Checkpoint(str(tag_or_path or place), Path(place), "trellis", why, by_default=tag_or_path is None)
    found = _default(device, runtime) if tag_or_path is None else _named(str(tag_or_path), device, runtime)
    if found.kind == "mini" and runtime != "auto":
        why = f", which is used because {found.reason}" if tag_or_path is None else ""
        raise CheckpointError(f"pipeline.runtime={runtime} does not hold for the embedded model{why}: leave it at auto")
    return found


def _named(name: str, device: Any, asked: str) -> Checkpoint:
    if not name:
        raise CheckpointError("the tag is empty: give mini, the name of a folder under checkpoints/, or a path")
    if name == SYNTHETIC:
        if asked == "stock":
            raise CheckpointError("the stock runtime has no synthetic weights: leave pipeline.runtime at auto")
        return Checkpoint(SYNTHETIC, Path(SYNTHETIC), "synthetic", "it was asked for: random weights", "native")
    roots = checkpoint_roots()
    # A tag takes precedence over a folder of that name in the working folder; a path has a separator, or is only dots.
    tagged = [root / name for root in roots] if name.strip(".") else []
    for folder in filter(None, map(_folder, [*tagged, Path(name)])):
        if (kind := _kind(folder)) == "mini":
            return Checkpoint(name, folder, kind, "it was asked for")
        runtime, why = choose_runtime(asked, torch_device(device))
        return Checkpoint(name, folder, kind, f"it was asked for; the {runtime} runtime, because {why}", runtime)
    if name == "mini":
        return Checkpoint("mini", resource("checkpoints/mini"), "mini", "it was asked for")
    tags = {p.name for root in roots for p in _folders(root)} | {"mini", SYNTHETIC}
    help_text = f"; {GATED_HELP}" if name == DEFAULT_STOCK_TAG else ""
    path = os.path.abspath(os.path.expanduser(name))
    if os.path.isfile(path):
        raise CheckpointError(f"{path} is a file: give the folder that holds it together with {_SETTINGS}")
    looked = ", ".join(dict.fromkeys((*map(str, tagged), path)))
    raise CheckpointError(f"there is no checkpoint '{name}' (looked for {looked}): {suggest(name, tags)}{help_text}")


def _default(device: Any, asked: str) -> Checkpoint:
    problem = f"there are no SAM 3D Objects weights in checkpoints/{DEFAULT_STOCK_TAG}"
    for tagged in stock_folders():
        folder = _folder(tagged) or tagged
        try:
            _kind(folder)
            runtime, why = choose_runtime(asked, torch_device(device))
            if runtime == "stock":
                check_stock(folder)
            else:
                check_native(folder, torch_device(device), GATED_HELP)
        except (FastSam3dError, OSError) as error:  # OSError: a folder that cannot be entered
            problem = f"the weights in {folder} cannot be used: {error}"
            continue
        reason = f"these SAM 3D Objects weights are there and usable; the {runtime} runtime, because {why}"
        return Checkpoint(tagged.name, folder, "sam3d", reason, runtime, by_default=True)
    return Checkpoint("mini", resource("checkpoints/mini"), "mini", problem, by_default=True)


def stock_folders() -> list[Path]:
    """Folders under checkpoints/ that are for the stock weights, checkpoints/hf first."""
    found = [p for root in checkpoint_roots() for p in _folders(root) if p.name != "mini"]
    stock = [p for p in found if p.name == DEFAULT_STOCK_TAG or _is_stock(_folder(p) or p)]
    return sorted(stock, key=lambda p: p.name != DEFAULT_STOCK_TAG)


def check_stock_folder(folder: Path) -> str | None:
    """What is wrong with the files of a stock checkpoint; None if they are complete. Imports none of its classes.

    Checks pipeline.yaml, every yaml and weights file that it names (headers only, so NaN is not found), and the path of
    the depth model. `folder`: any path that `--tag` takes.
    """
    try:
        found = _folder(folder)
        if found is None:
            return f"there is no folder {folder}"
        _kind(found)
        check_stock_files(found, GATED_HELP)
        check_named_depth_model(found)
    except CheckpointError as error:
        return str(error)
    return None


def _folder(path: Path) -> Path | None:
    """The folder of pipeline.yaml for a path given by the user, ~ included; None where there is nothing.

    Taken as well: pipeline.yaml itself, a whole download of the hub (with a folder checkpoints/), a clone of the stock
    repository (checkpoints/hf), and the hub's cache folder of the repository (snapshots/COMMIT). Files in the cache are
    links to names without an ending, so that files are not resolved.
    """
    try:
        path = path.expanduser()
        folder = (path.parent if path.is_file() and path.name == _SETTINGS else path).resolve()
        if not folder.is_dir():
            return None
        newest = sorted(folder.glob("snapshots/*/"), key=lambda p: p.stat().st_mtime, reverse=True)
        places = [place / inner for place in (folder, *newest) for inner in ("", "checkpoints", "checkpoints/hf")]
        return next((place for place in places if (place / _SETTINGS).is_file()), folder)
    except (OSError, RuntimeError, ValueError):  # too long, the home of an unknown user, or a null character
        return None


def _packaged(folder: Path) -> bool:
    """Whether a folder is the package's own, in which an installer may have put links."""
    try:
        return folder.resolve() == resource("checkpoints/mini").resolve()
    except FastSam3dError:
        return False


def _folders(root: Path) -> list[Path]:
    """The folders in `root`, by name; none in one that cannot be read. A hidden one is an unfinished download."""
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _is_stock(folder: Path) -> bool:
    try:
        return _kind(folder) == "sam3d"
    except (CheckpointError, OSError):
        return False


def _kind(folder: Path) -> Literal["mini", "sam3d"]:
    """The kind of a checkpoint, by the classes that pipeline.yaml names."""
    path = folder / _SETTINGS
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise CheckpointError(f"{path} is no regular file: restore it, or give another folder")
        if folder.name == DEFAULT_STOCK_TAG:
            raise CheckpointError(f"{folder} holds no pipeline.yaml; {GATED_HELP}")
        within = [p.name for p in _folders(folder) if (p / _SETTINGS).is_file()]
        hint = f"use a folder in it, such as {within[0]}" if within else "give the folder that holds the weights"
        raise CheckpointError(f"{folder} holds no pipeline.yaml, so it is no checkpoint: {hint}")
    if not _packaged(folder):
        check_place(folder, path)
    settings = read_yaml(path)
    if "_target_" not in settings:
        if "ss_flow" not in settings:
            raise CheckpointError(
                f"{path} names no _target_ and no ss_flow, so it is neither that of SAM 3D Objects nor that of the "
                "embedded model: give another folder, or restore the file"
            )
        return "mini"
    target = str(settings["_target_"])
    if target.split(".", 1)[0] != "sam3d_objects":
        raise CheckpointError(
            f"{path} would build '{target}', which is neither SAM 3D Objects nor the embedded model: "
            "use no checkpoint from a source that you do not trust"
        )
    return "sam3d"
