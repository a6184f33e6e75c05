"""Takes values out of a composed configuration; a mistake is one sentence: the key, the value, and what is valid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.errors import ConfigError, suggest

__all__ = ["Reader", "dotted_keys"]


def dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a nested mapping with dots between its parts, parents included."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        yield name
        if isinstance(value, Mapping) or hasattr(value, "items"):
            yield from dotted_keys(value, name + ".")


class Reader:
    """Takes values out of a composed tree, checks their type and range, and remembers which were taken."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree
        self._read: set[str] = set()

    def raw(self, key: str) -> Any:
        node: Any = self._tree
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise ConfigError(f"the configuration lacks {key}: an override replaced the group that holds it")
            node = node[part]
        self._read.add(key)
        return node

    def optional(self, key: str, reader: Callable[[str], Any]) -> Any:
        return None if self.raw(key) is None else reader(key)

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.raw(key)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # 2e4
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"{key} is {value!r}: give a whole number from {low} to {high}", key)
        return value

    def share(self, key: str) -> float:
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f"{key} is {value!r}: give a number from 0 to 1", key)
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.raw(key)
        if not isinstance(value, bool):
            raise ConfigError(f"{key} is {value!r}: give true or false", key)
        return value

    def text(self, key: str) -> str:
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, (str, int, float, Path)) or not str(value):
            raise ConfigError(f"{key} is {value!r}: give a text", key)
        return str(value)

    def path(self, key: str) -> Path | None:
        return self.optional(key, self.file)

    def file(self, key: str) -> Path:
        text = self.text(key)
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise ConfigError(
                f"{key} is {text!r}, the home of a user who is not known here: check the path", key
            ) from error

    def choice(self, key: str, valid: Sequence[str]) -> str:
        value = self.raw(key)
        if value not in valid:
            raise ConfigError(f"{key} is {value!r}: {suggest(str(value), valid)}", key)
        return value

    def choices(self, key: str, valid: Sequence[str]) -> tuple[str, ...]:
        value = self.raw(key)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            raise ConfigError(
                f"{key} is {value!r}: give one or more of {', '.join(valid)}, as [{valid[0]},{valid[1]}]", key
            )
        return self._members(key, items, valid)

    def sets(self, key: str, valid: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        value = self.raw(key)
        if not isinstance(value, list) or not all(isinstance(item, list) and item for item in value):
            raise ConfigError(f"{key} is {value!r}: give a list of lists, such as [[{valid[1]}]], or []", key)
        return tuple(self._members(key, item, valid) for item in value)

    def _members(self, key: str, items: Sequence[str], valid: Sequence[str]) -> tuple[str, ...]:
        for item in items:
            if item not in valid:
                raise ConfigError(f"{key} holds {item!r}: {suggest(str(item), valid)}", key)
        return tuple(dict.fromkeys(items))

    def pixels(self, key: str, count: int) -> tuple[tuple[float, ...], ...]:
        """Tuples of `count` numbers each, as a list of lists or as text: "320,240 400,300"; none for null."""
        value = self.raw(key)
        if value is None:
            return ()
        try:
            rows = [text.split(",") for text in value.split()] if isinstance(value, str) else list(value)
            found = tuple(tuple(float(number) for number in row) for row in rows)
        except (TypeError, ValueError):
            found = ()
        if not found or any(len(row) != count or not all(map(math.isfinite, row)) for row in found):
            example = ",".join(("320", "240", "400", "300")[:count])
            raise ConfigError(f"{key} is {value!r}: give {count} numbers in pixels, such as {example}", key)
        return found

    def mapping(self, key: str, example: str) -> Mapping[str, Any]:
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is {value!r}: pick a file of configs/{key}, such as {example}", key)
        return dict(value)

    def refuse_unread(self) -> None:
        """Refuses keys that nothing reads, such as those added with a plus sign."""
        for key in dotted_keys(self._tree):
            covered = any(key == r or r.startswith(key + ".") or key.startswith(r + ".") for r in self._read)
            if not covered:
                raise ConfigError(f"there is no configuration key '{key}': {suggest(key, self._read)}")
