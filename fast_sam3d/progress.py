"""One progress bar per stage on a terminal, one log line per stage elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["STAGES", "ProgressBars"]

log = logging.getLogger(__name__)

# What the stages of fast_sam3d.report are called on the screen. "other" is the whole run and has no bar.
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
}
QUIET_SECONDS = 0.5  # a stage without steps that is quicker than this gets no log line


class ProgressBars:
    """Told of every step, as `fast_sam3d.report.Progress`; a context manager that closes open bars on the way out.

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
