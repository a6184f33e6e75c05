"""Tables and paths on the screen."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

WIDTH = 170  # characters of a table that no terminal shows


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows of cells as lines of plain text: the first `left` columns left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def print_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str] = ()
) -> None:
    """A table that fits the terminal, if there is one; the columns named in `numbers` are right-aligned."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    # A file or a pipe has no width, and the default of 80 columns would truncate cells.
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(table)


def print_path(text: str) -> None:
    """A line with paths: not wrapped, no markup, and bytes that the terminal's encoding lacks escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
