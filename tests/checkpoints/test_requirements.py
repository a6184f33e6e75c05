"""The table of requirements agrees with the imports of sam3d_objects, where that is installed, and with itself."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fast_sam3d.checkpoints.requirements import OPTIONAL, REQUIREMENTS, TORCH

# The modules of the package that the published YAML files name.
STARTS = (
    "sam3d_objects.pipeline.inference_pipeline_pointmap",
    "sam3d_objects.pipeline.depth_models.moge",
    "sam3d_objects.model.backbone.dit.embedder.dino",
    "sam3d_objects.model.backbone.dit.embedder.embedder_fuser",
    "sam3d_objects.model.backbone.dit.embedder.pointmap",
    "sam3d_objects.model.backbone.generator.shortcut.model",
    "sam3d_objects.model.backbone.generator.flow_matching.model",
    "sam3d_objects.model.backbone.tdfy_dit.models",
    "sam3d_objects.data.dataset.tdfy.preprocessor",
    "sam3d_objects.data.dataset.tdfy.img_and_mask_transforms",
)
NEVER = {"torch", "torchsparse", "diff_gaussian_rasterization"}  # torch: a row of its own. The others: in `try`


def test_every_row_is_complete():
    assert len({requirement.module for requirement in REQUIREMENTS}) == len(REQUIREMENTS)
    for requirement in (*REQUIREMENTS, TORCH):
        assert all(part.split(":")[0].split(".")[0] == requirement.module for part in requirement.parts)
        assert requirement.source is None or len(requirement.source.split("@")[1]) == 40
    assert OPTIONAL == ("flash_attn", "xformers")


@pytest.fixture(scope="module")
def stock() -> Path:
    try:
        spec = importlib.util.find_spec("sam3d_objects")
    except ValueError:
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip("sam3d_objects is not installed")
    return Path(spec.origin).parents[1]


def test_the_table_holds_what_the_code_imports(stock):
    found = dict(imports_of(stock))
    tops = {name.split(".")[0] for name in found} - {"sam3d_objects", *sys.stdlib_module_names, *NEVER}
    assert tops == {requirement.module for requirement in REQUIREMENTS} - {"sam3d_objects"} | {"flash_attn"}
    parts = {part.split(":")[0] for requirement in REQUIREMENTS for part in requirement.parts}
    deep = {name for name in found if "." in name and name.split(".")[0] in tops}
    assert {name for name in deep if name not in parts} <= {"torchvision.transforms"}


def imports_of(root: Path) -> Iterator[tuple[str, str]]:
    """(module, importing module) of every import that runs when the pipeline's classes are imported."""
    seen: set[str] = set()
    waiting = [*STARTS]
    while waiting:
        name = waiting.pop()
        for end in range(1, name.count(".") + 2):
            module = ".".join(name.split(".")[:end])
            path = source_of(root, module)
            if path is None or module in seen:
                continue
            seen.add(module)
            for imported in imported_names(path, module):
                if imported.startswith("sam3d_objects"):
                    waiting.append(imported)
                else:
                    yield imported, module


def source_of(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


def imported_names(path: Path, module: str) -> Iterator[str]:
    """Modules that a file imports outside of functions."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield base
            if base.startswith("sam3d_objects"):
                yield from (f"{base}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))
