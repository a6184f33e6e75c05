"""Diagnosis of the installation for SAM 3D Objects: Python, torch, GPUs, packages, weights, attention, next step.

Versions come from package metadata; only torch and this package are imported, so broken or slow packages do no harm.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

from fast_sam3d import __version__

__all__ = ["PACKAGES", "Attention", "Examination", "Gpu", "PackageState", "WeightsState", "examine"]

_GITHUB = "https://github.com"
_DRIVER_SECONDS = 10.0


# Top-level imports of the stock pipeline and of the classes in its YAML files (sam3d_objects/**.py). The
# versions of its authors are in doc/setup.md of the stock repository.
OPTIONAL = ("flash_attn", "xformers")  # not needed to build the pipeline
PACKAGES = (
    "sam3d_objects", "torchvision", "pytorch3d", "kaolin", "spconv", "gsplat", "moge", "utils3d", "astor", "cv2",
    "easydict", "hydra", "igraph", "lightning", "loguru", "matplotlib", "numpy", "omegaconf", "open3d", "optree", "PIL",
    "plyfile", "pymeshfix", "pyvista", "safetensors", "scipy", "timm", "tqdm", "trimesh", "xatlas", *OPTIONAL,
)  # fmt: skip
# Possible names of a package's distribution, where they differ from its import name; the first one is recommended.
_DISTRIBUTIONS = {
    "spconv": (*(f"spconv-cu{cuda}" for cuda in (121, 126, 124, 120, 118, 117, 116, 114, 113, 102)), "spconv"),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "hydra": ("hydra-core",),
    "open3d": ("open3d", "open3d-cpu"),
    "PIL": ("pillow",),
    "flash_attn": ("flash-attn",),
}
# How to install a package, where `pip install` and its name are not enough.
_INSTALL = {
    "torch": 'choose the build for your machine on PyTorch\'s "Get started" page',
    "sam3d_objects": f"git clone {_GITHUB}/facebookresearch/sam-3d-objects, then pip install --no-deps -e "
    "sam-3d-objects (its doc/setup.md has the whole environment)",
    "torchvision": "install the torchvision of your torch version, from where torch came",
    "pytorch3d": f'pip install --no-build-isolation "git+{_GITHUB}/facebookresearch/pytorch3d.git"',
    "kaolin": "pip install kaolin -f PAGE, with the page that kaolin's guide names for your torch and CUDA",
    "spconv": "pip install spconv-cu121 (or the name of your CUDA: spconv-cu118, spconv-cu126)",
    "moge": f'pip install "git+{_GITHUB}/microsoft/MoGe.git"',
    "utils3d": f'pip install "git+{_GITHUB}/EasternJournalist/utils3d.git"',
    "flash_attn": "pip install flash-attn --no-build-isolation",
    "xformers": "pip install xformers, in the version of your torch",
}
# Back ends of modules/attention/__init__.py and modules/sparse/__init__.py, and the packages they need.
_DENSE = {"sdpa": None, "naive": None, "torch_flash_attn": None, "flash_attn": "flash_attn", "xformers": "xformers"}
_SPARSE = {"sdpa": None, "flash_attn": "flash_attn", "xformers": "xformers"}
_REINSTALL = "install fast-sam3d again, with its dependencies (in a clone of its repository: pip install -e .)"
_NO_GPU = "SAM 3D Objects needs an NVIDIA GPU, but torch sees none; the embedded model runs here: --tag mini"
_VARIABLES = ("ATTN_BACKEND", "SPARSE_ATTN_BACKEND", "SPARSE_BACKEND", "SPCONV_ALGO")
# GPUs on which the stock pipeline overrides the variables (inference_pipeline.py, set_attention_backend).
_FLASH_GPUS = ("A100", "H100", "H200")


@dataclass(frozen=True, slots=True)
class PackageState:
    """`version`: None if not installed or unknown. `problem`: None if the package is usable."""

    module: str
    version: str | None
    problem: str | None
    how: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Gpu:
    """`total` and `free` in bytes; `free` is None if unknown."""

    name: str
    total: int
    free: int | None
    capability: str


@dataclass(frozen=True, slots=True)
class WeightsState:
    """A folder of weights. `problem`: None if they are complete."""

    tag: str
    folder: str
    kind: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention back ends of the stock code: available ones, its choices here, and the user's variables."""

    available: tuple[str, ...]
    dense: str
    sparse: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Examination:
    """Result of the diagnosis. `next_step`: None if SAM 3D Objects can run."""

    fast_sam3d: str
    python: str
    system: str
    torch: PackageState
    cuda: str | None  # version that torch was built for
    gpus: tuple[Gpu, ...]
    packages: tuple[PackageState, ...]
    embedded: WeightsState
    weights: tuple[WeightsState, ...]
    attention: Attention

    @property
    def next_step(self) -> str | None:
        """The first missing requirement, in a sensible order of installation; None if SAM 3D Objects can run."""
        if self.torch.problem is not None:
            return f"torch {self.torch.problem}: {self.torch.how}"
        if self.embedded.problem is not None:
            return f"the embedded model cannot be loaded: {self.embedded.problem}"
        if not self.gpus:
            if not _driver_sees_gpu():
                return (
                    "SAM 3D Objects needs an NVIDIA GPU, but torch sees none; the embedded model runs here: --tag mini"
                )
            if self.cuda is None:
                return "there is a GPU, but torch was built for the CPU: install the torch build for your CUDA version"
            return f"torch for CUDA {self.cuda} does not see the GPU: unset CUDA_VISIBLE_DEVICES, or update the driver"
        wanted = {_DENSE[self.attention.dense], _SPARSE[self.attention.sparse]}
        for package in self.packages:
            if package.problem is not None and (not package.optional or package.module in wanted):
                return f"{package.module} {package.problem}: {package.how}"
        if any(found.problem is None for found in self.weights):
            return None
        problem = next((f"{found.folder} cannot be used ({found.problem})" for found in self.weights), None)
        return problem or (
            "the weights are missing: accept the licence on https://huggingface.co/facebook/sam-3d-objects, "
            "`hf auth login`, `fast-sam3d download`"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        step = self.next_step
        return {"ready": step is None, **asdict(self), "next_step": step}


def examine() -> Examination:
    """Diagnose the installation. Problems are returned, not raised."""
    torch_state, cuda, gpus = _torch()
    packages = tuple(map(_state, PACKAGES))
    return Examination(
        fast_sam3d=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch_state,
        cuda=cuda,
        gpus=gpus,
        packages=packages,
        embedded=_embedded(),
        weights=_weights(),
        attention=_attention(packages, gpus, torch_state),
    )


def _state(module: str) -> PackageState:
    names = _DISTRIBUTIONS.get(module, (module,))
    version = next((v for name in names if (v := _version(name)) is not None), None)
    problem = None
    if not _importable(module):
        problem = "is not installed" if version is None else "is registered, but its files are missing"
    how = _INSTALL.get(module, f"pip install {names[0]}")
    return PackageState(module, version, problem, how, module in OPTIONAL)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution) or None
    except Exception:  # not installed, or damaged metadata
        return None


