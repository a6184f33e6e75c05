"""docs/adding-a-method.md, done as it says, in a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fast_sam3d.sampling.guide import GUIDE
from fast_sam3d.sampling.predict import PREDICT
from fast_sam3d.sampling.when import WHEN
from fast_sam3d.sampling.where import WHERE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "adding-a-method.md"
TEXT = PAGE.read_text() if PAGE.is_file() else ""

pytestmark = pytest.mark.skipif(not TEXT, reason="needs the repository, not only the installed package")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def run(copy: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with what the page adds, and nothing else."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("fast_sam3d", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    for block in [*blocks("python"), *blocks("yaml")]:
        if match := re.match(r"# (\S+/\S+)\n", block):
            path = folder / match[1]
            assert path.parent.is_dir() and not path.exists()
            path.write_text(block[match.end() :])
    registry = folder / "fast_sam3d" / "sampling" / "predict" / "__init__.py"
    lines = registry.read_text().splitlines()
    (change,) = blocks("diff")
    for line in change.splitlines():
        start = "from fast_sam3d" if line.startswith("+from") else "PREDICT: "
        at = next(i for i, known in enumerate(lines) if known.startswith(start))
        lines.insert(at if line.startswith("+from") else at + 1, line[1:])
    registry.write_text("\n".join(lines) + "\n")
    return folder


def test_it_is_one_file_one_line_and_one_yaml(copy: Path) -> None:
    ours = {p.relative_to(ROOT) for p in (*(ROOT / "fast_sam3d").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml"))}
    theirs = {p.relative_to(copy) for p in (*(copy / "fast_sam3d").rglob("*.py"), *(copy / "configs").rglob("*.yaml"))}
    assert {str(path) for path in theirs - ours} == {
        "fast_sam3d/sampling/predict/average.py",
        "configs/ss/average.yaml",
    }
    assert [str(path) for path in ours if (ROOT / path).read_text() != (copy / path).read_text()] == [
        "fast_sam3d/sampling/predict/__init__.py"
    ]


def test_the_commands_know_it(copy: Path) -> None:
    (commands,) = blocks("bash")
    listing, settings = (run(copy, "-m", "fast_sam3d.cli", *line.split()[1:]) for line in commands.splitlines())
    assert "Averaging" in listing and "ss=average" in listing
    assert "weight: 0.75" in settings


def test_its_code_runs(copy: Path) -> None:
    snippets = [block for block in blocks("python") if not re.match(r"# \S+/\S+\n", block)]
    assert len(snippets) == 2
    run(copy, "-c", "\n".join(snippets))


def test_the_page_names_what_is_there() -> None:
    for path in re.findall(r"`((?:fast_sam3d|tests|configs)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for name, registry in (("always", WHEN), ("all", WHERE), ("hold", PREDICT), ("both", GUIDE)):
        assert f"`{name}`" in TEXT and name in registry
