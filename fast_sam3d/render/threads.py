"""Independent pieces of numpy work side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

__all__ = ["side_by_side"]

T = TypeVar("T")
R = TypeVar("R")

MOST = 4
"""Threads: a picture takes about 100 MB while it is drawn."""


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` of each item, in their order, on as many threads as torch has; without torch one after the other.

    numpy lets other threads run while it works on large arrays. What `work` raises is raised here.
    """
    torch = sys.modules.get("torch")
    count = min(torch.get_num_threads() if torch is not None else 1, MOST)
    if count < 2:
        return [work(item) for item in items]
    # BLAS's own threads would take the cores from these, to no use: its products here are small.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(count, thread_name_prefix="fast_sam3d") as pool:
        return list(pool.map(work, items))
