"""Checks the files of a checkpoint before anything is built from them: there, whole, and naming only known classes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.trust import check_homes, check_names
from fast_sam3d.errors import CheckpointError

__all__ = ["check_safetensors", "check_stock_files", "check_stock_homes", "read_yaml"]

_LFS_POINTER = b"version https://git-lfs"


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a yaml file that must hold a mapping, without resolving interpolations. Raises CheckpointError."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    # A file that refers to itself (`a: &a [*a]`) has no end. yaml lets through what its converters raise over a tag
    # whose content is of another kind (`!!int x`).
    except (
        OSError, RecursionError, ValueError, TypeError, AttributeError, OmegaConfBaseException, yaml.YAMLError
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged and no yaml: restore it, or download it again") from error
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path} holds no settings: restore it, or download it again")
    return {str(key): value for key, value in tree.items()}


def check_safetensors(path: Path, restore: str) -> None:
    """Raises CheckpointError unless the header is whole and agrees with the file's length. Reads no weights."""
    from safetensors import SafetensorError, safe_open

    _refuse_pointer(path, restore)
    try:
        with safe_open(path, framework="numpy") as archive:
            empty = not list(archive.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the weights {path} are corrupt or cut short: {restore}") from error
    if empty:
        raise CheckpointError(f"the weights {path} hold no tensors: {restore}")


def check_stock_files(folder: Path, help_text: str) -> None:
    """Checks everything that the pipeline.yaml of a stock checkpoint names.

    Args:
        folder: where pipeline.yaml lies; the paths in it are relative to it.
        help_text: how to get the files, appended to what is wrong.

    Raises:
        CheckpointError: files missing, cut short, or naming what `checkpoint_targets` does not allow.
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
    """Checks where the classes come from that the yaml files name (`checkpoint_targets.check_homes`). Imports them."""
    for path in _yaml_files(folder):
        check_homes(path, read_yaml(path))


def _yaml_files(folder: Path) -> list[Path]:
    settings = read_yaml(folder / "pipeline.yaml")
    named = [folder / str(v) for k, v in settings.items() if k.endswith("_config_path") and v is not None]
    return [folder / "pipeline.yaml", *named]


def _check_torch_file(path: Path, restore: str) -> None:
    """A torch file is a zip archive whose directory stands at its end: cut short, it is none."""
    _refuse_pointer(path, restore)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"the weights {path} are corrupt or cut short: {restore}")


def _refuse_pointer(path: Path, restore: str) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` there, or {restore}"
            )
