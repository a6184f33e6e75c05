"""Finds the configuration, the embedded weights and the examples, in a checkout and in an installed copy."""

from __future__ import annotations

from pathlib import Path

from fast_sam3d.errors import FastSam3dError

__all__ = ["bundled_example", "checkout", "checkpoint_roots", "resource"]

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """Returns the repository that this package runs from, or None in an installed copy."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "configs").is_dir() else None


def _root() -> Path:
    """The repository, or what the wheel holds of it."""
    return checkout() or _PACKAGE / "_data"


def resource(name: str) -> Path:
    """Returns the folder `name` of the repository ("configs", "checkpoints/mini"), or its copy inside the wheel.

    Raises:
        FastSam3dError: it is in neither place.
    """
    path = _root() / name
    if not path.is_dir():
        mend = f"`git checkout -- {name}` in that clone brings it back" if checkout() else "reinstall fast-sam3d"
        raise FastSam3dError(f"the folder {path} is missing: {mend}")
    return path


def bundled_example(path: Path) -> Path:
    """Returns where an example is: `path` itself, or examples/NAME of the checkout or the wheel if it is not here.

    The wheel holds examples/teapot only.
    """
    if path.parts[:1] != ("examples",) or path.exists():
        return path
    found = _root() / path
    return found if found.exists() else path


def checkpoint_roots() -> list[Path]:
    """Returns the folders that may hold checkpoints, the user's working folder first, duplicates removed."""
    roots = [(folder / "checkpoints").resolve() for folder in (Path.cwd(), _root())]
    return [root for root in dict.fromkeys(roots) if root.is_dir()]
