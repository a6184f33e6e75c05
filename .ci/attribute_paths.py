"""Fails when code outside of the adapters knows where the parts of a pipeline are.

    python .ci/attribute_paths.py [folder of the package]

`fast_sam3d/adapters` finds the parts of a pipeline; everything else asks it. `model`, `mini` and `native` are pipelines
themselves.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

EXEMPT = {"adapters", "model", "mini", "native"}
ATTRIBUTES = {"models", "reverse_fn", "_solver", "condition_embedders", "backbone", "shape_model_dtype"}
NAMES = {"_pipeline", "reverse_fn", "_solver", "condition_embedders", "shape_model_dtype"}  # as in getattr
PARTS = ("_generator", "_condition_embedder", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4")


def violations(path: Path) -> Iterator[str]:
    """One line for each place in a file that knows a part's attribute or name."""
    for node in ast.walk(ast.parse(path.read_text())):
        known = None
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            known = f".{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            known = repr(node.value) if node.value.endswith(PARTS) or node.value in NAMES else None
        if known:
            yield f"{path}:{node.lineno}: {known} is for fast_sam3d/adapters to know: ask the adapter"


def main(folder: str = "fast_sam3d") -> int:
    root = Path(folder)
    files = [path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] not in EXEMPT]
    found = [line for path in files for line in violations(path)]
    print("\n".join(found) or f"{len(files)} files ask the adapters")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
