"""The README's first snippet, with the stock `Inference` of notebook/inference.py around a stock pipeline."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fast_sam3d.report import observe
from tests.stock.build import STOCK
from tests.stock.stand_ins import importable
from tests.test_docs import README, blocks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def notebook(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the stock repository's notebook/, a picture, and a checkpoint replaced by a random pipeline."""
    spec = importlib.util.find_spec("sam3d_objects")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]).parent / "notebook"
    if not (folder / "inference.py").is_file():
        pytest.skip("sam3d_objects is installed without the repository's notebook folder")
    (elsewhere / "notebook").symlink_to(folder)
    shutil.copytree(ROOT / "examples" / "teapot", elsewhere / "my_picture")
    (elsewhere / "checkpoints" / "hf").mkdir(parents=True)
    (elsewhere / "checkpoints" / "hf" / "pipeline.yaml").write_text("{}")
    monkeypatch.setenv("CONDA_PREFIX", "none")
    monkeypatch.setenv("CUDA_HOME", "none")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    pipeline = STOCK.build()
    monkeypatch.setattr("hydra.utils.instantiate", lambda config: pipeline)
    with importable():
        yield elsewhere
    sys.modules.pop("inference", None)


def test_the_second_snippet_accelerates_the_stock_inference(notebook: Path) -> None:
    snippet: dict[str, Any] = {}
    with STOCK.running():
        exec(compile(blocks(README, "python")[1].text, "README.md", "exec"), snippet)
        again = snippet["load_image"]("my_picture/image.png"), snippet["load_single_mask"]("my_picture")
        with observe(snippet["inference"]) as report:
            snippet["inference"](*again, seed=42)
    assert type(snippet["inference"]).__module__ == "inference"
    assert {"mesh", "gs", "translation"} <= snippet["output"].keys()
    assert {"ss", "slat"} <= report.methods.keys()
    assert report.solves[1].saved > 0  # of few steps the path of the sparse structure takes all
