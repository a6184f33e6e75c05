"""Packaging: contents of the wheel and the sdist, imported packages, make targets."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import fast_sam3d
from fast_sam3d.checkpoints.requirements import REQUIREMENTS, TORCH
from fast_sam3d.config import packaged as resources
from fast_sam3d.config.packaged import bundled_example, checkout, checkpoint_roots, resource
from fast_sam3d.errors import FastSam3dError
from tests.conftest import SLOW

ROOT = Path(fast_sam3d.__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text() if (ROOT / "pyproject.toml").is_file() else ""
# Packages that `import fast_sam3d` must not load: torch, and those that only some commands need.
HEAVY = ("torch", "numpy", "hydra", "omegaconf", "trimesh", "skimage", "scipy", "PIL", "rich", "yaml")
OPTIONAL = (
    "pytorch3d", "kaolin", "moge", "sam3d_objects", "torchvision", "matplotlib", "pyarrow", "ray",
    "gradio", "starlette", "fast_simplification", "xatlas", "gaussforge", "pillow_heif", "transformers",
)  # fmt: skip
# The name to import where it is not the name to install.
INSTALLED_AS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "skimage": "scikit-image",
    "hydra": "hydra-core",
    "yaml": "pyyaml",
}

pytestmark = pytest.mark.skipif(not PYPROJECT, reason="needs the repository, not only the installed package")


def python(*arguments: str, cwd: Path | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(path or ROOT), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


def loaded_after(code: str) -> set[str]:
    done = python("-c", f"import sys\n{code}\nprint('\\n'.join(m.split('.')[0] for m in sys.modules))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


# --------------------------------------------------------------------------------------------------------- imports


def test_import_is_light():
    loaded = loaded_after("import fast_sam3d")
    assert "fast_sam3d" in loaded
    assert not loaded & {*HEAVY, *OPTIONAL}


def test_help_is_light():
    loaded = loaded_after("from fast_sam3d.cli import main\nmain(['--help'])")
    assert not loaded & {*HEAVY, *OPTIONAL}


def test_help_of_infer_needs_no_torch():
    assert "torch" not in loaded_after("from fast_sam3d.cli import main\nmain(['infer', '--help'])")


def test_input_errors_need_no_torch():
    assert "torch" not in loaded_after("from fast_sam3d.cli import main\nmain(['infer', '--image_path', 'nowhere'])")


def test_the_whole_api_needs_no_optional_package():
    names = ", ".join(fast_sam3d.__all__)
    loaded = loaded_after(f"from fast_sam3d import {names}")
    assert "torch" in loaded
    assert not loaded & ({*OPTIONAL, "hydra", "trimesh", "skimage", "scipy"} - {"tqdm"})  # which torch imports itself


def top_level_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_import_is_a_declared_dependency():
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", PYPROJECT, re.M | re.S).group(1)
    declared = {name.lower().replace("_", "-") for name in re.findall(r'"([A-Za-z0-9_-]+)', dependencies)}
    for path in (ROOT / "fast_sam3d").rglob("*.py"):
        for name in top_level_imports(path) - set(sys.stdlib_module_names) - {"fast_sam3d", *OPTIONAL}:
            assert INSTALLED_AS.get(name, name) in declared, f"{path} imports {name}"


def test_version_is_defined_once():
    assert re.search(r'^version = "(.+)"', PYPROJECT, re.M).group(1) == fast_sam3d.__version__


# ----------------------------------------------------------------------------------------- the stock environment

# Versions of the environment of SAM 3D Objects: pinned in its requirements*.txt and environments/default.yml, or
# ("resolved") what pip chooses with these pins on Python 3.11.
STOCK_PINS = {
    "torch": "2.5.1",
    "hydra-core": "1.3.2",
    "scikit-image": "0.23.1",
    "pytest": "8.1.1",
    "roma": "1.5.1",
    "packaging": "24.2",
    "numpy": "1.26.4",  # resolved: sagemaker==2.242.0 wants numpy<2
    "huggingface-hub": "0.36.2",  # resolved: doc/setup.md wants huggingface-hub<1.0
    "filelock": "4.3.1",  # resolved
    "omegaconf": "2.3.0",  # resolved
    "pillow": "11.3.0",  # resolved: gradio==5.49.0 wants pillow<12
    "pyyaml": "6.0.4",  # resolved
    "rich": "14.3.4",  # resolved
    "safetensors": "0.8.0",  # resolved
    "scipy": "1.17.1",  # resolved
    "threadpoolctl": "3.8.0",  # resolved
    "tqdm": "4.70.1",  # resolved
    "trimesh": "5.2.0",  # resolved
    "matplotlib": "3.11.2",  # resolved
    "pyarrow": "26.0.1",  # resolved
}


def requirements(section: str) -> list[Requirement]:
    """The requirements of a list in pyproject.toml."""
    text = re.search(rf"^{section} = \[(.*?)\]", re.sub(r"#.*", "", PYPROJECT), re.M | re.S).group(1)
    return [Requirement(entry) for entry in re.findall(r'"([^"]+)"', text)]


def test_an_installation_changes_no_version_of_the_stock_environment():
    own = requirements("dependencies")
    assert {canonicalize_name(requirement.name) for requirement in own} <= set(STOCK_PINS)
    for section in ("dependencies", "train", "bench", "test"):
        for requirement in requirements(section):
            pin = STOCK_PINS.get(canonicalize_name(requirement.name))
            assert pin is None or requirement.specifier.contains(pin), f"{section}: {requirement} refuses {pin}"
    python = re.search(r'^requires-python = "(.+)"', PYPROJECT, re.M).group(1)
    assert SpecifierSet(python).contains("3.11.0")


def test_the_pins_of_doctor_are_those_of_the_stock_environment():
    for row in (TORCH, *REQUIREMENTS):
        pin = STOCK_PINS.get(canonicalize_name(row.name))
        assert pin is None or row.pin in (None, pin), row.module


def test_no_extra_names_what_the_package_index_lacks():
    names = {canonicalize_name(name) for name in re.findall(r'"([A-Za-z0-9_.-]+)', PYPROJECT)}
    assert not names & {canonicalize_name(row.name) for row in REQUIREMENTS if row.source or row.module == "kaolin"}


# ------------------------------------------------------------------------------------------------------- resources


def test_a_checkout_uses_its_own_folders():
    assert checkout() == ROOT
    assert resource("configs") == ROOT / "configs"


def test_installed_copy_uses_its_packaged_files(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "fast_sam3d"
    (package / "_data" / "configs").mkdir(parents=True)
    (package / "_data" / "checkpoints" / "mini").mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert checkout() is None
    assert resource("configs") == package / "_data" / "configs"
    assert package / "_data" / "checkpoints" in checkpoint_roots()
    with pytest.raises(FastSam3dError, match="examples is missing: reinstall fast-sam3d"):
        resource("examples")


def test_examples_are_found_from_any_folder(elsewhere, tmp_path, monkeypatch):
    assert bundled_example(Path("examples/chair")) == ROOT / "examples" / "chair"
    package = tmp_path / "site-packages" / "fast_sam3d"
    (package / "_data" / "examples" / "teapot").mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert bundled_example(Path("examples/teapot")) == package / "_data" / "examples" / "teapot"
    assert bundled_example(Path("examples/chair")) == Path("examples/chair")
    (elsewhere / "examples" / "teapot").mkdir(parents=True)
    assert bundled_example(Path("examples/teapot")) == Path("examples/teapot")


def test_missing_folder_in_a_clone_names_the_git_command(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "fast_sam3d")
    with pytest.raises(FastSam3dError, match=r"`git checkout -- checkpoints/mini` in that clone"):
        resource("checkpoints/mini")


def test_working_folder_takes_precedence(elsewhere):
    (elsewhere / "checkpoints").mkdir()
    assert checkpoint_roots()[0] == elsewhere / "checkpoints"


# ----------------------------------------------------------------------------------------------------------- wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    return Path(next(iter(builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))))


def test_wheel_contains_configuration_weights_and_an_example(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "checkpoints/mini", "examples/teapot"):
        here = {f"fast_sam3d/_data/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*") if p.is_file()}
        assert here
        assert here <= names
    assert {f"fast_sam3d/{p.relative_to(ROOT / 'fast_sam3d')}" for p in (ROOT / "fast_sam3d").rglob("*.py")} <= names
    pages = {p for p in (ROOT / "fast_sam3d").rglob("static/**/*") if p.is_file()}
    assert len(pages) >= 6 and {str(p.relative_to(ROOT)) for p in pages} <= names
    suites = {f"fast_sam3d/bench/suites/{p.name}" for p in (ROOT / "fast_sam3d" / "bench" / "suites").glob("*.yaml")}
    assert len(suites) >= 3 and suites <= names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"fast_sam3d"}


def test_wheel_works_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    done = python("-m", "fast_sam3d.cli", "config", "--enable_acceleration", "seed=3", cwd=empty, path=site)
    assert done.returncode == 0, done.stderr
    assert "seed: 3" in done.stdout
    code = (
        "from fast_sam3d.config.packaged import checkout, resource;"
        "from fast_sam3d.checkpoints.load import find_checkpoint;"
        "from fast_sam3d.inputs.load import load_object; assert load_object('examples/teapot').pointmap is not None;"
        "assert checkout() is None; print(find_checkpoint().folder); print(resource('configs'))"
    )
    done = python("-c", code, cwd=empty, path=site)
    data = site.resolve() / "fast_sam3d" / "_data"
    assert done.stdout.split() == [str(data / "checkpoints" / "mini"), str(data / "configs")], done.stderr
    assert list(empty.iterdir()) == []


def test_the_readmes_first_snippet_runs_from_the_wheel_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    snippet, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = python("-c", snippet, cwd=empty, path=site)
    assert done.returncode == 0, done.stderr
    assert "network calls" in done.stdout
    assert [path.name for path in empty.iterdir()] == ["teapot.glb"]
    assert (empty / "teapot.glb").stat().st_size > 100_000


def test_sdist_contains_docs_and_test_data(tmp_path):
    builder = pytest.importorskip("hatchling.builders.sdist")
    path = Path(next(iter(builder.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))))
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    shown = {link for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()) if "://" not in link}
    assert "docs/method.png" in shown
    for folder in ("fast_sam3d", "configs", "checkpoints/mini", "docs", "examples", "tests", ".ci"):
        here = {str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*") if p.is_file()}
        assert {name for name in here if "__pycache__" not in name} <= names
    assert {*shown, "Makefile", "LICENSE", "pyproject.toml", "infer.py", "infer_scene.py"} <= names


def test_the_embedded_weights_are_small():
    sizes = [p.stat().st_size for p in (ROOT / "checkpoints" / "mini").rglob("*.safetensors")]
    assert sizes
    assert sum(sizes) <= 25e6


# ------------------------------------------------------------------------------------------------------------ make


def would_run(target: str, *variables: str, tmp_path: Path) -> list[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", target, f"VENV={tmp_path / 'venv'}", *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def index_of(lines: list[str], text: str) -> int:
    return next(i for i, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_make_installs_the_chosen_torch_before_anything_else(target, tmp_path):
    lines = would_run(target, "TORCH=torch==9.9", "TORCH_ARGS=--index-url elsewhere", tmp_path=tmp_path)
    torch = index_of(lines, 'install --index-url elsewhere "torch==9.9"')
    assert index_of(lines, "-m venv") < torch < index_of(lines, 'install -e ".[test]"')


def test_make_demo_runs_infer_accelerated(tmp_path):
    lines = would_run("demo", tmp_path=tmp_path)
    line = lines[index_of(lines, "infer.py")]
    assert "--enable_acceleration" in line
    example = re.search(r"--image_path (\S+)", line).group(1)
    assert (ROOT / example / "image.png").is_file()


def test_every_slow_test_exists():
    missing = []
    for slow in SLOW:
        path, _, name = slow.partition("::")
        file = ROOT / "tests" / path
        if not file.exists() or (name and f"def {name}(" not in file.read_text()):
            missing.append(slow)
    assert not missing, "tests/conftest.py lists slow tests that do not exist"


def test_make_test_fast_excludes_slow_tests(tmp_path):
    assert '-m "not slow"' in would_run("test-fast", tmp_path=tmp_path)[-1]


def test_the_check_runs_tests_and_linters():
    text = (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert text.index("make test") < text.index("make lint")


@pytest.mark.parametrize("name", ["infer.py", "infer_scene.py"])
def test_scripts_are_a_few_lines_and_explain_themselves(name, elsewhere):
    assert len((ROOT / name).read_text().splitlines()) < 15
    done = python(str(ROOT / name), "--help", cwd=elsewhere, path=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "--output_dir" in done.stdout
