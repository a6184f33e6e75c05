"""Fails when code outside of the adapters knows where the parts of a pipeline are, or the core names a model.

    python .ci/attribute_paths.py [folder of the package]

`fast_sam3d/adapters` finds the parts of a pipeline; everything else asks it. `model`, `mini` and `native` are pipelines
themselves.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

EXEMPT = {"adapters", "model", "mini", "native"}
ATTRIBUTES = {"models", "reverse_fn", "_solver", "condition_embedders", "backbone", "shape_model_dtype"}
ATTRIBUTES |= {"sparse_structure_sampler", "slat_sampler", "slat_sampler_params", "slat_normalization"}
NAMES = {"_pipeline", "reverse_fn", "_solver", "condition_embedders", "shape_model_dtype"}  # as in getattr
PARTS = ("_generator", "_condition_embedder", "_flow_model", "slat_decoder_mesh", "slat_decoder_gs")
PARTS += ("slat_decoder_gs_4",)

CORE = {"sampling", "decode", "exact"}
MODELS = re.compile(r"sam3d_objects|SAM 3D|trellis", re.IGNORECASE)
"""Names of models; the paper is called Fast-SAM3D, and the package fast_sam3d."""


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


def model_names(path: Path) -> Iterator[str]:
    """One line for each line of a file that names a model."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if found := MODELS.search(line):
            yield f"{path}:{number}: {found[0]} is a model, and the core works for all of them: name it in adapters"


def main(folder: str = "fast_sam3d") -> int:
    root = Path(folder)
    files = [path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] not in EXEMPT]
    found = [line for path in files for line in violations(path)]
    core = [path for path in files if path.relative_to(root).parts[0] in CORE]
    found += [line for path in core for line in model_names(path)]
    print("\n".join(found) or f"{len(files)} files ask the adapters")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
