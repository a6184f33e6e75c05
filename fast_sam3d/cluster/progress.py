"""One bar over the objects of all scenes; a log line per object where there is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["ClusterProgress"]

log = logging.getLogger(__name__)


class ClusterProgress:
    """Told of every object that is done, in any order; a context manager.

    Args:
        objects: in all.
        bar: draw one; None: only where the error stream is a terminal.
    """

    def __init__(self, objects: int, bar: bool | None = None) -> None:
        self._draw = sys.stderr.isatty() if bar is None else bar
        self._total, self._done, self._since = objects, 0, 0.0
        self._bar: Any = None

    def __enter__(self) -> ClusterProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

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
        gone = time.perf_counter() - self._since
        log.info("object %s %s: %d of %d, %.1f s gone, about %.0f s left", name, status, self._done, self._total, gone,
                 gone / self._done * self.left)  # fmt: skip
