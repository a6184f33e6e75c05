"""The tools that hold the direction of imports fail on planted violations."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and what the tools read."""
    shutil.copytree(ROOT / "fast_sam3d", tmp_path / "fast_sam3d", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(folder: Path, module: str, line: str) -> None:
    file = folder / f"{module.replace('.', '/')}.py"
    file.write_text(file.read_text() + f"\n\ndef planted(pipeline):\n    {line}\n")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_import_contracts_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("fast_sam3d.patch", "import fast_sam3d.api", "Imports run down"),
        ("fast_sam3d.scene.batch", "import fast_sam3d.bench.record", "Imports run down"),
        ("fast_sam3d.api", "from fast_sam3d.mini import data", "Acceleration imports no model"),
        ("fast_sam3d.exact.context", "import fast_sam3d.model.flow", "Acceleration imports no model"),
        ("fast_sam3d.model.flow", "import fast_sam3d.mini.data", "The model does not depend on the acceleration"),
        ("fast_sam3d.model.flow", "import fast_sam3d.sampling.step", "The model does not depend on the acceleration"),
        ("fast_sam3d.scene.batch", "import fast_sam3d.mini.data", "Only bench and cli import mini"),
        ("fast_sam3d.errors", "import fast_sam3d.ranges", "No circles"),
        ("fast_sam3d.geometry.arrays", "import fast_sam3d.geometry.poses", "No circles"),
    ],
)
def test_forbidden_import_breaks_its_contract(module: str, line: str, broken: str, copy: Path) -> None:
    plant(copy, module, line)
    done = lint_imports(copy)
    assert done.returncode == 1
    assert any(shown.startswith(broken) and "BROKEN" in shown for shown in done.stdout.splitlines()), done.stdout


def test_a_new_package_needs_a_layer(copy: Path) -> None:
    (copy / "fast_sam3d" / "attic").mkdir()
    (copy / "fast_sam3d" / "attic" / "__init__.py").write_text("")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "attic" in done.stdout


def attribute_paths(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/attribute_paths.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_only_adapters_use_attribute_paths(copy: Path) -> None:
    done = attribute_paths(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "return pipeline.models",
        "return pipeline.reverse_fn",
        "return getattr(pipeline, 'slat_generator')",
        "return pipeline[f'{stage}_generator']",
        "return pipeline.backbone",
        "return pipeline.slat_sampler",
        "return pipeline['slat_flow_model']",
    ],
)
def test_attribute_path_outside_adapters_is_reported(line: str, copy: Path) -> None:
    plant(copy, "fast_sam3d.api", line)
    done = attribute_paths(copy)
    assert done.returncode == 1
    assert "fast_sam3d/api.py:" in done.stdout and "ask the adapter" in done.stdout


def test_the_core_names_no_model(copy: Path) -> None:
    plant(copy, "fast_sam3d.exact.settings", "return 'as in TRELLIS'")
    done = attribute_paths(copy)
    assert done.returncode == 1 and "fast_sam3d/exact/settings.py:" in done.stdout


def test_every_arrow_of_the_drawing_points_down(copy: Path) -> None:
    pytest.importorskip("importlinter")
    command = [sys.executable, ".ci/draw_imports.py"]
    drawn = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True).stdout
    assert drawn.count("marker-end") > 20
    plant(copy, "fast_sam3d.patch", "import fast_sam3d.api")
    refused = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "patch -> api" in refused.stderr
