"""Reads a YAML file of configuration that may come from anybody: bounded in size, also of its aliases written out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from fast_sam3d.errors import ConfigError, FastSam3dError

__all__ = ["load_file"]

_MOST_BYTES: Final = 256 << 10
_MOST_VALUES: Final = 50_000


def load_file(path: Path) -> Any:
    """The content of a YAML file: plain containers, interpolations not resolved.

    Raises:
        ConfigError: unreadable, too large, or not YAML; one sentence.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"{path} cannot be read (it is not a file): give the path of a YAML file")
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(f"{path} has more than {_MOST_BYTES >> 10} KiB: give a configuration")
        node = yaml.compose(text.decode(), yaml.SafeLoader)
        if node is not None and _expanded(node, {}) > _MOST_VALUES:
            raise ConfigError(f"{path} has more than {_MOST_VALUES:,} values: give a configuration")
        return OmegaConf.create(text.decode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}): give the path of a YAML file") from error
    except RecursionError as error:
        raise ConfigError(f"{path} refers to itself: give a configuration") from error
    except FastSam3dError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not YAML: {(str(error).splitlines() or [''])[0]}") from error


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Number of values of a YAML node with its aliases written out. Raises RecursionError."""
    key = id(node)
    if key not in known:
        known[key] = sys.maxsize  # of a node inside itself
        inner = [] if isinstance(node.value, str) else node.value
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[key] = 1 + sum(_expanded(part, known) for part in parts)
    return known[key]
