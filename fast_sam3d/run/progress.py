"""One progress bar per stage on a terminal, one log line per stage elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["STAGES", "ObjectBar", "ObjectsProgress", "ProgressBars", "SceneProgress"]

log = logging.getLogger(__name__)

# What the stages of fast_sam3d.telemetry are called on the screen. "other" is the whole run and has no bar.
STAGES = {
    "pointmap": "pointmap",
    "preprocess": "preprocessing",
    "condition": "image tokens",
    "ss": "sparse structure",
    "ss_decoder": "occupancy",
    "slat": "structured latent",
    "mesh": "mesh",
    "gaussian": "gaussians",
    "postprocess": "postprocessing",
    "layout": "layout",
}
QUIET_SECONDS = 0.5  # a stage without steps that is quicker than this gets no log line


class ProgressBars:
    """Told of every step, as `fast_sam3d.telemetry.Progress`; a context manager that closes open bars on the way out.

    Args:
        bars: draw bars; None: only where the error stream is a terminal.
    """

    def __init__(self, bars: bool | None = None) -> None:
        self._draw = sys.stderr.isatty() if bars is None else bars
        self._open: dict[str, Any] = {}
        self._since: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in STAGES:
            return
        if done == 0 or stage not in self._since:
            self._since[stage] = time.perf_counter()
        if self._draw:
            self._bar(stage, done, total)
        elif done == total:
            self._line(stage, total)
        if done == total:
            self._since.pop(stage, None)

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._open.values():
            bar.close()
        self._open.clear()

    def _bar(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        bar = self._open.get(stage)
        if bar is None:
            # The bars of stages without steps come and go; those with steps stay on the screen.
            bar = self._open[stage] = tqdm(
                total=total,
                desc=f"{STAGES[stage]:<18}",
                unit="step",
                leave=total > 1,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        bar.update(done - bar.n)
        if done == total:
            self._open.pop(stage).close()

    def _line(self, stage: str, total: int) -> None:
        seconds = time.perf_counter() - self._since[stage]
        if total > 1:
            log.info("%s: %d steps, %.1f s", STAGES[stage], total, seconds)
        elif seconds >= QUIET_SECONDS:
            log.info("%s: %.1f s", STAGES[stage], seconds)


class ObjectBar:
    """What bars over objects have in common; a context manager that closes the bar.

    Args:
        bar: draw one; None: only where the error stream is a terminal.
    """

    def __init__(self, bar: bool | None) -> None:
        self._draw = sys.stderr.isatty() if bar is None else bar
        self._done, self._since = 0, 0.0
        self._bar: Any = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, name: str, status: str, total: int, left: int) -> None:
        """Says of the object that is done last what a bar would show."""
        gone = time.perf_counter() - self._since
        log.info("object %s %s: %d of %d, %.1f s gone, about %.0f s left", name, status, self._done, total, gone,
                 gone / self._done * left)  # fmt: skip


class SceneProgress(ObjectBar):
    """One bar over all objects of a scene, with the time that is left; elsewhere a log line per object.

    Told of every step as `ProgressBars` is. An object counts as one; its steps are told as parts of it.

    Args:
        steps: of one object's two samplers.
        bars: draw a bar; None: only where the error stream is a terminal.
    """

    def __init__(self, steps: int, bars: bool | None = None) -> None:
        super().__init__(bars)
        self._steps = max(steps, 1)
        self._names: list[str] = []
        self._in_object = 0

    def objects(self, names: list[str]) -> SceneProgress:
        """Begins with a scene; a context manager that closes the bar."""
        self._names, self._done, self._in_object, self._since = names, 0, 0, time.perf_counter()
        return self

    def __enter__(self) -> SceneProgress:
        if self._draw:
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"
            self._bar = tqdm(total=len(self._names) * self._steps, file=sys.stderr, dynamic_ncols=True, bar_format=form)
            self._describe()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or stage not in STAGES:
            return
        self._bar.set_postfix_str(STAGES[stage], refresh=done == 0)
        if stage in ("ss", "slat") and done and self._in_object < self._steps:
            self._in_object += 1
            self._bar.update(1)

    def object_done(self, status: str) -> None:
        """The next one follows."""
        name = self._names[self._done] if self._done < len(self._names) else ""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._steps - self._in_object)
            self._in_object = 0
            self._describe()
            return
        self._line(name, status, len(self._names), len(self._names) - self._done)

    def _describe(self) -> None:
        if self._done < len(self._names):
            self._bar.set_description_str(f"object {self._names[self._done]}, {self._done + 1} of {len(self._names)}")


class ObjectsProgress(ObjectBar):
    """Told of every object that is done, in any order; a context manager.

    Args:
        objects: in all.
        bar: draw one; None: only where the error stream is a terminal.
    """

    def __init__(self, objects: int, bar: bool | None = None) -> None:
        super().__init__(bar)
        self._total = objects

    def __enter__(self) -> ObjectsProgress:
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
