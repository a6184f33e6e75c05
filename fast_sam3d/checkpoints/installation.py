"""The commands that install what SAM 3D Objects lacks: in the order that works, in the versions of its authors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fast_sam3d.checkpoints.requirements import REQUIREMENTS, TORCH, Requirement, release

__all__ = ["LOGIN", "Machine", "commands"]

LOGIN = (
    "hf auth login  # after access was granted on https://huggingface.co/facebook/sam-3d-objects",
    "fast-sam3d download",
)
# The build for GPUs of compute capability 10 and later: that of the stock environment has no code for them.
_TORCH = {False: ("2.5.1", "12.1"), True: ("2.7.1", "12.8")}
_TORCH_PAGE = "https://download.pytorch.org/whl"
# Wheels of kaolin by torch and CUDA (its installation guides of 0.17.0 and 0.18.0).
_KAOLIN_PAGE = "https://nvidia-kaolin.s3.us-east-2.amazonaws.com"
_KAOLIN = {
    "0.17.0": dict.fromkeys(("2.4.0", "2.4.1", "2.5.0", "2.5.1"), ("11.8", "12.1", "12.4")),
    "0.18.0": {
        **dict.fromkeys(("2.4.0", "2.4.1", "2.5.0", "2.5.1"), ("12.6", "12.8", "12.9")),
        "2.6.0": ("11.8", "12.4", "12.6"),
        "2.7.0": ("11.8", "12.6", "12.8"),
        "2.7.1": ("11.8", "12.6", "12.8"),
        "2.8.0": ("12.6", "12.8", "12.9"),
    },
}
_KAOLIN_SOURCE = "kaolin @ git+https://github.com/NVIDIAGameWorks/kaolin.git@v0.18.0"
_SPCONV = ("11.8", "12.1", "12.4", "12.6")  # CUDA versions of its wheels
# With setuptools 82 and later, lightning 2.3 cannot be imported. 75.8.2 is that of environments/default.yml.
_TOOLS = ("setuptools==75.8.2", "wheel", "ninja", "packaging", "psutil")
_NUMPY_1 = "numpy==1.26.4"
_WITH = {"cv2": _NUMPY_1, "open3d": _NUMPY_1, "moge": "gradio==5.49.0"}  # what a pinned package needs beside it
_CLONE = (
    "git clone https://github.com/facebookresearch/sam-3d-objects",
    "pip install --no-deps -e sam-3d-objects",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the commands depend on.

    Args:
        python: major and minor version.
        torch: version of a usable torch, without the build's label; None: it is to be installed.
        cuda: version that this torch was built for.
        new_gpu: whether there is a GPU of compute capability 10 or later.
    """

    python: tuple[int, int]
    torch: str | None
    cuda: str | None
    new_gpu: bool = False


def commands(missing: Collection[str], machine: Machine) -> tuple[str, ...]:
    """Lines to paste into a shell; none if nothing is missing.

    Args:
        missing: modules of `requirements` that are absent or unusable; "torch" among them.
        machine: where they are installed.
    """
    torch, cuda = (machine.torch, machine.cuda) if machine.torch else _TORCH[machine.new_gpu]
    cuda = cuda or _TORCH[False][1]
    wanted = [requirement for requirement in REQUIREMENTS if requirement.module in missing]
    return tuple(_lines(wanted, torch or TORCH.pin or "", cuda, machine))


def _lines(wanted: list[Requirement], torch: str, cuda: str, machine: Machine) -> Iterator[str]:
    modules = {requirement.module for requirement in wanted}
    label = "cu" + cuda.replace(".", "")
    first = [] if machine.torch else [f"torch=={torch}+{label}"]
    if first or "torchvision" in modules:
        first.append(f"torchvision=={_torchvision(torch)}+{label}")
        yield f"pip install {' '.join(first)} --index-url {_TORCH_PAGE}/{label}"
    apart = {"sam3d_objects", "torchvision", "kaolin"}
    plain = [_named(r, cuda, machine) for r in wanted if not r.compiled and r.module not in apart]
    beside = {name: None for module, name in _WITH.items() if module in modules}
    plain += [name for name in beside if name not in plain and (name != _NUMPY_1 or machine.python <= (3, 11))]
    compiled = [r.pinned for r in wanted if r.compiled]
    page = ""
    if "kaolin" in modules:
        version = next((v for v, builds in _KAOLIN.items() if cuda in builds.get(torch, ())), None)
        if version is None or machine.python > (3, 12):
            compiled.append(_KAOLIN_SOURCE)
        else:
            page = f" -f {_KAOLIN_PAGE}/torch-{torch}_{label}.html"
            plain.append(f"kaolin=={version}")
    if compiled or "lightning" in modules:
        plain = [*_TOOLS[: None if compiled else 1], *plain]
    if plain:
        yield f"pip install{page} {' '.join(map(_quoted, plain))}"
    if compiled:
        if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
            yield f"# the next line compiles: it needs nvcc of CUDA {cuda} on PATH, or CUDA_HOME, and neither is there"
        prefix = "IGNORE_TORCH_VER=1 " if _KAOLIN_SOURCE in compiled else ""
        yield f"{prefix}pip install --no-build-isolation {' '.join(map(_quoted, compiled))}"
    if "sam3d_objects" in modules:
        yield " && ".join(_CLONE)


def _named(requirement: Requirement, cuda: str, machine: Machine) -> str:
    if requirement.module == "spconv":
        known = [version for version in _SPCONV if release(version) <= release(cuda)]
        return f"spconv-cu{(known or _SPCONV)[-1].replace('.', '')}=={requirement.pin}"
    # The pinned open3d and numpy have no wheels for later versions of Python.
    if requirement.module in ("open3d", "numpy", "cv2") and machine.python > (3, 11):
        return requirement.name
    return requirement.pinned


def _torchvision(torch: str) -> str:
    """The version that belongs to a torch of 2.4 or later: 2.5.1 and 0.20.1."""
    _, minor, patch = (*release(torch), 0, 0)[:3]
    return f"0.{minor + 15}.{patch}"


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
