"""What a stage's result was made from, so that no stage goes on with what another has replaced since."""

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
"""The recipe's settings that a stage's result depends on, by their dotted names."""

FREE = ("steps", "checkpoint")
"""Of a stage's schedule: may change from one start to the next, see `recipe_file`."""


def recipe_digest(recipe: Recipe, seed: int, stage: str) -> str:
    """Of the seed and of a stage's `PARTS` of the recipe."""
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
    """What a stage's result is made from: digests of the recipe's parts and of the results it reads.

    Args:
        needs: the files of those results, by the stages that leave them.
    """
    return {RECIPE: recipe_digest(recipe, seed, stage), **{name: result_digest(path) for name, path in needs.items()}}


def result_digest(path: Path) -> str:
    """SHA-256 of a result, read again only when the file has changed."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    return file_digest([path], path.parent)


def origin_of(path: Path) -> dict[str, str] | None:
    """What a result or checkpoint says of itself; None where it was written before it could say.

    Raises:
        CheckpointError: the file is damaged.
    """
    return load_whole(path, mmap=True).get("origin")


def check_origin(stage: str, result: Path, checkpoint: Path, now: Mapping[str, str], needs: Mapping[str, Path]) -> None:
    """See that what a stage has left, or has begun, was made from what is there now.

    Args:
        result: of the stage, if it is finished. checkpoint: of its training, if that has begun.
        now: see `origin`. needs: see `origin`.

    Raises:
        ConfigError: it was made from something else; names the files to delete.
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
