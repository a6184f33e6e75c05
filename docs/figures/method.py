"""Draws docs/method.png, how a method is put together: `python docs/figures/method.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

OUT = Path(__file__).parents[1] / "method.png"
INK, QUIET, PAPER, LINE = "#1f2933", "#66727f", "#ffffff", "#c3cad2"
WHEN, WHERE, GUIDE, PREDICT = "#2563a8", "#2a8c6e", "#8250a8", "#c8701a"
PALE = {WHEN: "#e6eff9", WHERE: "#e3f3ed", GUIDE: "#f1e9f7", PREDICT: "#fcefe0"}

# One example: a stride of three after a warm-up; the last step always runs.
STEPS = 12
RUNS = {0, 1, 2, 5, 8, 11}
CARVED = {5, 8}  # steps at which the network sees some tokens only
MOVING = {(0, 1), (1, 1), (1, 2), (2, 2), (2, 1)}
GUIDED = 6  # guidance acts in the first steps
REUSED = {2}  # the unconditional velocity is that of the step before

ROWS = (
    ("when", WHEN, "does the network run?", "stride, budget, guided_stride, ..."),
    ("where", WHERE, "on which tokens?", "all, saliency, tome, ..."),
    ("guide", GUIDE, "is the unconditional call made?", "both, reuse, adaptive"),
    ("predict", PREDICT, "what replaces a skipped call?", "hold, taylor, adams_bashforth, ..."),
)
LEFT, STEP, CELL, HEIGHT = 5.85, 1.0, 0.8, 1.5


def main() -> None:
    """Draws the figure."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK})
    figure = plt.figure(figsize=(10, 4.35), dpi=160, facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(-0.1, 18.0), ylim=(-1.15, 6.68))
    axes.axis("off")
    for i, (name, colour, question, classes) in enumerate(ROWS):
        y = (3 - i) * (HEIGHT + 0.12)
        box = FancyBboxPatch(
            (0.1, y + 0.1), 17.7, HEIGHT - 0.2, boxstyle="round,pad=0.1,rounding_size=0.16", facecolor=PALE[colour],
            edgecolor="none",
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(0.3, y + 1.12, name, fontsize=14, fontweight="bold", color=colour, va="center")
        axes.text(0.3, y + 0.66, question, fontsize=10.5, va="center")
        axes.text(0.3, y + 0.27, classes, fontsize=8.6, color=QUIET, va="center")
        for step in range(STEPS):
            _cell(axes, name, step, LEFT + step * STEP, y + (HEIGHT - CELL) / 2)
    _axis(axes)
    figure.savefig(OUT, dpi=160, facecolor=PAPER)


def _cell(axes: Any, name: str, step: int, x: float, y: float) -> None:
    """What one part decides at one step."""
    runs = step in RUNS
    if name == "when":
        _chip(axes, x, y, "run" if runs else "skip", WHEN, filled=runs)
    elif name == "where" and runs:
        _tokens(axes, x, y, step in CARVED)
    elif name == "guide" and runs and step < GUIDED:
        _chip(axes, x, y, "reuse" if step in REUSED else "call", GUIDE, filled=step not in REUSED)
    elif name == "guide" and step >= GUIDED:
        axes.text(x + CELL / 2, y + CELL / 2, "–", ha="center", va="center", color=GUIDE, fontsize=10, alpha=0.6)
    elif name == "predict" and not runs:
        _chip(axes, x, y, "v(t)", PREDICT, filled=True)


def _chip(axes: Any, x: float, y: float, text: str, colour: str, *, filled: bool) -> None:
    style: dict[str, Any] = {"facecolor": colour} if filled else {"facecolor": PAPER, "linestyle": (0, (3, 2))}
    axes.add_patch(Rectangle((x, y), CELL, CELL, edgecolor=colour if filled else LINE, linewidth=1, **style))
    colour = PAPER if filled else QUIET
    axes.text(x + CELL / 2, y + CELL / 2 - 0.02, text, ha="center", va="center", fontsize=9.5, color=colour)


def _tokens(axes: Any, x: float, y: float, carved: bool) -> None:
    """4 x 4 tokens; those that the network runs on are filled."""
    size = CELL / 4
    for row in range(4):
        for column in range(4):
            on = not carved or (row, column) in MOVING
            corner = (x + column * size, y + row * size)
            axes.add_patch(Rectangle(corner, size, size, facecolor=WHERE if on else PAPER, edgecolor=PALE[WHERE]))


def _axis(axes: Any) -> None:
    """The sampler's time, and the interval in which guidance acts."""
    for step in range(STEPS):
        axes.text(LEFT + step * STEP + CELL / 2, -0.25, str(step), ha="center", va="center", fontsize=9.5, color=QUIET)
    end = LEFT + (STEPS - 1) * STEP + CELL
    axes.text(LEFT - 0.35, -0.25, "step of the sampler", ha="right", va="center", fontsize=10.5)
    axes.annotate("", (end, -0.62), (LEFT, -0.62), arrowprops={"arrowstyle": "->", "color": QUIET, "linewidth": 1.2})
    axes.text(LEFT, -0.92, "noise, warm-up", ha="left", va="center", fontsize=9.5, color=QUIET)
    middle = (LEFT + end) / 2
    axes.text(middle, -0.92, "guidance ends after step 5", ha="center", va="center", fontsize=9.5, color=QUIET)
    axes.text(end, -0.92, "result", ha="right", va="center", fontsize=9.5, color=QUIET)


if __name__ == "__main__":
    main()
