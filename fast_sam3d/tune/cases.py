"""Which objects and seeds a schedule is calibrated on, and which it is checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fast_sam3d.bench.objects import BenchObject, Folder, HeldOut, Objects
from fast_sam3d.errors import ConfigError

if TYPE_CHECKING:
    from fast_sam3d.checkpoints.load import Checkpoint

__all__ = ["Case", "Cases", "cases_of"]

Case: TypeAlias = tuple[str, int]
"""An object and a noise seed."""
_OWN_OBJECTS = 500_000
"""Distance of the embedded model's calibration objects from those of the bench, on which they are checked."""


@dataclass(frozen=True)
class Cases:
    """Objects with seeds, most useful first.

    Args:
        calibration: to choose schedules on. check: to measure them on.
        sources: where the objects come from.
        same_objects: the check has other seeds of the same objects, because there are too few others.
    """

    calibration: tuple[Case, ...]
    check: tuple[Case, ...]
    sources: tuple[Objects, ...]
    same_objects: bool = False

    def load(self, case: Case) -> BenchObject:
        """The object of a case."""
        source = next(source for source in self.sources if case[0] in source.names())
        return source.load(case[0])

    def identity(self) -> object:
        """JSON-ready; changes when the objects do."""
        return [[list(case) for case in (*self.calibration, *self.check)], [s.identity() for s in self.sources]]


def cases_of(
    pictures: Path | None, checkpoint: Checkpoint, objects: int, checked: int, seed: int, axes: str = "auto"
) -> Cases:
    """The cases for pictures, or for the embedded model's own objects.

    Args:
        pictures: a folder as of `Folder`; None: objects of the embedded model.
        objects, checked: at most so many cases of each kind.
        seed: of the noise.
        axes: of the pictures' pointmaps, as of `Folder`.

    Raises:
        InputError: no picture with a mask. ConfigError: no pictures, and the weights are not the embedded model's.
    """
    if pictures is None:
        if checkpoint.kind != "mini":
            raise ConfigError(
                f"the weights are {checkpoint.tag}, and the objects that come along are for the embedded model: add"
                " --image_path DIR with your own pictures, or --tag mini"
            )
        own, others = HeldOut(objects, skip=_OWN_OBJECTS), HeldOut(checked)
        return Cases(_with(own.names(), seed), _with(others.names(), seed), (own, others))
    folder = Folder(pictures, pointmap_axes=axes, model=checkpoint.model)
    names = list(folder.names())
    if len(names) < 4:
        # Two cases at least, so that weights are not fitted to one solve alone.
        seeds = [seed, seed + 1] if len(names) == 1 else [seed]
        first = [case for s in seeds for case in _with(names, s)]
        other = [case for s in range(seeds[-1] + 1, seeds[-1] + 1 + checked) for case in _with(names, s)]
        return Cases(tuple(first[:objects]), tuple(other[:checked]), (folder,), same_objects=True)
    kept = names[1::3]
    fitted = [name for name in names if name not in kept]
    return Cases(_with(fitted[:objects], seed), _with(kept[:checked], seed), (folder,))


def _with(names: Sequence[str], seed: int) -> tuple[Case, ...]:
    return tuple((name, seed) for name in names)
