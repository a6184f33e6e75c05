"""The steps of docs/adding-a-method.md, in a copy of the package."""

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
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files that the page adds."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("fast_sam3d", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("checkpoints", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for block in [*blocks("python"), *blocks("yaml")]:
        if match := re.match(r"# (\S+/\S+)\n", block):
            path = folder / match[1]
            assert path.parent.is_dir() and not path.exists()
            path.write_text(block[match.end() :])
    return folder


def test_adding_takes_one_class_and_one_yaml(copy: Path) -> None:
    ours = {p.relative_to(ROOT) for p in (*(ROOT / "fast_sam3d").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml"))}
    theirs = {p.relative_to(copy) for p in (*(copy / "fast_sam3d").rglob("*.py"), *(copy / "configs").rglob("*.yaml"))}
    assert {str(path) for path in theirs - ours} == {
        "fast_sam3d/sampling/predict/average.py",
        "configs/ss/average.yaml",
    }
    assert all((ROOT / path).read_text() == (copy / path).read_text() for path in ours)


def commands() -> list[list[str]]:
    (block,) = blocks("bash")
    return [line.split() for line in block.splitlines()]


def test_the_commands_list_it(copy: Path) -> None:
    listing, settings = (run(copy, "-m", "fast_sam3d.cli", *line[1:]) for line in commands() if line[0] == "fast-sam3d")
    assert "Averaging" in listing and "ss=average" in listing
    assert "weight: 0.75" in settings


def test_contract_and_config_tests_cover_it(copy: Path) -> None:
    """The part of the contract that runs with the new method."""
    (line,) = (line for line in commands() if line[0] == "pytest")
    flags = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", "average or first_trial")
    results = run(copy, *flags, *line[1:])
    assert re.search(r"PASSED tests/config.*average", results)
    tests = ("removal_is_exact", "applying_twice", "abort", "interleaved", "deep_copy")
    assert all(re.search(rf"PASSED .*{test}.*ss=average", results) for test in tests), results


def test_snippets_of_the_page_run(copy: Path) -> None:
    snippets = [block for block in blocks("python") if not re.match(r"# \S+/\S+\n", block)]
    assert len(snippets) == 2
    run(copy, "-c", "\n".join(snippets))


def test_page_names_existing_classes() -> None:
    for path in re.findall(r"`((?:fast_sam3d|tests|configs)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for name, registry in (("always", WHEN), ("all", WHERE), ("hold", PREDICT), ("both", GUIDE)):
        assert f"`{name}`" in TEXT and name in registry
