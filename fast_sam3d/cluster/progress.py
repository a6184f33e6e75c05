"""One bar over the objects of all scenes; a log line per object where there is no terminal."""

from __future__ import annotations

import sys
import time

from fast_sam3d.progress import ObjectBar

__all__ = ["ClusterProgress"]


class ClusterProgress(ObjectBar):
    """Told of every object that is done, in any order; a context manager.

    Args:
        objects: in all.
        bar: draw one; None: only where the error stream is a terminal.
    """

    def __init__(self, objects: int, bar: bool | None = None) -> None:
        super().__init__(bar)
        self._total = objects

    def __enter__(self) -> ClusterProgress:
        return self

    @property
    def left(self) -> int:
        """Objects that are not done."""
        return max(self._total - self._done, 0)

    def begin(self) -> None:
        """The workers start: time counts from here."""
        self._since = time.perf_counter()
        if self._draw:
            from tqdm import tqdm

            form = "{desc} {n_fmt} of {total_fmt} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"
            self._bar = tqdm(total=self._total, desc="objects", file=sys.stderr, dynamic_ncols=True, bar_format=form)

    def without(self, count: int) -> None:
        """So many are not to be made: they are there, or cannot be."""
        self._total -= count
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.refresh()

    def object_done(self, name: str, status: str) -> None:
        """One object, such as kitchen/3, is complete or has failed."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(name, refresh=False)
            self._bar.update(1)
            return
        self._line(name, status, self._total, self.left)
