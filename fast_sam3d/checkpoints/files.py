"""Checks of checkpoint files before loading: present, complete, naming only allowed classes. No weights are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.places import check_place, place_in
from fast_sam3d.checkpoints.tensors import check_weights, weights_file
from fast_sam3d.checkpoints.trust import check_homes, check_names
from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config import MOST
from fast_sam3d.native.yaml_node import read_yaml

__all__ = ["check_stock_files", "check_stock_homes", "converted_files", "read_yaml"]

# Networks without which the stock pipeline cannot be built (inference_pipeline.py, `InferencePipeline.__init__`).
_CONFIG, _CKPT = "_config_path", "_ckpt_path"
_LARGEST = 1 << 20
_REQUIRED = "ss_generator slat_generator ss_decoder slat_decoder_gs slat_decoder_mesh"


def check_stock_files(folder: Path, help_text: str) -> None:
    """Check all files named in the pipeline.yaml of a stock checkpoint.

    Args:
        folder: of pipeline.yaml, which has paths relative to it.
        help_text: how to get the files, for error messages.

    Raises:
        CheckpointError: a file is missing, incomplete, of another model, or names a class that `trust` does not allow.
    """
    path = folder / "pipeline.yaml"
    settings = read_yaml(path)
    check_names(path, settings)
    for key in ("_target_", *(part + end for part in _REQUIRED.split() for end in (_CONFIG, _CKPT))):
        if not isinstance(settings.get(key), str):
            raise CheckpointError(f"{path} names no {key}, so it is not that of SAM 3D Objects; {help_text}")
    configs, weights = _named(folder, settings, _CONFIG), _named(folder, settings, _CKPT)
    needed = [*configs.values(), *map(weights_file, weights.values())]
    for file in needed:
        check_place(folder, file)
    if missing := sorted({file.name for file in needed if not os.path.isfile(file)}):
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; {help_text}")
    networks = {part: _networks(path, part, help_text) for part, path in configs.items()}
    for part, path in weights.items():
        check_weights(path, networks.get(part, {}), f"download this file again; {help_text}")


def check_stock_homes(folder: Path) -> None:
    """Check the modules that define the classes named in the YAML files (`trust.check_homes`). Imports them."""
    settings = read_yaml(folder / "pipeline.yaml")
    for path in (folder / "pipeline.yaml", *_named(folder, settings, _CONFIG).values()):
        check_homes(path, read_yaml(path))


def converted_files(folder: Path) -> list[str]:
    """Names of the weights files that are read instead of those that pipeline.yaml names."""
    named = _named(folder, read_yaml(folder / "pipeline.yaml"), _CKPT).values()
    return [weights_file(path).name for path in named if weights_file(path) != path]


def _named(folder: Path, settings: Mapping[str, Any], end: str) -> dict[str, Path]:
    """The files that pipeline.yaml names under keys with an end, by the rest of the key."""
    named = {key.removesuffix(end): name for key, name in settings.items() if key.endswith(end) and name}
    return {part: place_in(folder, name, folder / "pipeline.yaml") for part, name in named.items()}


def _check_numbers(path: Path, node: Any, key: str = "") -> None:
    """Refuse a network whose numbers have no use but to fill the memory; classes allocate before weights are read."""
    if isinstance(node, dict):
        for name, value in node.items():
            _check_numbers(path, value, str(name))
    elif isinstance(node, list):
        for value in node:
            _check_numbers(path, value, key)
    elif isinstance(node, (int, float)) and abs(node) > (limit := MOST.get(key, _LARGEST)):
        raise CheckpointError(f"{path} has {key} = {node}, more than {limit:,}: restore it, or download it again")


def _networks(path: Path, part: str, help_text: str) -> dict[str, dict[str, Any]]:
    """Settings of the networks of a yaml file by their name in the weights file, "" for a single one.

    As in sam3d_objects/pipeline/inference_pipeline.py, `init_ss_generator` and its siblings.
    """
    content = read_yaml(path)
    check_names(path, content)
    places = {"": ""}
    if part.rpartition("_")[2] == "generator":
        module = content.get("module")
        names = ["generator"]
        if isinstance(module, dict) and "condition_embedder" in module:
            names.append("condition_embedder")
        places = {name: f"module.{name}.backbone." for name in names}
    found = {}
    for name, place in places.items():
        node: Any = content
        for key in place.split(".")[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        target = node.get("_target_") if isinstance(node, dict) else None
        if not isinstance(target, str):
            raise CheckpointError(f"{path} names no {place}_target_, so it is not that of SAM 3D Objects; {help_text}")
        if target.endswith("_faster"):
            raise CheckpointError(f"{path} names '{target}', a class of the Fast-SAM3D fork: use the published file")
        _check_numbers(path, node)
        found[name] = node
    return found
