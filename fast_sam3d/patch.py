"""Changes to live objects that can be taken back exactly.

A `Seam` is set as an *instance* attribute in place of a method. It holds the layers that want to act there (one
acceleration, any number of observers) and removes itself with its last layer, so the order of removal does not
matter. A seam reaches its owner through a weak reference: it makes no reference cycle (deleting a pipeline frees
its memory at once), and a deep copy of the owner carries a seam bound to the copy.
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
    """What one installation wants at one seam; its `report` is the installation's identity.

    Args:
        report: the report of the installation, compared by identity.
        accelerates: False for a layer that only watches.
        method: what is done there, at a seam that can do something.
        scene: what the stages of one run tell each other; one per installation.
    """

    report: Any
    accelerates: bool = False
    method: Any = None
    scene: Any = None


class Seam:
    """Stands in for `owner.name` on the instance and calls the original; subclasses act around that call.

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
        # An earlier instance attribute (a compiled forward, somebody else's wrapper) must come back as it was.
        self._shadowed = name in attributes
        self._earlier: Any = attributes.get(name)
        self._installed = False

    def owner(self) -> Any:
        """The object this seam sits on.

        Raises:
            ReferenceError: that object is gone.
        """
        owner = None if self._owner is None else self._owner()
        if owner is None:
            raise ReferenceError(f"the object whose {self.name!r} was patched no longer exists")
        return owner

    def original(self) -> Callable[..., Any]:
        """What `owner.name` was before this seam, bound to the present owner."""
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
        """Put `layer` on, installing the seam if it is not there yet."""
        self.layers = [*self.layers, layer]
        if not self._installed:
            vars(self.owner())[self.name] = self
            self._installed = True

    def discard(self, layer: Layer) -> None:
        """Take `layer` off (nothing happens if it is not on); without layers the seam removes itself."""
        self.layers = [other for other in self.layers if other is not layer]
        self.clean()

    def clean(self) -> None:
        """Remove the seam if no layer is left on it."""
        owner = None if self._owner is None else self._owner()
        if self.layers or not self._installed or owner is None:
            return
        attributes = vars(owner)
        if attributes.get(self.name) is not self:
            # Still reachable through the other wrapper, so still installed: it may come to the top again.
            logger.warning(
                "%s.%s was wrapped by other code after fast_sam3d patched it; our part is switched off and passes "
                "every call through",
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
    """The undo log of one installation: what it put on, and what it took off to make room."""

    def __init__(self) -> None:
        self._added: list[tuple[Seam, Layer]] = []
        self._removed: list[tuple[Seam, Layer]] = []

    def add(self, owner: object, name: str, layer: Layer, make: Callable[[], Seam]) -> None:
        """Put `layer` on the seam at `owner.name`, which `make` creates where there is none."""
        seam = seam_at(owner, name) or make()
        # Logged first: a half-done change is undone too, and undoing one that never happened changes nothing.
        self._added.append((seam, layer))
        seam.add(layer)

    def take_off(self, places: Iterable[tuple[object, str]], unwanted: Callable[[Layer], bool]) -> None:
        """Remove every layer for which `unwanted` is true from the seams at `places`."""
        for owner, name in places:
            seam = seam_at(owner, name)
            if seam is None:
                continue
            for layer in [layer for layer in seam.layers if unwanted(layer)]:
                self._removed.append((seam, layer))
                seam.discard(layer)
            seam.clean()

    @property
    def active(self) -> bool:
        """Whether any layer of this installation is still on."""
        return any(layer in seam.layers for seam, layer in self._added)

    def remove(self) -> None:
        """Take off what this installation put on. Safe to repeat, in any order with other installations."""
        for seam, layer in reversed(self._added):
            seam.discard(layer)

    def rollback(self) -> None:
        """Undo everything, including what was taken off: the state before this installation began."""
        # Back on before off, so that a seam both share stays where it is.
        for seam, layer in self._removed:
            seam.add(layer)
        self.remove()
        self._added, self._removed = [], []
