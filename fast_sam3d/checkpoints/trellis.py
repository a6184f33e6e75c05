"""TRELLIS by its own package: where its weights are, whether it can run here, and how its pipeline is loaded.

Names match trellis/pipelines (`TrellisImageTo3DPipeline.from_pretrained`) of microsoft/TRELLIS.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fast_sam3d.checkpoints.devices import torch_device
from fast_sam3d.checkpoints.first_load import first_load
from fast_sam3d.checkpoints.packages import holds, importable
from fast_sam3d.checkpoints.places import check_place, place_in
from fast_sam3d.config.packaged import checkpoint_roots
from fast_sam3d.documents import read_json
from fast_sam3d.errors import CheckpointError, first_line, is_out_of_memory

__all__ = ["HUB_NAME", "PIPELINE", "check_folder", "check_trellis", "load_trellis", "locate_trellis"]

log = logging.getLogger(__name__)

HUB_NAME: Final = "microsoft/TRELLIS-image-large"
"""Of the published image pipeline; its weights are not gated."""
PIPELINE: Final = "TrellisImageTo3DPipeline"
_SETTINGS: Final = "pipeline.json"
_DOCTOR: Final = "`fast-sam3d doctor --model trellis` lists what it needs"


def locate_trellis(tag: str | None) -> tuple[str, str]:
    """The folder with a pipeline.json, or the name on the hub, and why; loads and imports nothing.

    Args:
        tag: a folder under checkpoints/, a path, or a name on the hub ("owner/name"). None: checkpoints/trellis if it
            is there, else `HUB_NAME`.

    Raises:
        CheckpointError: there is neither.
    """
    roots = checkpoint_roots()
    if tag is None:
        found = next((root / "trellis" for root in roots if (root / "trellis" / _SETTINGS).is_file()), None)
        if found is not None:
            return str(found), "these TRELLIS weights are there"
        return HUB_NAME, "there are no TRELLIS weights in checkpoints/trellis"
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long, or the home of an unknown user
        path = Path(tag).expanduser()
        places = [root / tag for root in roots] + [path.parent if path.name == _SETTINGS else path]
        for folder in places:
            if (folder / _SETTINGS).is_file():
                return str(folder.resolve()), "it was asked for"
        if not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", tag):
            return tag, "it was asked for: a name on the hub"
    raise CheckpointError(
        f"there is no TRELLIS checkpoint '{tag}': give a folder with {_SETTINGS} and its weights, or a name on the hub "
        f"such as {HUB_NAME}"
    )


def check_trellis(source: str, device: Any) -> None:
    """Check that TRELLIS can run here, and that a folder has its files; imports the package.

    Args:
        source: as of `locate_trellis`.
        device: torch device or its name. None: an NVIDIA GPU, which the published code needs.

    Raises:
        CheckpointError: the package, one of those that it imports, a GPU, or a file is missing.
    """
    _package()
    chosen = torch_device(device)
    if chosen.type != "cuda" and device is None:
        raise CheckpointError(
            "TRELLIS needs an NVIDIA GPU, and torch sees none here: run it on another machine, or give --device cpu "
            "where your copy of its package runs on the CPU"
        )
    if chosen.type == "cuda" and chosen.index:
        raise CheckpointError(
            f"TRELLIS runs on the current GPU, not on {chosen}: leave --device out, and set "
            f"CUDA_VISIBLE_DEVICES={chosen.index}"
        )
    if os.path.isdir(source):
        check_folder(source)


def load_trellis(source: str, device: Any) -> Any:
    """The pipeline of a folder, offline, or of a repository on the hub, by TRELLIS's own class.

    Args, Raises: as `check_trellis`; also a pipeline that cannot be built.
    """
    check_trellis(source, device)
    encoder = first_load({})[0]
    if encoder.missing:
        log.info("the first load fetches %s into %s: it needs a network", " and ".join(encoder.missing), encoder.place)
    try:
        pipeline = getattr(_package(), PIPELINE).from_pretrained(source)
        pipeline.to(torch_device(device))
    except Exception as error:  # whatever the package raises while it is built; the cause stays attached
        if is_out_of_memory(error):
            raise
        if isinstance(error, KeyError) and "image_cond_model" in str(error):
            raise _not_of_images(source) from error
        raise CheckpointError(
            f"TRELLIS cannot be loaded from {source} ({type(error).__name__}: {first_line(error)}): check the name, "
            f"the network or that the folder is complete; {_DOCTOR}"
        ) from error
    return pipeline


def _package() -> Any:
    """The module trellis.pipelines."""
    if not importable("trellis"):
        raise CheckpointError(
            "the package trellis is not importable: clone microsoft/TRELLIS with its submodules, install what its "
            f"setup.sh names, and add the folder to PYTHONPATH; {_DOCTOR}"
        )
    if not holds(f"trellis.pipelines:{PIPELINE}"):
        raise CheckpointError(
            f"the package trellis here is another one: it has no trellis.pipelines.{PIPELINE}; uninstall it, and use a "
            "clone of microsoft/TRELLIS"
        )
    try:
        with _attention():
            return importlib.import_module("trellis.pipelines")
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # missing or incompatible libraries, too
        raise CheckpointError(
            f"the package trellis cannot be imported ({type(error).__name__}: {first_line(error)}); {_DOCTOR}"
        ) from error


@contextlib.contextmanager
def _attention() -> Iterator[None]:
    """While it is imported the package reads which attention to use; xformers where only that is installed."""
    names = [name for name in ("ATTN_BACKEND", "SPARSE_ATTN_BACKEND") if name not in os.environ]
    set_here = names if importable("xformers") and not importable("flash_attn") else []
    os.environ.update(dict.fromkeys(set_here, "xformers"))
    try:
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)


def check_folder(place: str) -> None:
    """Raises CheckpointError unless a folder has a pipeline for images and all files that it names."""
    folder = Path(place)
    path = folder / _SETTINGS
    check_place(folder, path)
    settings = read_json(path, error=CheckpointError, advice="download it again")
    if not isinstance(settings, dict) or not isinstance(args := settings.get("args"), dict):
        raise CheckpointError(f"{path} names no pipeline (name, args), so it is not that of TRELLIS: restore it")
    if settings.get("name") != PIPELINE:
        raise _not_of_images(str(path), str(settings.get("name")))
    models = args.get("models")
    if not isinstance(models, dict) or not models:
        raise CheckpointError(f"{path} names no models: restore it")
    for model in models.values():
        for file in (place_in(folder, f"{model}{suffix}", path) for suffix in (".json", ".safetensors")):
            check_place(folder, file)
            if not file.is_file():
                raise CheckpointError(f"{folder} lacks {file.relative_to(folder)}: download the whole repository again")


def _not_of_images(place: str, name: str = "TrellisTextTo3DPipeline") -> CheckpointError:
    return CheckpointError(
        f"{place} is of {name[:60]!a}, and --model trellis gives a picture to a {PIPELINE}: give weights for images, "
        "or call accelerate() on the loaded pipeline in Python"
    )
