"""Ranges of settings: the values that a class accepts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from fast_sam3d.errors import ConfigError, suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Whole:
    """Whole numbers, both ends included; None: no upper end."""

    low: int
    high: int | None = None

    def __str__(self) -> str:
        return f"a whole number {f'of at least {self.low}' if self.high is None else f'from {self.low} to {self.high}'}"

    def holds(self, value: Any) -> bool:
        """Whether a value is within the range."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= (value if self.high is None else self.high)


@dataclass(frozen=True)
class Real:
    """Numbers, both ends included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def holds(self, value: Any) -> bool:
        """Whether a value is within the range."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and math.isfinite(value)


@dataclass(frozen=True)
class OneOf:
    """Values as they are written in an override."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return written(value) in self.values


Range: TypeAlias = Whole | Real | OneOf


def written(value: Any) -> str:
    """A value as in an override: lists without blanks."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)


def setting(default: Any, valid: Range | None = None) -> Any:
    """A field of a `Settings` dataclass.

    Args:
        default: its value where a configuration leaves it out.
        valid: the values that it accepts; None: the class has its own check.
    """
    return dataclasses.field(default=default, metadata={"valid": valid})


class Settings:
    """Base of frozen dataclasses with fields created by `setting`.

    Raises:
        ConfigError: a value is out of its field's range.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if valid := field.metadata.get("valid"):
                check(field.name, getattr(self, field.name), valid)


def build_settings(kind: type[T], mapping: Any, path: str, example: str = "{name: ...}") -> T:
    """The instance of a settings class that a mapping of its fields describes.

    Args:
        path: where the mapping stands in the configuration ("mesh"), for messages.
        example: of a mapping, for messages.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{path} is {mapping!r}: give a mapping, such as {example}")
    valid = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in mapping:
        if key not in valid:
            raise ConfigError(f"{path}.{key} is unknown: {suggest(str(key), valid)}")
    try:
        return kind(**mapping)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None


def check(name: str, value: Any, valid: Range) -> None:
    """Refuse a value that is out of range."""
    if not valid.holds(value):
        hint = suggest(written(value), valid.values) if isinstance(valid, OneOf) else f"give {valid}"
        raise ConfigError(f"{name} is {value!r}: {hint}")
