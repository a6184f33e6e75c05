"""Checks of checkpoint files before loading: present, complete, and naming only allowed classes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.trust import check_homes, check_names
from fast_sam3d.errors import CheckpointError

__all__ = ["check_safetensors", "check_stock_files", "check_stock_homes", "read_yaml"]

_LFS_POINTER = b"version https://git-lfs"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping without resolving interpolations. Raises CheckpointError."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    # RecursionError: self-reference (`a: &a [*a]`). ValueError, TypeError, AttributeError: converters (`!!int x`).
    except (
        OSError, RecursionError, ValueError, TypeError, AttributeError, OmegaConfBaseException, yaml.YAMLError
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is not valid YAML: restore it, or download it again") from error
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path} has no settings: restore it, or download it again")
    return {str(key): value for key, value in tree.items()}


def check_safetensors(path: Path, restore: str) -> None:
    """Raises CheckpointError unless the header is valid and matches the file size. Reads no weights."""
    from safetensors import SafetensorError, safe_open

    _refuse_pointer(path, restore)
    try:
        with safe_open(path, framework="numpy") as archive:
            empty = not list(archive.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the weights {path} are corrupt or incomplete: {restore}") from error
    if empty:
        raise CheckpointError(f"the weights {path} have no tensors: {restore}")


def check_stock_files(folder: Path, help_text: str) -> None:
    """Check all files named in the pipeline.yaml of a stock checkpoint.

    Args:
        folder: of pipeline.yaml, which has paths relative to it.
        help_text: how to get the files, for error messages.

    Raises:
        CheckpointError: a file is missing, incomplete, or names a class that `trust` does not allow.
    """
    settings = read_yaml(folder / "pipeline.yaml")
    check_names(folder / "pipeline.yaml", settings)
    named = {
        key: folder / str(value)
        for key, value in settings.items()
        if key.endswith(("_config_path", "_ckpt_path")) and value is not None
    }
    missing = sorted({path.name for path in named.values() if not path.is_file()})
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; {help_text}")
    for key, path in named.items():
        if key.endswith("_config_path"):
            check_names(path, read_yaml(path))
        elif path.suffix == ".safetensors":
            check_safetensors(path, "download it again; " + help_text)
        else:
            _check_torch_file(path, "download it again; " + help_text)


def check_stock_homes(folder: Path) -> None:
    """Check the modules that define the classes named in the YAML files (`trust.check_homes`). Imports them."""
    settings = read_yaml(folder / "pipeline.yaml")
    named = [folder / str(v) for k, v in settings.items() if k.endswith("_config_path") and v is not None]
    for path in (folder / "pipeline.yaml", *named):
        check_homes(path, read_yaml(path))


def _check_torch_file(path: Path, restore: str) -> None:
    """A torch file is a zip archive with its directory at the end, so an incomplete file is not a zip archive."""
    _refuse_pointer(path, restore)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"the weights {path} are corrupt or incomplete: {restore}")


def _refuse_pointer(path: Path, restore: str) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` there, or {restore}"
            )
