"""What to do when an object does not fit: free what can be freed, try again, then ask for less."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from fast_sam3d.errors import FastSam3dError

__all__ = ["SMALLER", "DoesNotFit", "free_memory", "is_out_of_memory", "run_fitting", "smaller_than"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALLER: tuple[tuple[str, ...], ...] = (("gaussian",), ("gaussian_4",))
"""Formats to decode instead, one set after another. The mesh takes most, four gaussians per voxel least."""


class DoesNotFit(FastSam3dError):
    """An object for which the memory did not suffice in any way that was tried."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lack of memory of the host or of a device."""
    torch = sys.modules.get("torch")
    kinds: tuple[type[BaseException], ...] = (MemoryError,)
    if torch is not None:
        kinds = (*kinds, torch.cuda.OutOfMemoryError)
    while error is not None:
        # The CPU allocator of torch raises a bare RuntimeError, and so do cuBLAS and cuDNN.
        said = str(error)
        if isinstance(error, kinds) or "not enough memory" in said or "CUDA out of memory" in said:
            return True
        error = error.__cause__
    return False


def free_memory() -> None:
    """Collects garbage, and hands the blocks that torch keeps back to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def smaller_than(
    formats: Sequence[str], ladder: Sequence[Sequence[str]] = SMALLER, there: Collection[str] | None = None
) -> list[tuple[str, ...]]:
    """The steps of a ladder that ask for less than `formats` do, in its order.

    Args:
        formats: what is asked for, of "mesh", "gaussian" and "gaussian_4".
        ladder: sets of formats, each meant to take less than the one before.
        there: the formats that the pipeline can decode; None: all.
    """
    weight = {"gaussian_4": 1, "gaussian": 2, "mesh": 4}
    steps, least = [], sum(weight[name] for name in set(formats))
    for step in ladder:
        total = sum(weight[name] for name in set(step))
        if total < least and (there is None or set(step) <= set(there)):
            steps.append(tuple(step))
            least = total
    return steps


def run_fitting(
    run: Callable[[tuple[str, ...]], T],
    formats: Sequence[str],
    smaller: Sequence[Sequence[str]] = (),
    free: Callable[[], None] = free_memory,
    told: list[str] | None = None,
) -> tuple[T, tuple[str, ...], list[str]]:
    """Runs an object; where the memory does not suffice, again after freeing what can be freed, then with less.

    Args:
        run: takes the formats to decode.
        formats: what is asked for.
        smaller: what to ask for instead, one after another.
        free: called before every further try.
        told: filled as the tries fail, for a `run` that wants to know.

    Returns:
        what `run` gave; the formats that it was given; for every try that did not fit what it was and what it said.

    Raises:
        DoesNotFit: no try fitted.
    """
    told = [] if told is None else told
    for number, step in enumerate([tuple(formats), tuple(formats), *map(tuple, smaller)]):
        said = None
        try:
            return run(step), step, told
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
        # Outside of the except block: the error's frames hold what the run had allocated.
        what = ", ".join(step) + (" again, alone" if number == 1 else "")
        told.append(f"{what}: {said}")
        log.warning("out of memory (%s): freeing what can be freed and trying again", what)
        free()
    raise DoesNotFit(f"the memory does not suffice, also not for less ({'; '.join(told)})")
