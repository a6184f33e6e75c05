"""Imports of modules that earlier versions had."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

import fast_sam3d
from fast_sam3d.moved import MOVED, PUBLIC, where


@pytest.mark.parametrize("old", sorted(MOVED))
def test_import_of_a_moved_module_fails_and_its_new_package_exists(old: str) -> None:
    new = f"fast_sam3d.{MOVED[old]}"
    assert importlib.util.find_spec(new) is not None
    with pytest.raises(ImportError, match=f"fast_sam3d.{old} is now in {new}"):
        importlib.import_module(f"fast_sam3d.{old}")


def test_both_import_forms_name_the_new_module() -> None:
    message = "fast_sam3d.export is now in fast_sam3d.outputs; fast_sam3d itself has save_gaussians_ply, save_glb, "
    with pytest.raises(ImportError, match=message):
        import fast_sam3d.export
    with pytest.raises(ImportError, match=message):
        from fast_sam3d.export import save_glb  # noqa: F401
    with pytest.raises(ImportError, match=message):
        from fast_sam3d import export  # noqa: F401
    with pytest.raises(ImportError, match="fast_sam3d.solve is now in fast_sam3d.sampling"):
        import fast_sam3d.solve.predict.taylor  # noqa: F401


def test_public_names_of_moved_modules_are_importable() -> None:
    assert all(callable(getattr(fast_sam3d, name)) for names in PUBLIC.values() for name in names.split(", "))


def test_unknown_modules_raise_the_usual_error() -> None:
    assert where("fast_sam3d.exports") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'fast_sam3d.exports'"):
        importlib.import_module("fast_sam3d.exports")
    assert importlib.util.find_spec("fast_sam3d.exports") is None
