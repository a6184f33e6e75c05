"""What the classes of when, where, predict and guide share."""

from __future__ import annotations

import importlib
import pkgutil
from typing import ClassVar, TypeVar

from fast_sam3d.ranges import Settings


class Part(Settings):
    """Base of the parts of a method: frozen dataclasses with the settings of a configuration as fields.

    Attributes:
        name: its name in a configuration.
        same_for_all_objects: its decisions follow from the step alone, so several objects can be solved as one batch.
    """

    __slots__ = ()
    name: ClassVar[str]
    same_for_all_objects: ClassVar[bool] = False

    @property
    def depth(self) -> int:
        """Past evaluations that it needs."""
        return 1


P = TypeVar("P", bound=Part)


def parts_in(package: str, kind: type[P]) -> dict[str, type[P]]:
    """The classes of a kind in the modules of a package, by name."""
    paths = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(paths)]
    classes = [thing for module in modules for thing in vars(module).values() if isinstance(thing, type)]
    named = {thing.name: thing for thing in classes if issubclass(thing, kind) and hasattr(thing, "name")}
    return dict(sorted(named.items()))
