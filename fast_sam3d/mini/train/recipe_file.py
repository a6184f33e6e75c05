"""`recipe.json` of a run folder: its settings, which prevent a run with other settings from resuming in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.documents import read_json
from fast_sam3d.errors import ConfigError
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.model.config_file import to_mapping

NAME = "recipe.json"

FREE = re.compile(r"recipe\.(\w+\.(steps|checkpoint)|pipeline\.(ss_sampling|slat_sampling|decode_formats)\b.*)")
"""Settings that may change between starts: lengths of the stages, and sampler settings of the exported model."""


def settle(folder: Path, recipe: Recipe, seed: int) -> None:
    """Write the file, or check that an existing one agrees.

    Raises:
        ConfigError: the folder belongs to another seed or recipe; names the first difference.
    """
    path = folder / NAME
    now = json.loads(json.dumps({"seed": seed, "recipe": to_mapping(recipe)}))
    if path.exists():
        old = _flat(_read(path))
        new = _flat(now)
        for name in [*new, *(name for name in old if name not in new)]:
            if not FREE.fullmatch(name) and old.get(name) != new.get(name):
                raise ConfigError(
                    f"{folder} was created with {name} {_shown(old, name)}, not {_shown(new, name)}: give the settings"
                    " it was created with, or choose another --run_dir"
                )
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(now, indent=1) + "\n")
    aside.replace(path)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "missing"


def _read(path: Path) -> dict[str, Any]:
    advice = "delete it, if the folder is of this run, or choose another"
    content = read_json(path, advice=advice)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings: {advice}")
    return content


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by their dotted path."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, Mapping):
            yield path, value
            return
        for key, item in value.items():
            yield from walk(item, f"{path}.{key}" if path else key)

    return dict(walk(tree, ""))
