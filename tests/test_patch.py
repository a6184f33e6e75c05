"""Seams are installed and removed in any order without a trace."""

from __future__ import annotations

import copy
import dataclasses
import logging
from functools import partial

import pytest

from fast_sam3d.patch import Layer, Patch, Seam, seam_at


class Thing:
    def __init__(self) -> None:
        self.value = 1

    def get(self) -> int:
        return self.value


def add(patch: Patch, thing: Thing, layer: Layer, name: str = "get") -> None:
    patch.add(thing, name, layer, partial(Seam, thing, name))


def test_seam_calls_the_original_and_is_removed_with_its_last_layer() -> None:
    thing, first, second = Thing(), Patch(), Patch()
    add(first, thing, Layer("a"))
    add(second, thing, Layer("b"))
    assert thing.get() == 1
    first.remove()
    assert isinstance(vars(thing)["get"], Seam)
    assert (first.active, second.active) == (False, True)
    second.remove()
    assert vars(thing) == {"value": 1}
    second.remove()
    assert vars(thing) == {"value": 1}


def test_a_layer_cannot_be_changed_and_equals_only_itself() -> None:
    layer = Layer("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.method = "other"  # type: ignore[misc]
    assert layer != Layer("a") and len({layer, Layer("a")}) == 2


def test_previous_instance_attribute_is_restored_in_place() -> None:
    thing = Thing()
    vars(thing)["get"] = earlier = lambda: 7
    vars(thing)["last"] = 0
    patch = Patch()
    add(patch, thing, Layer("a"))
    assert thing.get() == 7
    patch.remove()
    assert list(vars(thing)) == ["value", "get", "last"]
    assert vars(thing)["get"] is earlier


def test_wrapper_installed_by_other_code_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    thing, patch = Thing(), Patch()
    add(patch, thing, Layer("a"))
    ours = vars(thing)["get"]
    vars(thing)["get"] = foreign = lambda: ours() + 10
    with caplog.at_level(logging.WARNING):
        patch.remove()
    assert "Thing.get was wrapped by other code" in caplog.text
    assert vars(thing)["get"] is foreign
    assert thing.get() == 11
    vars(thing)["get"] = ours  # the other code removes its wrapper, too
    again = Patch()
    again.take_off([ours], lambda layer: True)
    assert vars(thing) == {"value": 1}


def test_rollback_restores_removed_layers() -> None:
    thing, old, new = Thing(), Patch(), Patch()
    layer = Layer("old", accelerates=True)
    add(old, thing, layer)
    new.take_off([vars(thing)["get"]], lambda layer: layer.accelerates)
    add(new, thing, Layer("new"))
    new.rollback()
    seam = seam_at(thing, "get")
    assert seam is not None
    assert seam.layers == [layer]
    assert old.active
    old.remove()
    assert vars(thing) == {"value": 1}


def test_copied_seam_is_bound_to_the_copy() -> None:
    thing, patch = Thing(), Patch()
    add(patch, thing, Layer("a"))
    twin = copy.deepcopy(thing)
    twin.value = 2
    assert (thing.get(), twin.get()) == (1, 2)
    patch.remove()
    assert isinstance(vars(twin)["get"], Seam)
    Patch().take_off([vars(twin)["get"]], lambda layer: True)
    assert vars(twin) == {"value": 2}


def test_an_owner_without_instance_attributes_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot set 'get' on an instance of tuple"):
        Seam((), "get")


def test_call_after_the_owner_is_deleted_raises() -> None:
    seam = Seam(Thing(), "get")
    with pytest.raises(ReferenceError, match="no longer exists"):
        seam()
