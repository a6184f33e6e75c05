"""Fewer formats are decoded if the memory does not suffice, and only then."""

from __future__ import annotations

import gc
import re
import sys
import types
import weakref

import numpy as np
import pytest
import torch

from fast_sam3d.config.compose import load
from fast_sam3d.errors import is_out_of_memory
from fast_sam3d.run.memory import DoesNotFit, remedies, run_fitting, smaller_than

ALL = ("mesh", "gaussian")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        OSError(12, "Cannot allocate memory"),
        OSError("out of memory error when reading image file"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
        RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("could not allocate the scratchpad"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("HIP error: hipErrorOutOfMemory"),
        RuntimeError("UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("Invalid buffer size: 24.00 GiB"),
        type("SafetensorError", (Exception,), {})("Error: Cannot allocate memory (os error 12)"),
    ],
)
def test_out_of_memory_errors(error):
    assert is_out_of_memory(error)
    outer = ValueError("a decoder failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


@pytest.mark.parametrize("allocate", [lambda size: torch.empty(size, dtype=torch.uint8), np.empty, bytearray])
def test_real_allocations_that_do_not_fit(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(1 << 55)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_out_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("the settings do not say out of memory"))
    assert not is_out_of_memory(RuntimeError("memory format torch.channels_last"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))
    assert not is_out_of_memory(None)


@pytest.mark.parametrize(("stock", "gpu"), [(True, True), (False, True), (False, False)])
def test_a_cpu_is_advised_where_it_is_another_device(stock: bool, gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delitem(sys.modules, "sam3d_objects", raising=False)
    if stock:
        monkeypatch.setitem(sys.modules, "sam3d_objects", types.ModuleType("sam3d_objects"))
    assert ("--device cpu" in remedies()) == (gpu and not stock)
    advised = re.findall(r"[a-z.]+=[^\s),]+", remedies())
    assert len(advised) == 5
    load(advised)  # valid overrides, together


def runs_out(times: int, error: BaseException | None = None):
    tries: list[tuple[str, ...]] = []

    def run(formats: tuple[str, ...]) -> str:
        tries.append(formats)
        if len(tries) <= times:
            raise error or MemoryError("no room")
        return "made"

    return run, tries


def test_run_that_fits_is_not_repeated():
    run, tries = runs_out(0)
    assert run_fitting(run, ALL, [("gaussian",)]) == ("made", ALL, [])
    assert tries == [ALL]


def test_a_second_attempt_then_fewer_formats():
    freed = []
    run, tries = runs_out(2)
    made, formats, failures = run_fitting(run, ALL, [("gaussian",), ("gaussian_4",)], lambda: freed.append(len(tries)))
    assert (made, formats) == ("made", ("gaussian",))
    assert tries == [ALL, ALL, ("gaussian",)]
    assert freed == [1, 2]
    assert failures == ["mesh, gaussian: no room", "mesh, gaussian again, alone: no room"]


def test_smaller_memory_plans_come_before_fewer_formats():
    plans, freed = ["12GB", "8GB"], []
    run, tries = runs_out(4)
    made, formats, failures = run_fitting(
        run, ALL, [("gaussian",)], lambda: freed.append(len(tries)), shrink=lambda: plans.pop(0) if plans else None
    )
    assert (made, formats) == ("made", ("gaussian",))
    assert tries == [ALL] * 4 + [("gaussian",)] and freed == [1, 2, 3, 4]
    assert [line.removesuffix(": no room") for line in failures] == [
        "mesh, gaussian", "mesh, gaussian again, alone", "mesh, gaussian under memory plan 12GB",
        "mesh, gaussian under memory plan 8GB",
    ]  # fmt: skip


def test_error_if_no_format_fits():
    run, tries = runs_out(9)
    with pytest.raises(DoesNotFit, match=r"mesh, gaussian again, alone.*gaussian: no room"):
        run_fitting(run, ALL, [("gaussian",)])
    assert len(tries) == 3


def test_other_errors_are_raised():
    run, tries = runs_out(1, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run_fitting(run, ALL, [("gaussian",)])
    assert len(tries) == 1


def test_memory_of_a_failed_run_is_freed_before_the_next():
    class Held:
        pass

    seen = []

    def run(formats: tuple[str, ...]) -> int:
        held = Held()
        seen.append(weakref.ref(held))
        if len(seen) == 1:
            raise MemoryError
        return 1

    def free() -> None:
        gc.collect()
        assert seen[0]() is None

    run_fitting(run, ALL, [], free)


def test_fallbacks_need_less_memory_each():
    assert smaller_than(ALL) == [("gaussian",), ("gaussian_4",)]
    assert smaller_than(("gaussian",)) == [("gaussian_4",)]
    assert smaller_than(("gaussian_4",)) == []
    assert smaller_than(ALL, there={"mesh", "gaussian"}) == [("gaussian",)]
    assert smaller_than(("mesh",), [("mesh", "gaussian"), ("gaussian",)]) == [("gaussian",)]
