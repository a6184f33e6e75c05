"""Optional packages of the extra `export`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

from fast_sam3d.errors import ExportError

__all__ = ["export_package", "require_packages"]


def export_package(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ExportError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f'{name} cannot be imported ({error}): run pip install "fast-sam3d[export]"') from error


def require_packages(needed: Iterable[tuple[str, str]]) -> None:
    """Check that packages are installed, without importing them.

    Args:
        needed: names of packages, each with what it is needed for, such as ".spz files".

    Raises:
        ExportError: one is not.
    """
    for name, what in needed:
        if importlib.util.find_spec(name) is None:
            raise ExportError(f'{what} need the package {name}: run pip install "fast-sam3d[export]"')
