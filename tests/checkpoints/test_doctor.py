"""The diagnosis begins with the answer, says what to paste, and survives broken installations."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from fast_sam3d.checkpoints import doctor, gpus, packages
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.doctor import Gpu, WeightsState, examine
from fast_sam3d.checkpoints.installation import LOGIN
from fast_sam3d.checkpoints.requirements import OPTIONAL, REQUIREMENTS, Requirement
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import CheckpointError
from fast_sam3d.native import plans
from tests.checkpoints.test_load import write_stock
from tests.native.checkpoint import write_checkpoint
from tests.stand_in import run

REQUIRED = [requirement.module for requirement in REQUIREMENTS if not requirement.optional]
PINS = {requirement.module: requirement.pin for requirement in REQUIREMENTS}


@pytest.fixture
def complete(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with everything installed; tests remove entries of `modules`, set `gpu`, or say what a module lacks."""
    machine = SimpleNamespace(modules={*REQUIRED, *OPTIONAL, "torch"}, gpu="NVIDIA L40S", lacks=set(), versions={})
    checkpoints = elsewhere / "checkpoints"
    checkpoints.mkdir()
    write_stock(checkpoints / "hf")
    monkeypatch.setattr(loading, "checkpoint_roots", lambda: [checkpoints])
    monkeypatch.setattr(packages, "importable", lambda module: module in machine.modules)
    lacks = machine.lacks
    monkeypatch.setattr(packages, "holds", lambda part: "faster" not in part and part.split(".")[0] not in lacks)
    monkeypatch.setattr(packages, "_version", lambda name: machine.versions.get(name))
    monkeypatch.setattr(packages, "_needs_pkg_resources", lambda: False)
    monkeypatch.setattr(doctor, "_embedded", lambda tag="mini": WeightsState(tag, "", "mini", None))
    monkeypatch.setattr(doctor, "driver_gpus", lambda: ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: machine.gpu is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_86", "sm_90"])
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    machine.versions["torch"] = "2.5.1+cu121"
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(name=machine.gpu, total_memory=24 * 2**30, major=8, minor=9),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 2**30, 24 * 2**30))
    for name in ("ATTN_BACKEND", "SPARSE_ATTN_BACKEND", "SPARSE_BACKEND", "SPCONV_ALGO"):
        monkeypatch.delenv(name, raising=False)
    return machine


def test_a_complete_installation_is_ready(complete, capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "ready"
    assert "paste" not in out
    assert "GPU" in out and "NVIDIA L40S, 24.0 GiB, 20.0 GiB free, compute capability 8.9; the stock code asks" in out
    for name in ("Python", "torch", "mini", "hf", "available", "chosen", *REQUIRED, "flash_attn", "xformers"):
        assert any(line.split()[:2] == ["ok", name] for line in lines), name


def test_the_memory_plan_that_fits_is_named(complete, monkeypatch, capsys):
    _, out, _ = run(capsys, "doctor")
    assert "native runtime       memory plan all on the GPU: at most about 14.9 of 20.0 GiB" in out
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (5 * 2**30, 24 * 2**30))
    assert "memory plan 8GB on the GPU" in doctor.examine().memory
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**30, 24 * 2**30))
    _, out, _ = run(capsys, "doctor")
    assert "--  native runtime       cuda has 1.0 GiB of free memory, and the smallest memory plan needs" in out


@pytest.mark.parametrize("module", REQUIRED)
def test_every_missing_package_is_named_first_and_installed_by_a_command(complete, module, capsys):
    complete.modules.remove(module)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert out.splitlines()[0] == f"not ready: {module} is not installed"
    requirement = next(requirement for requirement in REQUIREMENTS if requirement.module == module)
    name = "sam-3d-objects" if module == "sam3d_objects" else requirement.name
    pin = requirement.source.split("@")[1] if requirement.source else (requirement.pin or "")
    assert any("pip install" in line and name in line and pin in line for line in examine().install)


