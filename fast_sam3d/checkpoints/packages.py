"""State of the packages that SAM 3D Objects needs, read from metadata and files: nothing is imported."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.machinery import all_suffixes
from pathlib import Path

from fast_sam3d.checkpoints.requirements import FORK_MARK, Requirement, release

__all__ = ["PackageState", "holds", "importable", "inspect", "inspect_all"]

# The first versions that work with numpy 2: earlier ones were compiled for numpy 1.
_BEFORE_NUMPY_2 = {"cv2": (4, 10), "open3d": (0, 19)}


@dataclass(frozen=True, slots=True)
class PackageState:
    """A package here.

    Args:
        version: None if not installed or unknown.
        problem: None if the package is usable.
        how: what pip takes to install it as the authors of SAM 3D Objects do.
        note: what differs from their environment, without being known to fail.
    """

    module: str
    version: str | None
    problem: str | None
    how: str
    optional: bool
    note: str | None = None


def inspect_all(requirements: Iterable[Requirement]) -> tuple[PackageState, ...]:
    """The state of several packages, and of those that are known not to work together."""
    states = {requirement.module: inspect(requirement) for requirement in requirements}
    numpy = states.get("numpy")
    old = [states[m] for m, least in _BEFORE_NUMPY_2.items() if m in states and (0,) < _numbers(states[m]) < least]
    if numpy is not None and numpy.problem is None and _numbers(numpy) >= (2,) and old:
        names = " and ".join(f"{state.module} {state.version}" for state in old)
        states["numpy"] = replace(numpy, problem=f"{numpy.version} is too new for {names}")
    lightning = states.get("lightning")
    if lightning is not None and lightning.problem is None and _needs_pkg_resources():
        problem = f"{lightning.version} imports pkg_resources, which setuptools 82 and later do not have"
        states["lightning"] = replace(lightning, problem=problem)
    return tuple(states.values())


def inspect(requirement: Requirement) -> PackageState:
    """The state of one package."""
    names = (requirement.name, *requirement.others)
    version = next((found for name in names if (found := _version(name)) is not None), None)
    return PackageState(
        requirement.module,
        version,
        _problem(requirement, version),
        requirement.pinned,
        requirement.optional,
        _note(version, requirement.pin),
    )


def importable(module: str) -> bool:
    """Whether a package exists, without importing it. A plain folder with the same name does not count."""
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # any error of damaged packages or import hooks
        return False
    return found is not None and found.origin is not None


def _problem(requirement: Requirement, version: str | None) -> str | None:
    if not importable(requirement.module):
        return "is not installed" if version is None else "is registered, but its files are missing"
    for part in requirement.parts:
        if not holds(part):
            return f"is another package of this name, or another version: it has no {part.replace(':', '.')}"
    if requirement.module == "sam3d_objects" and holds(FORK_MARK):
        return "is the Fast-SAM3D fork's package, not that of SAM 3D Objects"
    return None


def _note(version: str | None, pin: str | None) -> str | None:
    """Where major or minor version differ from the pin."""
    if version is None or pin is None or release(version)[:2] == release(pin)[:2]:
        return None
    return f"SAM 3D Objects pins {pin}"


def holds(part: str) -> bool:
    """Whether the files of an installed package hold a submodule ("a.b"), or a function or class ("a.b:name")."""
    module, _, name = part.partition(":")
    files = list(_files(module))
    sources = [file for file in files if file.suffix == ".py"]
    if not name or not sources:
        return bool(files)
    pattern = re.compile(rf"^\s*(?:def|class) {name}\b", re.MULTILINE)
    return any(pattern.search(file.read_text("utf-8", "replace")) for file in sources)


def _files(module: str) -> Iterator[Path]:
    """The files of a submodule: itself, or, if it is a folder, what is in there."""
    top, *between = module.split(".")
    for folder in _locations(top):
        place = Path(folder, *between)
        if place.is_dir():
            yield from (file for file in place.rglob("*") if file.is_file())
        yield from filter(Path.is_file, (place.with_name(place.name + suffix) for suffix in all_suffixes()))


def _locations(module: str) -> tuple[str, ...]:
    try:
        found = importlib.util.find_spec(module)
        return tuple(found.submodule_search_locations or ()) if found is not None else ()
    except Exception:  # as in `importable`
        return ()


def _needs_pkg_resources() -> bool:
    """Whether the installed lightning imports a module that setuptools had until version 81, and has not here."""
    starts = [Path(folder, "pytorch", "__init__.py") for folder in _locations("lightning")]
    wanted = any("pkg_resources" in start.read_text("utf-8", "replace") for start in starts if start.is_file())
    return wanted and not importable("pkg_resources")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution) or None
    except Exception:  # not installed, or damaged metadata
        return None


def _numbers(state: PackageState) -> tuple[int, ...]:
    return release(state.version or "")
