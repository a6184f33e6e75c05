"""Reads the YAML files of a bench: suites and samplers, each given by a name or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fast_sam3d import documents
from fast_sam3d.errors import ConfigError, suggest

__all__ = ["as_file", "read_yaml"]


def as_file(kind: str, name: str, known: Sequence[str]) -> Path:
    """The path of a YAML file that is given instead of one of the known names.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"unknown {kind} '{name}': {suggest(name, known)}, or a .yaml")
    return path


def read_yaml(kind: str, path: Path) -> Any:
    """The content of a file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is over a limit.
    """
    return documents.read_yaml(path, name=f"the {kind} {path}", advice=f"give a {kind}")