def test_all_that_is_missing_is_installed_at_once(complete, monkeypatch):
    complete.modules -= {"pytorch3d", "kaolin", "moge", "sam3d_objects"}
    found = examine()
    assert found.next_step == "4 packages are missing or unusable: sam3d_objects, pytorch3d, kaolin, moge"
    words = ["kaolin==", "pytorch3d @", "pip install --no-deps -e"]
    places = ["\n".join(found.install).index(word) for word in words]
    assert places == sorted(places)
    Path("checkpoints/hf").rename("away")
    assert examine().install == LOGIN  # the native runtime needs the weights alone
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**30, 24 * 2**30))
    places = ["\n".join(examine().install).index(word) for word in [*words, "fast-sam3d download"]]
    assert places == sorted(places)


@pytest.fixture
def published(complete: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """As `complete`, with weights whose settings are those of the published files, in a small size."""
    shutil.rmtree("checkpoints/hf")
    Path("checkpoints/hf").mkdir()
    write_checkpoint(Path("checkpoints/hf"))
    monkeypatch.setattr(plans, "free_bytes", lambda device: 12 << 30)
    return complete


def test_the_native_runtime_needs_neither_packages_nor_gpu(published, capsys):
    assert (examine().runtime, examine().next_step) == ("stock", None)
    published.modules, published.gpu = {"torch"}, None
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and out.splitlines()[0] == "ready, with the native runtime"
    assert "native               needs no further packages; will be used" in out
    assert "stock                the stock runtime needs an NVIDIA GPU" in out
    assert "the first run without a pointmap fetches model.pt" in out
    assert "--tag mini" not in out
    assert "native runtime       memory plan 8GB on the CPU" in out and "DINOv2" not in out
    found = json.loads(run(capsys, "doctor", "--json")[1])
    assert (found["ready"], found["runtime"], found["native_problem"]) == (True, "native", None)


def test_too_little_memory_for_the_smallest_plan_is_said_with_numbers(published, monkeypatch, capsys):
    published.gpu = None
    monkeypatch.setattr(plans, "free_bytes", lambda device: 1 << 30)
    code, out, _ = run(capsys, "doctor")
    assert code == 1 and "needs an NVIDIA GPU" in out.splitlines()[0]
    assert "cpu has 1.0 GiB of free memory, and the smallest memory plan needs about" in out
    assert "will be used" not in out


def test_settings_that_the_native_runtime_does_not_implement_are_named(complete, capsys):
    assert "and the native runtime implements" in str(examine().native_problem)
    assert examine().runtime == "stock" and "-- native" in " ".join(run(capsys, "doctor")[1].split("  "))


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
    assert "flash_attn" in examine().next_step
    assert "flash-attn==2.8.3" in examine().install[-1]


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
    assert examine().install == ()
    ckpt.write_bytes(content[:-100])
    assert "incomplete" in examine().next_step
    ckpt.write_bytes(content)
    assert examine().next_step is None
    Path("checkpoints/hf").rename("away")
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "weights of SAM 3D Objects are missing" in out.splitlines()[0]
    assert "no SAM 3D Objects weights in checkpoints/hf" in out
    assert "  fast-sam3d download" in out.splitlines()
    Path("checkpoints/hf").mkdir()
    assert "holds no pipeline.yaml" in examine().next_step


def test_one_complete_checkpoint_is_enough(complete):
    write_stock(Path("checkpoints/other"))
    Path("checkpoints/hf/ss_generator.ckpt").unlink()
    assert examine().next_step is None
    assert [(found.tag, found.problem is None) for found in examine().weights] == [("hf", False), ("other", True)]


def test_what_the_first_load_fetches_is_named(complete, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Path("checkpoints/hf/pipeline.yaml").open("a") as stream:
        stream.write("depth_model:\n  model:\n    pretrained_model_name_or_path: Ruicheng/moge-vitl\n")
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "facebookresearch_dinov2_main and checkpoints/dinov2_vitl14_reg4_pretrain.pth" in out
    assert "MoGe (Ruicheng/moge-vitl) the first load fetches model.pt" in out
    (tmp_path / "hub" / "facebookresearch_dinov2_main").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints").mkdir()
    (tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_reg4_pretrain.pth").touch()
    assert [fetched.missing for fetched in examine().first_load] == [(), ("model.pt",)]
    Path("checkpoints/hf/ss_generator.ckpt").unlink()
    assert examine().first_load == ()


def test_any_folder_can_be_checked(complete, capsys):
    write_stock(Path("copy"))
    Path("checkpoints/hf/ss_generator.ckpt").unlink()
    code, out, _ = run(capsys, "doctor", "--tag", "copy")
    assert (code, out.splitlines()[0]) == (0, "ready")
    Path("copy/ss_generator.ckpt").unlink()
    code, out, _ = run(capsys, "doctor", "--tag", "./copy")
    assert code == 1
    assert "lacks ss_generator.ckpt" in out.splitlines()[0]
    code, out, _ = run(capsys, "doctor", "--tag", "nowhere")
    assert code == 1
    assert "there is no checkpoint 'nowhere'" in out.splitlines()[0]
    complete.gpu = None  # what is wrong with the folder comes first
    Path("other").mkdir()
    Path("other/pipeline.yaml").write_text("_target_: sam3d_objects.pipeline.Pipeline\nx: 1\n")
    _, out, err = run(capsys, "doctor", "--tag", "other")
    assert "pipeline.yaml names no ss_generator_config_path" in out.splitlines()[0]
    assert err == ""


def test_a_yaml_without_a_model_is_not_ready(elsewhere):
    Path("pipeline.yaml").write_text("x: 1\n")
    assert "names no _target_ and no ss_flow" in examine(str(elsewhere)).next_step


def test_the_embedded_model_needs_neither_gpu_nor_packages(complete, capsys):
    complete.gpu, complete.modules = None, {"torch"}
    assert (run(capsys, "doctor", "--tag", "mini")[0], examine("mini").next_step) == (0, None)
    complete.modules = set()
    assert examine("mini").next_step.startswith("torch is ")


def test_a_computer_without_gpu_is_told_what_runs_there(complete, monkeypatch, capsys):
    complete.gpu = None
    complete.modules.remove("kaolin")
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "needs an NVIDIA GPU" in out.splitlines()[0]
    assert "the embedded model runs here: fast-sam3d infer --tag mini" in out.splitlines()[0]
    assert "paste" not in out


def test_a_gpu_that_torch_does_not_see(complete, monkeypatch):
    complete.gpu = None
    monkeypatch.setattr(doctor, "driver_gpus", lambda: (Gpu("NVIDIA L40S", 48 * 2**30, None, "8.9"),))
    assert "torch for CUDA 12.1 does not see the GPU" in examine().next_step
    assert examine().install == ()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for the CPU" in examine().next_step
    assert examine().install[0].startswith("pip install torch==2.5.1+cu121 torchvision==0.20.1+cu121 --index-url")


def test_a_gpu_for_which_torch_has_no_code(complete, monkeypatch, capsys):
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(name="NVIDIA GeForce RTX 5090", total_memory=32 * 2**30, major=12, minor=0),
    )
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "has no code for NVIDIA GeForce RTX 5090 (compute capability 12.0)" in out.splitlines()[0]
    assert examine().install[0].startswith("pip install torch==2.7.1+cu128 torchvision==0.22.1+cu128")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90", "compute_90"])
    assert examine().next_step is None


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
    assert found["next_step"] == "gsplat is not installed"
    assert any("gsplat @ git+" in line for line in found["install"])
    assert found["gpus"][0]["name"] == "NVIDIA L40S" and found["gpus"][0]["free"] == 20 * 2**30
    assert {p["module"]: p["problem"] is None for p in found["packages"]}["gsplat"] is False


# --------------------------------------------------------------------------------------- versions and namesakes


@pytest.mark.parametrize("module", [requirement.module for requirement in REQUIREMENTS if requirement.parts])
def test_a_package_without_what_the_code_imports_is_another_one(complete, module):
    complete.lacks.add(module)
    state = {package.module: package for package in examine().packages}[module]
    assert "another package of this name, or another version: it has no " + module in state.problem
    assert state.optional or examine().next_step.startswith(module)


def test_other_versions_are_a_note(complete, capsys):
    complete.versions |= {"kaolin": "0.18.0", "timm": "0.9.2", "torch": "2.7.1+cu128"}
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "0.18.0, SAM 3D Objects pins 0.17.0" in out
    assert "2.7.1+cu128, built for CUDA 12.1, SAM 3D Objects pins 2.5.1" in out
    assert "0.9.2\n" in out


def test_versions_that_are_known_to_fail_together(complete, monkeypatch):
    complete.versions |= {"numpy": "2.1.0", "opencv-python": "4.10.0.84"}
    assert examine().next_step is None
    complete.versions |= {"opencv-python": "4.9.0.80", "open3d": "0.18.0"}
    assert examine().next_step == "numpy 2.1.0 is too new for cv2 4.9.0.80 and open3d 0.18.0"
    assert examine().install == ("pip install numpy==1.26.4",)
    complete.versions["numpy"] = "1.26.4"
    monkeypatch.setattr(packages, "_needs_pkg_resources", lambda: True)
    complete.versions["lightning"] = "2.3.3"
    assert "lightning 2.3.3 imports pkg_resources" in examine().next_step
    assert "setuptools==75.8.2" in examine().install[0]


# --------------------------------------------------------------------------------------------------- broken packages


def installed(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A package as pip leaves it: its files and its metadata."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def state_of(module: str) -> packages.PackageState:
    return {package.module: package for package in packages.inspect_all(REQUIREMENTS)}[module]


STOP = "raise SystemExit('imported')\n"


def test_packages_are_not_imported(tmp_path, monkeypatch):
    installed(tmp_path, "gsplat", "1.5.0", {"gsplat/__init__.py": STOP, "gsplat/rendering.py": "def rasterization(a):"})
    installed(tmp_path, "xatlas", "0.0.9", {"xatlas.py": STOP})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xatlas", raising=False)  # other tests of this process use it
    assert (state_of("gsplat").version, state_of("gsplat").problem) == ("1.5.0", None)
    assert (state_of("xatlas").version, state_of("xatlas").problem) == ("0.0.9", None)
    assert not {"gsplat", "xatlas"} & set(sys.modules)


UTILS3D = {
    "utils3d/__init__.py": STOP,
    "utils3d/torch/__init__.py": STOP,
    "utils3d/torch/utils.py": "def depth_to_points(depth):\n    pass\ndef compute_edges(faces):\n    pass\n",
    "utils3d/torch/transforms.py": "def intrinsics_from_fov_xy(x, y):\n    pass\n",
}


@pytest.mark.parametrize(
    ("module", "name", "version", "files", "lacks"),
    [
        ("utils3d", "utils3d", "0.0.2", UTILS3D, None),
        # Of another author, on the package index.
        ("utils3d", "utils3d", "0.1.0", {"utils3d/__init__.py": "", "utils3d/pctodepthimage.py": ""}, "utils3d.torch"),
        # Of the same author, after the functions were renamed.
        ("utils3d", "utils3d", "1.7", {**UTILS3D, "utils3d/torch/utils.py": "def depth_map_to_point_map(depth):"},
         "utils3d.torch.depth_to_points"),
        ("kaolin", "kaolin", "0.1", {"kaolin/__init__.py": ""}, "kaolin.utils.testing"),
        ("moge", "dlr-moge", "2.0", {"moge/__init__.py": "", "moge/model.py": ""}, "moge.model.v1.MoGeModel"),
        ("gsplat", "gsplat", "0.1.11", {"gsplat/__init__.py": "", "gsplat/utils.py": ""}, "gsplat.rendering"),
        ("pymeshfix", "pymeshfix", "0.17.0", {"pymeshfix/__init__.py": "", "pymeshfix/_meshfix.abi3.so": ""}, None),
    ],
)  # fmt: skip
def test_namesakes_are_recognised_by_their_files(tmp_path, monkeypatch, module, name, version, files, lacks):
    installed(tmp_path, name, version, files)
    monkeypatch.syspath_prepend(tmp_path)
    problem = state_of(module).problem
    assert (problem is None) if lacks is None else (lacks in problem)


def test_the_fork_is_not_sam_3d_objects(tmp_path, monkeypatch):
    place = "sam3d_objects/model/backbone/generator/flow_matching/model.py"
    files = {"sam3d_objects/__init__.py": STOP, "sam3d_objects/pipeline/inference_pipeline_pointmap.py": ""}
    installed(tmp_path, "sam3d_objects", "0.0.1", {**files, place: "class FlowMatching:\n    pass\n"})
    monkeypatch.syspath_prepend(tmp_path)
    assert state_of("sam3d_objects").problem is None
    (tmp_path / place).write_text("class FlowMatching_faster(FlowMatching):\n    pass\n")
    assert "Fast-SAM3D fork" in state_of("sam3d_objects").problem


def test_lightning_without_the_module_that_setuptools_dropped(tmp_path, monkeypatch):
    files = {
        "lightning/__init__.py": STOP,
        "lightning/pytorch/__init__.py": "__import__('pkg_resources')\n",
        "lightning/pytorch/utilities/consolidate_checkpoint.py": "",
    }
    installed(tmp_path, "lightning", "2.3.3", files)
    monkeypatch.syspath_prepend(tmp_path)
    there = packages.importable
    monkeypatch.setattr(packages, "importable", lambda module: module != "pkg_resources" and there(module))
    assert "pkg_resources" in state_of("lightning").problem
    (tmp_path / "lightning/pytorch/__init__.py").write_text("")
    assert state_of("lightning").problem is None


def test_damaged_packages(tmp_path, monkeypatch):
    (tmp_path / "only_a_folder").mkdir()
    (tmp_path / "unreadable.py").write_text("")
    (tmp_path / "unreadable-1.dist-info").mkdir()
    (tmp_path / "unreadable-1.dist-info" / "METADATA").write_bytes(b"\xff\xfe")
    installed(tmp_path, "half_removed", "1.0", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "no_spec", SimpleNamespace(__name__="no_spec", __spec__=None))
    names = ("only_a_folder", "unreadable", "half_removed", "no_spec")
    states = {name: packages.inspect(Requirement(name)) for name in names}
    assert states["only_a_folder"].problem == "is not installed"
    assert (states["unreadable"].version, states["unreadable"].problem) == (None, None)
    assert states["half_removed"].problem == "is registered, but its files are missing"
    assert states["no_spec"].problem is not None


def test_failing_import_hook(monkeypatch):
    class Hook(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name == "xatlas":
                raise RuntimeError("a hook of another package")
            return None

    monkeypatch.setattr(sys, "meta_path", [Hook, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "xatlas", raising=False)
    assert state_of("xatlas").problem is not None


def test_the_command_imports_no_slow_packages(tmp_path):
    code = "import sys; from fast_sam3d.cli import main; main(['doctor']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(checkout())}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("not ready: ", "ready"))
    modules = done.stdout.splitlines()[-1].split()
    assert not set(modules) & {"cv2", "gsplat", "hydra", "kaolin", "moge", "open3d", "pytorch3d", "timm", "torchvision"}


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("echo 'NVIDIA L40S, 46068, 8.9'", ["NVIDIA L40S"]),
        ("echo 'No devices were found'", []),
        ("exit 9", []),
    ],
)
def test_the_driver_is_queried_without_torch(tmp_path, monkeypatch, script, names):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.driver_gpus() == ()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert [gpu.name for gpu in gpus.driver_gpus()] == names
