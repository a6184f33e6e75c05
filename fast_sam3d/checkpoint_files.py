"""Checks the files of a checkpoint before anything is built from them: there, whole, and naming only known classes."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fast_sam3d.errors import CheckpointError

__all__ = ["check_safetensors", "check_stock_files", "check_target_homes", "read_yaml"]

_LFS_POINTER = b"version https://git-lfs"


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a yaml file that must hold a mapping, without resolving interpolations. Raises CheckpointError."""
    import yaml
    from omegaconf import OmegaConf

    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read as yaml: download it again") from error
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path} holds no settings: download it again")
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


def check_stock_files(folder: Path, target_roots: Collection[str], help_text: str) -> None:
    """Checks everything that the pipeline.yaml of a stock checkpoint names.

    Args:
        folder: where pipeline.yaml lies; the paths in it are relative to it.
        target_roots: the packages whose classes its yaml files may name.
        help_text: how to get the files, appended to what is wrong.

    Raises:
        CheckpointError: files missing, cut short, or naming a class of another package.
    """
    settings = read_yaml(folder / "pipeline.yaml")
    _check_targets(folder / "pipeline.yaml", settings, target_roots)
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
            _check_targets(path, read_yaml(path), target_roots)
        elif path.suffix == ".safetensors":
            check_safetensors(path, "download it again; " + help_text)
        else:
            _check_torch_file(path, "download it again; " + help_text)


def check_target_homes(folder: Path, target_roots: Collection[str]) -> None:
    """Checks where the named classes really come from, once their packages may be imported.

    A root alone is no safeguard: `torch.os.system` starts with torch. The stock loader keeps a list of refused
    functions for that (notebook/inference.py); here an object's own module must be inside an allowed package.

    Raises:
        CheckpointError: a target that does not exist, or that an allowed package only passes on.
    """
    from hydra.errors import HydraException
    from hydra.utils import get_object

    for path in _yaml_files(folder):
        for target in sorted(set(_targets(read_yaml(path)))):
            try:
                found = get_object(target)
            except (HydraException, ImportError, ValueError) as error:
                raise CheckpointError(f"{path} names '{target}', which is not installed here: install it") from error
            # torch's own C functions have no module name.
            home = getattr(found, "__module__", None) or target
            if home.split(".", 1)[0] not in target_roots:
                raise _foreign(path, f"{target} ({home})", target_roots)


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


def _check_targets(path: Path, settings: dict[str, Any], roots: Collection[str]) -> None:
    for target in _targets(settings):
        if target.split(".", 1)[0] not in roots:
            raise _foreign(path, target, roots)


def _foreign(path: Path, target: str, roots: Collection[str]) -> CheckpointError:
    return CheckpointError(
        f"{path} would build '{target}', and only what is defined in {', '.join(sorted(roots))} is allowed: "
        "use no checkpoint from a source that you do not trust"
    )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)
    elif isinstance(node, list):
        for item in node:
            yield from _targets(item)
