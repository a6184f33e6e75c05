"""Draws which package of fast_sam3d imports which, as SVG; fails when an arrow would not run down.

    python .ci/draw_imports.py > docs/imports.svg

Rows are the layers of the contract in pyproject.toml. Imports that follow from others are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp
from importlinter.api import read_configuration

WIDTH, ROW, BOX = 760, 46, (96, 26)


def main() -> int:
    root = Path(__file__).parents[1]
    sys.path.insert(0, str(root))
    contracts = read_configuration(str(root / "pyproject.toml"))["contracts_options"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = [[name.strip() for name in layer.split("|")] for layer in layers]
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    graph = grimp.build_graph("fast_sam3d", cache_dir=None)
    for name in row_of:
        graph.squash_module(f"fast_sam3d.{name}")
    below = {
        name: {
            module.split(".")[1]
            for module in graph.find_modules_directly_imported_by(f"fast_sam3d.{name}")
            if module.count(".") == 1 and module != f"fast_sam3d.{name}"
        }
        for name in row_of
    }
    wrong = [f"{a} -> {b}" for a, found in below.items() for b in found if row_of[a] >= row_of[b]]
    if wrong:
        print(f"these imports do not run down: {', '.join(wrong)}", file=sys.stderr)
        return 1

    def reached(name: str) -> set[str]:
        return below[name].union(*map(reached, below[name]))

    # Spread over twelve columns, so that few arrows pass behind a box.
    place = {name: (72 + 5 * k % 12 * 56, ROW * row_of[name] + ROW / 2) for k, name in enumerate(row_of)}
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {ROW * len(rows)}" font-family="sans-serif">')
    print('<defs><marker id="end" refX="6" refY="3" markerWidth="7" markerHeight="7" orient="auto">')
    print('<path d="M0 0 6 3 0 6" fill="#567"/></marker></defs><rect width="100%" height="100%" fill="#fff"/>')
    for name, found in below.items():
        for other in sorted(found - set().union(*map(reached, found))):
            (x, y), (u, v) = place[name], place[other]
            print(f'<path d="M{x:g} {y:g} {u:g} {v - BOX[1] / 2:g}" stroke="#89a" marker-end="url(#end)"/>')
    for name, (x, y) in place.items():
        left, top = x - BOX[0] / 2, y - BOX[1] / 2
        print(f'<rect x="{left:g}" y="{top:g}" width="{BOX[0]}" height="{BOX[1]}" rx="5" fill="#def" stroke="#567"/>')
        print(f'<text x="{x:g}" y="{y + 4:g}" font-size="13" text-anchor="middle">{name}</text>')
    print("</svg>")
    return 0


if __name__ == "__main__":
    sys.exit(main())
