"""Digests of the inputs of each stage's result, so that no stage builds on results that have been replaced."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.errors import ConfigError
from fast_sam3d.mini.train.loop import load_whole
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.model.config_file import to_mapping
from fast_sam3d.outputs.digests import file_digest

RECIPE = "recipe"
PARTS: Mapping[str, tuple[str, ...]] = {
    "ss_vae": ("objects", "ss_vae_objects", "ss_vae", "ss_encoder", "pipeline.ss_decoder"),
    "slat_vae": (
        "slat_vae_objects", "slat_objects", "slat_vae", "slat_encoder", "pipeline.slat_decoder_mesh",
        "pipeline.slat_decoder_gs", "pipeline.slat_decoder_gs_4",
    ),
    "ss_flow": (
        "objects", "views", "noise_draws", "decoder_share", "ss_flow", "pipeline.ss_embedder", "pipeline.ss_flow",
    ),
    "slat_flow": ("slat_objects", "views", "slat_flow", "pipeline.ss_embedder", "pipeline.slat_flow"),
}  # fmt: skip
"""Dotted names of the recipe's settings on which a stage's result depends."""

FREE = ("steps", "checkpoint")
"""Settings of a stage's schedule that may change between starts, see `recipe_file`."""


def recipe_digest(recipe: Recipe, seed: int, stage: str) -> str:
    """Hexadecimal SHA-256 of the seed and a stage's `PARTS` of the recipe."""
    values: dict[str, Any] = {"seed": seed}
    for name in PARTS[stage]:
        value: Any = recipe
        for part in name.split("."):
            value = getattr(value, part)
        value = to_mapping(value)
        if name == stage:
            value = {key: item for key, item in value.items() if key not in FREE}
        values[name] = value
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def origin(recipe: Recipe, seed: int, stage: str, needs: Mapping[str, Path]) -> dict[str, str]:
    """Inputs of a stage's result: digests of the recipe's parts and of the results it reads.

    Args:
        needs: files of those results by stage.
    """
    return {RECIPE: recipe_digest(recipe, seed, stage), **{name: result_digest(path) for name, path in needs.items()}}


def result_digest(path: Path) -> str:
    """SHA-256 of a result, cached until the file changes."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    return file_digest([path], path.parent)


def origin_of(path: Path) -> dict[str, str] | None:
    """`origin` that is stored in a result or checkpoint; None in older files.

    Raises:
        CheckpointError: the file is damaged.
    """
    return load_whole(path, mmap=True).get("origin")


def check_origin(stage: str, result: Path, checkpoint: Path, now: Mapping[str, str], needs: Mapping[str, Path]) -> None:
    """Check that a stage's result or checkpoint was created from the present inputs.

    Args:
        result: file of the stage's result, if finished.
        checkpoint: file of its training, if begun.
        now: present `origin`.
        needs: see `origin`.

    Raises:
        ConfigError: it was created from other inputs; names the files to delete.
        CheckpointError: the file is damaged.
    """
    path = result if result.exists() else checkpoint
    before = origin_of(path) if path.exists() else None
    if before is None:
        return
    for name in now:
        if before.get(name) == now[name]:
            continue
        stale = " and ".join(str(p) for p in (result, checkpoint) if p.exists())
        what = "with another seed or recipe" if name == RECIPE else f"on another result of {name} than {needs[name]}"
        other = "give the settings it was trained with, or " if name == RECIPE else ""
        raise ConfigError(f"{path} was trained {what}: {other}delete {stale} to train {stage} anew")
