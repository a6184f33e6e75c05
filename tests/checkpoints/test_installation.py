"""The lines to paste: one command for each step, in order, for the torch and CUDA that are there."""

from __future__ import annotations

import shlex

import pytest

from fast_sam3d.checkpoints.installation import Machine, commands
from fast_sam3d.checkpoints.requirements import OPTIONAL, REQUIREMENTS

ALL = [requirement.module for requirement in REQUIREMENTS if not requirement.optional]
STOCK = Machine((3, 11), "2.5.1", "12.1")


@pytest.fixture(autouse=True)
def with_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")


def names(lines: tuple[str, ...]) -> list[list[str]]:
    """What each line gives to pip."""
    return [[word for word in shlex.split(line) if "==" in word or "@" in word] for line in lines]


def test_nothing_is_installed_where_nothing_is_missing():
    assert commands([], STOCK) == ()


def test_a_bare_machine_gets_the_stock_environment_in_four_lines():
    lines = commands(["torch", *ALL, *OPTIONAL], Machine((3, 11), None, None))
    torch, index, compiled, own = lines
    assert torch == (
        "pip install torch==2.5.1+cu121 torchvision==0.20.1+cu121 --index-url https://download.pytorch.org/whl/cu121"
    )
    assert " -f https://nvidia-kaolin.s3.us-east-2.amazonaws.com/torch-2.5.1_cu121.html " in index
    assert compiled.startswith("pip install --no-build-isolation ")
    assert own.endswith("pip install --no-deps -e sam-3d-objects")
    given = {name for line in names(lines) for name in line}
    expected = {requirement.pinned for requirement in REQUIREMENTS if requirement.source or requirement.pin}
    assert {*expected} - {"torchvision==0.20.1"} <= given
    assert {"setuptools==75.8.2", "numpy==1.26.4", "gradio==5.49.0"} <= given


@pytest.mark.parametrize("module", ALL)
def test_one_missing_package_leaves_torch_alone(module):
    lines = commands([module], STOCK)
    assert lines
    assert not any(name.startswith("torch==") for line in names(lines) for name in line)


@pytest.mark.parametrize(
    ("torch", "cuda", "vision", "kaolin", "spconv"),
    [
        ("2.5.1", "12.4", "torchvision==0.20.1+cu124", "kaolin==0.17.0 -f torch-2.5.1_cu124", "spconv-cu124"),
        ("2.4.0", "11.8", "torchvision==0.19.0+cu118", "kaolin==0.17.0 -f torch-2.4.0_cu118", "spconv-cu118"),
        ("2.7.1", "12.8", "torchvision==0.22.1+cu128", "kaolin==0.18.0 -f torch-2.7.1_cu128", "spconv-cu126"),
        ("2.10.0a0", "13.0", "torchvision==0.25.0+cu130", None, "spconv-cu126"),
        ("2.9.0", "13.0", "torchvision==0.24.0+cu130", None, "spconv-cu126"),
    ],
)
def test_another_torch_gets_its_own_pages(torch, cuda, vision, kaolin, spconv):
    lines = commands(["torchvision", "kaolin", "spconv"], Machine((3, 11), torch, cuda))
    assert vision in lines[0] and lines[0].endswith("/cu" + cuda.replace(".", ""))
    assert f"{spconv}==2.3.8" in lines[1]
    if kaolin is None:
        assert lines[2].startswith("IGNORE_TORCH_VER=1 pip install --no-build-isolation ")
        assert "kaolin @ git+" in lines[2]
    else:
        name, page = kaolin.split(" -f ")
        assert f"/{page}.html " in lines[1] and name in lines[1]


def test_python_without_wheels_of_the_pins():
    (line,) = commands(["open3d", "cv2"], Machine((3, 12), "2.5.1", "12.1"))
    assert line == "pip install opencv-python open3d"
    assert "kaolin @ git+" in commands(["kaolin"], Machine((3, 13), "2.5.1", "12.1"))[-1]


def test_a_new_gpu_gets_a_torch_with_code_for_it():
    assert "torch==2.7.1+cu128 torchvision==0.22.1+cu128" in commands(["torch"], Machine((3, 11), None, None, True))[0]


def test_a_missing_compiler_is_named_before_the_line_that_needs_it(monkeypatch):
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", "")
    lines = commands(["pytorch3d"], STOCK)
    assert [line.split()[0] for line in lines] == ["pip", "#", "pip"]
    assert "nvcc of CUDA 12.1" in lines[1]
