"""A parallel `map` on threads, for numpy work on large arrays, which releases the interpreter lock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

__all__ = ["map_threads"]

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 4
"""Rendering one image takes about 100 MB."""


def map_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` of each item, in order, on as many threads as torch uses; sequential without torch.

    An exception of `work` is raised here.
    """
    torch = sys.modules.get("torch")
    count = min(torch.get_num_threads() if torch is not None else 1, MAX_THREADS)
    if count < 2:
        return [work(item) for item in items]
    # BLAS threads would compete for the cores and gain nothing: its products are small here.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(count, thread_name_prefix="fast_sam3d") as pool:
        return list(pool.map(work, items))
