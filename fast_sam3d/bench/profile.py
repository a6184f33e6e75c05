"""Time per stage of one object, without and with accelerations, in alternating runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.run.object import ObjectRun

PLAIN = "off"
"""The name of the baseline."""


@dataclass
class Timing:
    """Times of one variant, round by round.

    Args:
        name: of the variant.
        seconds: stage to its seconds, one number per round.
        network_calls: of one run.
        pose_refined: the layout stage ran.
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    network_calls: float = 0
    pose_refined: bool = False

    @property
    def totals(self) -> list[float]:
        """Seconds of each round."""
        return [sum(round_) for round_ in zip(*self.seconds.values(), strict=True)]

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.totals)

    def medians(self) -> dict[str, float]:
        """Stage to its median seconds."""
        return {stage: statistics.median(values) for stage, values in self.seconds.items()}

    def ratios(self, plain: Timing) -> list[float]:
        """How many times faster than `plain`, round by round."""
        return [other / own for own, other in zip(self.totals, plain.totals, strict=True)]


def profile(
    pipeline: Any,
    run: Callable[[], ObjectRun],
    configs: Mapping[str, Any],
    rounds: int = 7,
    progress: Callable[[int, int], None] = lambda done, total: None,
    earlier: Callable[[], Any] = lambda: None,
    after: Collection[str] = (),
) -> list[Timing]:
    """Time a run without and with accelerations, alternating, so that other load on the machine affects all equally.

    A warm-up round comes first and is discarded.

    Args:
        pipeline: a SAM 3D pipeline.
        run: runs it once, always on the same input.
        configs: name to a configuration as `fast_sam3d.accelerate` takes it.
        rounds: measured rounds.
        progress: called with (runs done, runs in all).
        earlier: runs first in each turn, not timed, such as the same picture with another mask; before the
            acceleration is installed, so that nothing of it is cached.
        after: names of variants that run `earlier` accelerated too, so that its caches are warm.

    Returns:
        the baseline, named `PLAIN`, then the others.

    Raises:
        FastSam3dError: a variant with the baseline's name, or fewer than one round.
    """
    from fast_sam3d.api import accelerated

    if PLAIN in configs:
        raise FastSam3dError(f"the name {PLAIN!r} is taken")
    if rounds < 1:
        raise FastSam3dError(f"{rounds} rounds: give at least 1")
    timings = [Timing(name) for name in (PLAIN, *configs)]
    total, done = (rounds + 1) * len(timings), 0
    for number in range(rounds + 1):
        order = timings if number % 2 else timings[::-1]
        for timing in order:
            with ExitStack() as stack:
                if timing.name not in after:
                    earlier()
                if timing.name != PLAIN:
                    stack.enter_context(accelerated(pipeline, configs[timing.name]))
                if timing.name in after:
                    earlier()
                found = run()
            done += 1
            progress(done, total)
            if number:
                for stage, seconds in found.report.seconds.items():
                    timing.seconds.setdefault(stage, []).append(seconds)
                timing.network_calls = found.report.network_calls
                timing.pose_refined = found.pose_refined
    return timings


def draw(timings: Sequence[Timing], path: Path, title: str) -> None:
    """One stacked bar per variant, median seconds per stage.

    Raises:
        FastSam3dError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise FastSam3dError("the picture needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from fast_sam3d.run.progress import STAGES

    stages = [stage for stage in STAGES if any(timing.medians().get(stage, 0) > 0 for timing in timings)]
    others = sorted({stage for timing in timings for stage in timing.seconds} - set(STAGES))
    figure, axis = pyplot.subplots(figsize=(9, 0.9 + 0.55 * len(timings)), constrained_layout=True)
    colours = pyplot.get_cmap("tab10")
    ends = [0.0] * len(timings)
    for number, stage in enumerate([*stages, *others]):
        widths = [timing.medians().get(stage, 0.0) for timing in timings]
        if max(widths) < 0.005 * max(sum(timing.medians().values()) for timing in timings):
            continue  # thinner than a line
        names = [timing.name for timing in timings]
        axis.barh(names, widths, left=ends, label=STAGES.get(stage, stage), color=colours(number % 10), height=0.7)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for row, (timing, end) in enumerate(zip(timings, ends, strict=True)):
        ratio = statistics.median(timing.ratios(timings[0]))
        axis.text(end, row, f"  {end:.2f} s" + ("" if timing is timings[0] else f", {ratio:.2f}x"), va="center")
    axis.invert_yaxis()
    axis.set_xlim(0, max(ends) * 1.18)
    axis.set(xlabel="seconds per object, median", title=title)
    axis.legend(loc="lower right", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format=path.suffix[1:] or "png")
    pyplot.close(figure)
