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


def resource(name: str) -> Path:
    """Returns the folder `name` of the repository ("configs", "checkpoints/mini"), or its copy inside the wheel.

    Raises:
        FastSam3dError: it is in neither place.
    """
    root = checkout()
    path = (root if root is not None else _PACKAGE / "_data") / name
    if not path.is_dir():
        mend = "reinstall fast-sam3d" if root is None else f"`git checkout -- {name}` in that clone brings it back"
        raise FastSam3dError(f"the folder {path} is missing: {mend}")
    return path


def bundled_example(path: Path) -> Path:
    """Returns where an example is: `path` itself, or examples/NAME of the checkout or the wheel if it is not here.

    The wheel holds examples/teapot only.
    """
    if path.parts[:1] != ("examples",) or path.exists():
        return path
    root = checkout()
    found = (root if root is not None else _PACKAGE / "_data") / path
    return found if found.exists() else path


def checkpoint_roots() -> list[Path]:
    """Returns the folders that may hold checkpoints, the user's working folder first, duplicates removed."""
    roots = [Path.cwd() / "checkpoints"]
    root = checkout()
    roots.append((root if root is not None else _PACKAGE / "_data") / "checkpoints")
    return [r for r in dict.fromkeys(r.resolve() for r in roots) if r.is_dir()]
