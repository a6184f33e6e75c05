"""Imports of modules that earlier versions had."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

import fast_sam3d
from fast_sam3d.moved import MOVED, PUBLIC, where


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_is_gone_and_its_new_package_is_there(old: str) -> None:
    new = f"fast_sam3d.{MOVED[old]}"
    assert importlib.util.find_spec(new) is not None
    with pytest.raises(ImportError, match=f"fast_sam3d.{old} is now in {new}"):
        importlib.import_module(f"fast_sam3d.{old}")


def test_both_forms_of_an_import_say_where_to_look() -> None:
    message = "fast_sam3d.export is now in fast_sam3d.outputs; fast_sam3d itself has save_gaussians_ply, save_glb, "
    with pytest.raises(ImportError, match=message):
        import fast_sam3d.export
    with pytest.raises(ImportError, match=message):
        from fast_sam3d.export import save_glb  # noqa: F401
    with pytest.raises(ImportError, match=message):
        from fast_sam3d import export  # noqa: F401
    with pytest.raises(ImportError, match="fast_sam3d.solve is now in fast_sam3d.sampling"):
        import fast_sam3d.solve.predict.taylor  # noqa: F401


def test_the_public_names_of_old_modules_are_there() -> None:
    assert all(callable(getattr(fast_sam3d, name)) for names in PUBLIC.values() for name in names.split(", "))


def test_modules_that_never_were_raise_as_everywhere() -> None:
    assert where("fast_sam3d.exports") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'fast_sam3d.exports'"):
        importlib.import_module("fast_sam3d.exports")
    assert importlib.util.find_spec("fast_sam3d.exports") is None
