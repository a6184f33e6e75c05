"""Calls in a process of their own: the same results and errors, and an end in the middle."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from fast_sam3d.errors import ExportError, InputError
from fast_sam3d.run.own_process import here, in_own_process
from fast_sam3d.texture.decimate import in_unit_cube


def wanted() -> None:
    """A result that is always wanted."""


def test_returns_what_the_function_returns():
    vertices = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    own, other = here(in_unit_cube, vertices), in_own_process(wanted, in_unit_cube, vertices)
    assert own[0].tobytes() == other[0].tobytes() and own[2] == other[2]
    assert in_own_process(wanted, os.getpid) != os.getpid()


def test_raises_the_errors_of_the_function_and_names_the_end_of_its_process():
    with pytest.raises(ExportError, match="has no vertices"):
        in_own_process(wanted, in_unit_cube, np.zeros((0, 3), np.float32))
    with pytest.raises(ExportError, match=r"the process of _exit ended with exit code 3"):
        in_own_process(wanted, os._exit, 3)


def test_ends_in_the_middle_when_the_result_is_not_wanted_any_longer():
    def unwanted() -> None:
        raise InputError("not wanted")

    with pytest.raises(InputError, match="not wanted"):
        in_own_process(unwanted, time.sleep, 600)
