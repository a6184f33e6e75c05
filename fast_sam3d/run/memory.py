"""Out-of-memory fallbacks: free caches, run again, then with smaller memory plans, then decode fewer formats."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

from fast_sam3d.errors import FastSam3dError, first_line, is_out_of_memory

__all__ = ["SMALLER", "DoesNotFit", "free_memory", "remedies", "run_fitting", "smaller_than"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALLER: tuple[tuple[str, ...], ...] = (("gaussian",), ("gaussian_4",))
"""Formats to decode instead, in this order. The mesh takes most memory, four gaussians per voxel least."""


class DoesNotFit(FastSam3dError):
    """An object that did not fit into memory in any of the attempts."""


def remedies() -> str:
    """What helps against out-of-memory, for an error message."""
    several = [
        "close other programs that use the device",
        "decode fewer formats (pipeline.formats=[gaussian])",
        "compute less at once (exact=all exact.images=false exact.context=false)",
        "merge voxels in the mesh decoder (mesh=fast_sam3d)",
    ]
    torch = sys.modules.get("torch")
    if "sam3d_objects" in sys.modules:  # the stock pipeline calls `.cuda()`, wherever it is
        several.append("take a GPU with more memory; the stock pipeline does not run on a CPU")
    elif torch is None or torch.cuda.is_available() or torch.backends.mps.is_available():
        several.append("run on the CPU (--device cpu)")
    else:
        several.append("take a machine with more memory")
    return f"{', '.join(several[:-1])}, or {several[-1]}"


def free_memory() -> None:
    """Collect garbage and return torch's cached blocks to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def smaller_than(
    formats: Sequence[str], ladder: Sequence[Sequence[str]] = SMALLER, there: Collection[str] | None = None
) -> list[tuple[str, ...]]:
    """The sets of formats in a ladder that need less memory than `formats`, in order.

    Args:
        formats: requested, of "mesh", "gaussian" and "gaussian_4".
        ladder: sets of formats, each expected to need less memory than the one before.
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
    failures: list[str] | None = None,
    shrink: Callable[[], str | None] = lambda: None,
) -> tuple[T, tuple[str, ...], list[str]]:
    """Run an object; out of memory, free caches and run again, then with smaller memory plans, then fewer formats.

    Args:
        run: takes the formats to decode.
        formats: requested.
        smaller: formats to decode instead, in order.
        free: called before every further attempt.
        failures: filled as attempts fail, for a `run` that reads it.
        shrink: takes the next smaller memory plan and returns its name; None: there is none.

    Returns:
        The value of `run`; the formats it was called with; a line for every attempt that did not fit.

    Raises:
        DoesNotFit: no attempt fitted.
    """
    failures = [] if failures is None else failures
    for step, how in _attempts(tuple(formats), smaller, shrink):
        try:
            return run(step), step, failures
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said = first_line(error)
        # Outside of the except block, because the error's frames hold the memory of the run.
        what = ", ".join(step) + how
        failures.append(f"{what}: {said}")
        log.warning("out of memory (%s): freeing caches and trying again", what)
        free()
    raise DoesNotFit(f"out of memory, also with fewer formats ({'; '.join(failures)})")


def _attempts(
    formats: tuple[str, ...], smaller: Sequence[Sequence[str]], shrink: Callable[[], str | None]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The formats of each attempt, and how it differs from the first; takes a smaller plan when it comes to that."""
    yield formats, ""
    yield formats, " again, alone"
    how = ""
    while (plan := shrink()) is not None:
        log.warning("memory plan %s from now on", plan)
        how = f" under memory plan {plan}"
        yield formats, how
    for step in smaller:
        yield tuple(step), how
