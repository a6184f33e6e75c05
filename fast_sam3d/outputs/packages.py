"""Optional packages of the extra `export`."""

from __future__ import annotations

import importlib
from types import ModuleType

from fast_sam3d.errors import ExportError

__all__ = ["export_package"]


def export_package(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ExportError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f'{name} cannot be imported ({error}): run pip install "fast-sam3d[export]"') from error