def _importable(module: str) -> bool:
    """Whether a package exists, without importing it. A plain folder with the same name does not count."""
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # any error of damaged packages or import hooks
        return False
    return found is not None and found.origin is not None


def _torch() -> tuple[PackageState, str | None, tuple[Gpu, ...]]:
    """State of torch, its CUDA version, and the visible GPUs."""
    state = _state("torch")
    if state.problem is not None:
        return state, None, ()
    try:
        import torch

        cuda = torch.version.cuda
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(_gpu(torch, index) for index in range(count))
    except Exception as error:  # a missing or incompatible library
        return replace(state, problem=f"cannot be imported ({_brief(error)})"), None, ()
    return state, cuda, gpus


def _gpu(torch: Any, index: int) -> Gpu:
    about = torch.cuda.get_device_properties(index)
    try:
        free = int(torch.cuda.mem_get_info(index)[0])
    except Exception:  # a full GPU, or one in exclusive mode
        free = None
    return Gpu(about.name, int(about.total_memory), free, f"{about.major}.{about.minor}")


def _driver_sees_gpu() -> bool:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_DRIVER_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def _attention(packages: Iterable[PackageState], gpus: tuple[Gpu, ...], torch_state: PackageState) -> Attention:
    there = {None, *(package.module for package in packages if package.problem is None)}
    usable = tuple(name for name, needs in _DENSE.items() if torch_state.problem is None and needs in there)
    set_by_user = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    dense = set_by_user.get("ATTN_BACKEND", "sdpa")
    sparse = set_by_user.get("SPARSE_ATTN_BACKEND", dense)
    if gpus and any(name in gpus[0].name for name in _FLASH_GPUS):
        dense = sparse = "flash_attn"
    # The stock code ignores unknown values.
    dense, sparse = dense if dense in _DENSE else "sdpa", sparse if sparse in _SPARSE else "sdpa"
    return Attention(usable, dense, sparse, set_by_user)


def _embedded() -> WeightsState:
    folder, problem = "", None
    try:
        from fast_sam3d.checkpoints.load import find_checkpoint, load_checkpoint

        checkpoint = find_checkpoint("mini")
        folder = str(checkpoint.folder)
        load_checkpoint(checkpoint, device="cpu")
    except Exception as error:  # damaged weights, or a missing dependency
        problem = _brief(error)
        if isinstance(error, ModuleNotFoundError):
            problem += (
                ": install fast-sam3d again, with its dependencies (in a clone of its repository: pip install -e .)"
            )
    return WeightsState("mini", folder, "mini", problem)


def _weights() -> tuple[WeightsState, ...]:
    """The user's SAM 3D Objects weights, checkpoints/hf first."""
    try:
        from fast_sam3d.checkpoints.load import check_stock_folder, stock_folders

        return tuple(
            WeightsState(folder.name, str(folder), "sam3d", check_stock_folder(folder)) for folder in stock_folders()
        )
    except Exception as error:  # a missing dependency, or an unreadable folder
        return (WeightsState("", "checkpoints", "sam3d", _brief(error)),)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
