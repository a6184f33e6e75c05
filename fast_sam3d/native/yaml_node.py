"""One mapping of a yaml file, read key by key: a value or a key that is not implemented is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fast_sam3d import documents
from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config import LARGEST_REAL, most

__all__ = ["YamlNode", "read_yaml"]

_REQUIRED: Final = object()
_RESTORE: Final = "restore it, or download it again"
_ADVICE: Final = "use the published file, or pipeline.runtime=stock"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping without resolving interpolations. Raises CheckpointError."""
    tree = documents.read_yaml(path, error=CheckpointError, advice=_RESTORE, omegaconf=True)
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path} has no settings: {_RESTORE}")
    return {str(key): value for key, value in tree.items()}


class YamlNode:
    """A mapping whose keys are all asked for, one by one; `close` refuses those that were not.

    Args:
        path: of the file, for messages.
        content: the mapping.
        place: its dotted place in the file, for messages; "" for the whole file.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], place: str = "") -> None:
        self.path = path
        self._content = content
        self._place = place
        self._asked: set[str] = set()

    def close(self) -> None:
        """Raises CheckpointError for the first key that was not asked for."""
        for key, value in self._content.items():
            if key not in self._asked:
                raise CheckpointError(
                    f"{self.path} has {self._name(key)} = {_shown(value)}, a setting that the native runtime does not "
                    f"know: {_ADVICE}"
                )

    def ignore(self, *keys: str) -> None:
        """Keys without an effect on inference."""
        self._asked.update(keys)

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """A value of any type."""
        self._asked.add(key)
        value = self._content.get(key, default)
        if value is _REQUIRED:
            raise CheckpointError(f"{self.path} has no {self._name(key)}: {_RESTORE}")
        return value

    def only(self, key: str, *supported: Any, default: Any = _REQUIRED) -> Any:
        """A value that must be one of `supported`."""
        value = self.take(key, default)
        if not any(_same(value, one) for one in supported):
            raise self.refusal(key, value, " or ".join(map(repr, supported)))
        return value

    def target(self, *names: str) -> str:
        """The dotted name of the class to build, one of `names`. Nothing is imported."""
        return str(self.only("_target_", *names))

    def whole(self, key: str, default: Any = _REQUIRED, least: int = 1) -> int:
        """A whole number of at least `least`, and at most `model.config.most(key)`."""
        value = self.take(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most(key):
            raise self.refusal(key, value, f"a whole number from {least} to {most(key)}")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A number of at most `LARGEST_REAL`."""
        value = self.take(key, default)
        if not _is_number(value):
            raise self.refusal(key, value, f"a finite number, at most {LARGEST_REAL:g}")
        return float(value)

    def numbers(self, key: str, default: Any = _REQUIRED) -> tuple[float, ...]:
        """A list of numbers of at most `LARGEST_REAL`."""
        value = self.take(key, default)
        if not isinstance(value, (list, tuple)) or not all(map(_is_number, value)):
            raise self.refusal(key, value, f"a list of finite numbers, at most {LARGEST_REAL:g}")
        return tuple(map(float, value))

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, value, "true or false")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """A string that is written out."""
        value = self.take(key, default)
        if not isinstance(value, str) or not value or "${" in value:
            raise self.refusal(key, value, "a string that is written out")
        return value

    def child(self, key: str, default: Any = _REQUIRED) -> YamlNode:
        """A nested mapping."""
        return self.node(key, self.take(key, default))

    def children(self, key: str) -> list[YamlNode]:
        """A list of nested mappings."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.refusal(key, value, "a list")
        return [self.node(f"{key}.{index}", item) for index, item in enumerate(value)]

    def node(self, key: str, value: Any) -> YamlNode:
        """A part of this mapping as a node; `key`: its place."""
        if not isinstance(value, Mapping):
            raise self.refusal(key, value, "a mapping")
        return YamlNode(self.path, {str(name): item for name, item in value.items()}, self._name(key))

    def refusal(self, key: str, value: Any, supported: str) -> CheckpointError:
        """The error about a value that is not implemented."""
        return CheckpointError(
            f"{self.path} has {self._name(key)} = {_shown(value)}, and the native runtime implements {supported}: "
            f"{_ADVICE}"
        )

    def _name(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_REAL


def _same(value: Any, other: Any) -> bool:
    """Equal, where true is not 1, and a number is compared as one."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
