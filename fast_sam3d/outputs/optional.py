"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

from fast_sam3d.errors import OutputError

__all__ = ["optional", "require"]


def optional(module: str, what: str, extra: str = "export") -> ModuleType:
    """Import the module of an optional package.

    Args:
        what: it is needed for, such as ".spz files".
        extra: of `fast-sam3d` that installs it.

    Raises:
        OutputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OutputError(_missing(module, what, extra)) from error


def require(modules: Iterable[tuple[str, str]], extra: str = "export") -> None:
    """Check without importing them that modules are installed; takes pairs of arguments of `optional`.

    Raises:
        OutputError: the first that is not.
    """
    for module, what in modules:
        if importlib.util.find_spec(module) is None:
            raise OutputError(_missing(module, what, extra))


def _missing(module: str, what: str, extra: str) -> str:
    return f'{what} need the package {module.replace("_", "-")}: pip install "fast-sam3d[{extra}]"'
