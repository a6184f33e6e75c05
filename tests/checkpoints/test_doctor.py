"""The diagnosis names one next step and survives broken installations."""

from __future__ import annotations

import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fast_sam3d.checkpoints import doctor
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.doctor import OPTIONAL, PACKAGES, WeightsState, examine
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import CheckpointError
from tests.checkpoints.test_load import write_stock
from tests.stand_in import run

REQUIRED = [module for module in PACKAGES if module not in OPTIONAL]


@pytest.fixture
def complete(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with everything installed; tests remove entries of `modules` or set `gpu`."""
    machine = SimpleNamespace(modules={*PACKAGES, "torch"}, gpu="NVIDIA L40S")
    checkpoints = elsewhere / "checkpoints"
    checkpoints.mkdir()
    write_stock(checkpoints / "hf")
    monkeypatch.setattr(loading, "checkpoint_roots", lambda: [checkpoints])
    monkeypatch.setattr(doctor, "_importable", lambda module: module in machine.modules)
    monkeypatch.setattr(doctor, "_embedded", lambda: WeightsState("mini", "", "mini", None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: machine.gpu is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(name=machine.gpu, total_memory=24 * 2**30, major=8, minor=9),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 2**30, 24 * 2**30))
    for name in ("ATTN_BACKEND", "SPARSE_ATTN_BACKEND", "SPARSE_BACKEND", "SPCONV_ALGO"):
        monkeypatch.delenv(name, raising=False)
    return machine


def test_complete_installation_is_ready(complete, capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == "ready"
    assert "GPU" in out and "NVIDIA L40S, 24.0 GiB, 20.0 GiB free, compute capability 8.9; the stock code asks" in out
    for name in ("Python", "torch", "mini", "hf", "available", "chosen", *REQUIRED, "flash_attn", "xformers"):
        assert any(line.split()[:2] == ["ok", name] for line in lines), name


@pytest.mark.parametrize("module", REQUIRED)
def test_every_missing_package_is_reported_with_its_installation(complete, module):
    complete.modules.remove(module)
    found = examine()
    how = next(package.how for package in found.packages if package.module == module)
    assert found.next_step.startswith(module)
    assert found.next_step.endswith(how)


def test_optional_packages_are_shown_but_not_required(complete, capsys):
    complete.modules -= {"flash_attn", "xformers"}
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "flash_attn           is " in out
    assert examine().attention.available == ("sdpa", "naive", "torch_flash_attn")


@pytest.mark.parametrize("gpu", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200"])
def test_flash_attention_is_required_if_the_stock_code_forces_it(complete, gpu, monkeypatch):
    monkeypatch.setenv("ATTN_BACKEND", "sdpa")
    complete.gpu = gpu
    assert (examine().attention.dense, examine().attention.sparse) == ("flash_attn", "flash_attn")
    assert examine().next_step is None
    complete.modules.remove("flash_attn")
    assert "flash-attn" in examine().next_step


def test_attention_backend_chosen_by_the_user(complete, monkeypatch):
    assert (examine().attention.dense, examine().attention.sparse) == ("sdpa", "sdpa")
    monkeypatch.setenv("ATTN_BACKEND", "xformers")
    assert (examine().attention.dense, examine().attention.sparse) == ("xformers", "xformers")
    monkeypatch.setenv("SPARSE_ATTN_BACKEND", "flash_attn")
    monkeypatch.setenv("SPCONV_ALGO", "native")
    found = examine().attention
    assert (found.dense, found.sparse) == ("xformers", "flash_attn")
    assert found.environment == {
        "ATTN_BACKEND": "xformers",
        "SPARSE_ATTN_BACKEND": "flash_attn",
        "SPCONV_ALGO": "native",
    }
    complete.modules.remove("xformers")
    assert "xformers" in examine().next_step
    monkeypatch.setenv("ATTN_BACKEND", "naive")
    monkeypatch.delenv("SPARSE_ATTN_BACKEND")
    assert (examine().attention.dense, examine().attention.sparse) == ("naive", "sdpa")


def test_weights_that_are_missing_or_unusable(complete, capsys):
    ckpt = Path("checkpoints/hf/ss_generator.ckpt")
    content = ckpt.read_bytes()
    ckpt.unlink()
    assert "lacks ss_generator.ckpt" in examine().next_step
    ckpt.write_bytes(content[:-100])
    assert "incomplete" in examine().next_step
    ckpt.write_bytes(content)
    assert examine().next_step is None
    Path("checkpoints/hf").rename("away")
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "no SAM 3D Objects weights in checkpoints/hf" in out
    assert "fast-sam3d download" in out.splitlines()[-1]
    Path("checkpoints/hf").mkdir()
    assert "holds no pipeline.yaml" in examine().next_step


def test_one_complete_checkpoint_is_enough(complete):
    write_stock(Path("checkpoints/other"))
    Path("checkpoints/hf/ss_generator.ckpt").unlink()
    assert examine().next_step is None
    assert [(found.tag, found.problem is None) for found in examine().weights] == [("hf", False), ("other", True)]


def test_missing_gpu(complete, monkeypatch):
    complete.gpu = None
    monkeypatch.setattr(doctor, "_driver_sees_gpu", lambda: False)
    assert "needs an NVIDIA GPU" in examine().next_step
    monkeypatch.setattr(doctor, "_driver_sees_gpu", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for the CPU" in examine().next_step
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    assert "torch for CUDA 12.1 does not see the GPU" in examine().next_step


def test_a_gpu_with_unknown_free_memory(complete, monkeypatch, capsys):
    def refuse(index):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    assert run(capsys, "doctor")[0] == 0
    assert examine().gpus[0].free is None


def test_torch_that_cannot_be_imported(complete, monkeypatch):
    def refuse():
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(torch.cuda, "is_available", refuse)
    found = examine()
    assert "libcudart.so.12" in found.next_step
    assert found.attention.available == ()
    complete.modules.remove("torch")
    assert examine().next_step.startswith("torch is ")


def test_a_missing_dependency_of_ours(monkeypatch):
    def refuse(*_, **__):
        raise ModuleNotFoundError("No module named 'skimage'")

    monkeypatch.setattr(loading, "load_checkpoint", refuse)
    assert "No module named 'skimage': install fast-sam3d again" in examine().next_step
    assert examine().next_step.endswith("(in a clone of its repository: pip install -e .)")


def test_damaged_embedded_weights(monkeypatch):
    def damaged(*arguments, **options):
        raise CheckpointError("the weights x are damaged")

    monkeypatch.setattr(loading, "load_checkpoint", damaged)
    assert "the weights x are damaged" in examine().next_step


def test_json_output(complete, capsys):
    complete.modules.remove("gsplat")
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["ready"] is False
    assert found["next_step"].startswith("gsplat ")
    assert found["gpus"] == [{"name": "NVIDIA L40S", "total": 24 * 2**30, "free": 20 * 2**30, "capability": "8.9"}]
    assert {p["module"]: p["problem"] is None for p in found["packages"]}["gsplat"] is False


# --------------------------------------------------------------------------------------------------- broken packages


def test_packages_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "gsplat.py").write_text("raise SystemExit('imported')")
    (tmp_path / "gsplat-1.5.0.dist-info").mkdir()
    (tmp_path / "gsplat-1.5.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gsplat\nVersion: 1.5.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = {package.module: package for package in examine().packages}["gsplat"]
    assert (state.version, state.problem) == ("1.5.0", None)
    assert "gsplat" not in sys.modules


def test_packages_that_fail_to_import(tmp_path, monkeypatch):
    (tmp_path / "kaolin").mkdir()  # only a folder of that name
    (tmp_path / "moge.py").write_text("")
    (tmp_path / "moge-1.dist-info").mkdir()
    (tmp_path / "moge-1.dist-info" / "METADATA").write_bytes(b"\xff\xfe")
    (tmp_path / "timm-1.0.dist-info").mkdir()
    (tmp_path / "timm-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    without_spec = SimpleNamespace(__name__="loguru", __spec__=None)
    monkeypatch.setitem(sys.modules, "loguru", without_spec)
    states = {package.module: package for package in examine().packages}
    assert states["kaolin"].problem == "is not installed"
    assert (states["moge"].version, states["moge"].problem) == (None, None)
    assert states["timm"].problem == "is registered, but its files are missing"
    assert states["loguru"].problem is not None


def test_failing_import_hook(monkeypatch):
    class Hook(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name == "xatlas":
                raise RuntimeError("a hook of another package")
            return None

    monkeypatch.setattr(sys, "meta_path", [Hook, *sys.meta_path])
    assert {p.module: p for p in examine().packages}["xatlas"].problem is not None


def test_the_command_imports_no_slow_packages(tmp_path):
    code = "import sys; from fast_sam3d.cli import main; main(['doctor']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(checkout())}
    )
    assert done.returncode == 0, done.stderr
    assert "\nnext: " in done.stdout or "\nready" in done.stdout
    modules = done.stdout.splitlines()[-1].split()
    assert not set(modules) & {"cv2", "gsplat", "hydra", "kaolin", "moge", "open3d", "pytorch3d", "timm", "torchvision"}


@pytest.mark.parametrize(
    ("script", "sees"),
    [("echo 'GPU 0: NVIDIA L40S'", True), ("echo 'No devices were found'", False), ("exit 9", False)],
)
def test_the_driver_is_queried_without_torch(tmp_path, monkeypatch, script, sees):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._driver_sees_gpu() is False
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert doctor._driver_sees_gpu() is sees
