"""Reads YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fast_sam3d.documents.files import decoded, read_bytes
from fast_sam3d.documents.limits import CONFIG_BYTES, OverLimitError
from fast_sam3d.errors import ConfigError, FastSam3dError, first_line


def read_yaml(
    path: Path,
    *,
    error: type[FastSam3dError] = ConfigError,
    advice: str = "give a configuration",
    name: str = "",
    omegaconf: bool = False,
) -> Any:
    """The content of a YAML file.

    Args:
        path: of a regular file; a pipe, a device or a folder is refused.
        error: the class of the errors.
        advice: what to do about a bad file, the end of every message.
        name: of the file in messages; empty: its path.
        omegaconf: as OmegaConf reads it: 1e-3 is a number, a date is a text, a key that occurs twice is refused, an
            empty file is an empty mapping. References `${...}` are not resolved.

    Returns:
        dict, list, str, int, float, bool or None, and what the tags of YAML name without code (dates, bytes, sets).

    Raises:
        error: it cannot be read, is not YAML, or is over a limit.
    """
    name = name or str(path)
    text = read_bytes(path, CONFIG_BYTES, name, error, advice)
    return parse_yaml(text, name, error=error, advice=advice, omegaconf=omegaconf)


def parse_yaml(
    text: str | bytes,
    name: str,
    *,
    error: type[FastSam3dError] = ConfigError,
    advice: str = "give a configuration",
    omegaconf: bool = False,
) -> Any:
    """The content of a YAML text. Arguments, result and errors: see `read_yaml`."""
    import yaml

    from fast_sam3d.documents.bounded_yaml import BoundedLoader

    try:
        text = decoded(text, CONFIG_BYTES)
        loader = BoundedLoader(text, references=omegaconf)
        node = loader.get_single_node()
        if omegaconf:
            return _by_omegaconf(text)
        return None if node is None else loader.construct_document(node)
    except OverLimitError as reason:
        raise error(f"{name} {reason}: {advice}") from None
    # The converters of tags raise what int(), float() and dictionaries do: `!!int x`, `!!bool x`, `!!timestamp x`.
    except (
        yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError
    ) as reason:  # fmt: skip
        raise error(f"{name} is not YAML ({_fault(reason)}): {advice}") from reason


def _by_omegaconf(text: str) -> Any:
    """What OmegaConf makes of a text that is known to be small. Raises as PyYAML, or ValueError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except OmegaConfBaseException as reason:
        raise ValueError(first_line(reason)) from reason
    except AssertionError as reason:
        raise ValueError("it is neither a mapping nor a list") from reason


def _fault(reason: Exception) -> str:
    """The place and the problem, on one line."""
    mark = getattr(reason, "problem_mark", None)
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    said = mark is not None or isinstance(reason, ValueError) or type(reason).__module__.startswith("yaml")
    problem = getattr(reason, "problem", None) or (first_line(reason) if said else "a value does not fit its tag")
    return place + " ".join(str(problem).split())
