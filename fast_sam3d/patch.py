"""Reversible changes to live objects.

A `Seam` replaces a method as an *instance* attribute. It holds the layers that act there (one acceleration, any number
of observers) and removes itself with its last layer, so layers can be removed in any order. A seam holds its owner by
a weak reference: there is no reference cycle, so deleting a pipeline frees its memory at once, and a deep copy of the
owner carries a seam bound to the copy.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layer:
    """One installation's part of a seam; its `report` is the installation's identity.

    Args:
        report: the report of the installation, compared by identity.
        accelerates: False for an observer.
        method: what acts at the seam, None for an observer.
        scene: the state that the stages of one run share; one per installation.
    """

    report: Any
    accelerates: bool = False
    method: Any = None
    scene: Any = None


class Seam:
    """Replaces `owner.name` on the instance and calls the original; subclasses act around that call.

    Args:
        owner: the live object; it must have a `__dict__` and take weak references.
        name: the method's name.

    Raises:
        TypeError: the owner cannot carry an instance attribute.
    """

    def __init__(self, owner: object, name: str) -> None:
        try:
            attributes = vars(owner)
            self._owner: weakref.ref[Any] | None = weakref.ref(owner)
        except TypeError as error:
            raise TypeError(f"cannot set {name!r} on an instance of {type(owner).__name__}: {error}") from None
        self.name = name
        self.layers: list[Layer] = []
        # An earlier instance attribute, such as a compiled forward, is restored on removal.
        self._shadowed = name in attributes
        self._earlier: Any = attributes.get(name)
        self._installed = False

    def owner(self) -> Any:
        """The patched object.

        Raises:
            ReferenceError: it no longer exists.
        """
        owner = None if self._owner is None else self._owner()
        if owner is None:
            raise ReferenceError(f"the object whose {self.name!r} was patched no longer exists")
        return owner

    def original(self) -> Callable[..., Any]:
        """The replaced method, bound to the present owner."""
        if self._shadowed:
            return self._earlier
        owner = self.owner()
        return getattr(type(owner), self.name).__get__(owner, type(owner))

    @property
    def earlier(self) -> Any:
        """The instance attribute that this seam replaced, None where there was none."""
        return self._earlier

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.original()(*args, **kwargs)

    def add(self, layer: Layer) -> None:
        """Add `layer`, and install the seam with the first one."""
        self.layers = [*self.layers, layer]
        if not self._installed:
            vars(self.owner())[self.name] = self
            self._installed = True

    def discard(self, layer: Layer) -> None:
        """Remove `layer`, if it is there; the seam removes itself with the last one."""
        self.layers = [other for other in self.layers if other is not layer]
        self.clean()

    def clean(self) -> None:
        """Remove the seam if it has no layer."""
        owner = None if self._owner is None else self._owner()
        if self.layers or not self._installed or owner is None:
            return
        attributes = vars(owner)
        if attributes.get(self.name) is not self:
            # Still called through the other wrapper, so still installed.
            logger.warning(
                "%s.%s was wrapped by other code after fast_sam3d patched it; the patch stays, switched off, and "
                "passes every call through",
                type(owner).__name__,
                self.name,
            )
            return
        if self._shadowed:
            attributes[self.name] = self._earlier
        else:
            del attributes[self.name]
        self._installed = False

    def __getstate__(self) -> dict[str, Any]:
        # copy.deepcopy and pickle follow this strong reference to the owner's own copy.
        return {**self.__dict__, "_owner": None if self._owner is None else self._owner()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        owner = state["_owner"]
        self._owner = None if owner is None else weakref.ref(owner)


def seam_at(owner: object, name: str) -> Seam | None:
    """The seam on `owner.name`, or None."""
    found = getattr(owner, "__dict__", {}).get(name)
    return found if isinstance(found, Seam) else None


class Patch:
    """The undo log of one installation: the layers that it added and removed."""

    def __init__(self) -> None:
        self._added: list[tuple[Seam, Layer]] = []
        self._removed: list[tuple[Seam, Layer]] = []

    def add(self, owner: object, name: str, layer: Layer, make: Callable[[], Seam]) -> None:
        """Add `layer` to the seam at `owner.name`, which `make` creates if there is none."""
        seam = seam_at(owner, name) or make()
        # Logged first, so that a change that fails midway is undone as well.
        self._added.append((seam, layer))
        seam.add(layer)

    def take_off(self, seams: Iterable[Seam], unwanted: Callable[[Layer], bool]) -> None:
        """Remove the layers for which `unwanted` is true from seams."""
        for seam in seams:
            for layer in [layer for layer in seam.layers if unwanted(layer)]:
                self._removed.append((seam, layer))
                seam.discard(layer)
            seam.clean()

    @property
    def replaced(self) -> bool:
        """Whether layers of an earlier installation were removed for this one."""
        return bool(self._removed)

    @property
    def active(self) -> bool:
        """Whether any layer of this installation is still there."""
        return any(layer in seam.layers for seam, layer in self._added)

    def remove(self) -> None:
        """Remove the layers of this installation. Safe to repeat, in any order with other installations."""
        for seam, layer in reversed(self._added):
            seam.discard(layer)

    def rollback(self) -> None:
        """Restore the state before this installation, including the layers that it removed."""
        # Added back first, so that a shared seam stays installed.
        for seam, layer in self._removed:
            seam.add(layer)
        self.remove()
        self._added, self._removed = [], []
