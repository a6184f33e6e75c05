"""Diagnosis of the installation for SAM 3D Objects: the answer, what to paste, and the state of every part.

Only torch and this package are imported, so broken or slow packages do no harm.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.checkpoints.first_load import Fetched, first_load
from fast_sam3d.checkpoints.gpus import Gpu, driver_gpus, visible_gpu
from fast_sam3d.checkpoints.installation import LOGIN, Machine, commands
from fast_sam3d.checkpoints.packages import PackageState, inspect, inspect_all
from fast_sam3d.checkpoints.requirements import REQUIREMENTS, TORCH

__all__ = ["EMBEDDED_RUNS", "Attention", "Examination", "Gpu", "WeightsState", "examine"]

# Back ends of modules/attention/__init__.py and modules/sparse/__init__.py, and the packages they need.
_DENSE = {"sdpa": None, "naive": None, "torch_flash_attn": None, "flash_attn": "flash_attn", "xformers": "xformers"}
_SPARSE = {"sdpa": None, "flash_attn": "flash_attn", "xformers": "xformers"}
_REINSTALL = "install fast-sam3d again, with its dependencies (in a clone of its repository: pip install -e .)"
EMBEDDED_RUNS = "the embedded model runs here: fast-sam3d infer --tag mini"
_VARIABLES = ("ATTN_BACKEND", "SPARSE_ATTN_BACKEND", "SPARSE_BACKEND", "SPCONV_ALGO")
# GPUs on which the stock pipeline overrides the variables (inference_pipeline.py, set_attention_backend).
_FLASH_GPUS = ("A100", "H100", "H200")


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
    """Result of the diagnosis.

    Args:
        cuda: the version that torch was built for.
        embedded: the embedded model.
        weights: the folders for SAM 3D Objects' weights, or the one that was asked for.
        asked_for: whether a folder was asked for.
        first_load: what the stock code fetches itself for the first weights that are complete.
        driver: the GPUs that NVIDIA's driver sees, if torch sees none.
        memory: which memory plan of the native runtime fits this machine, or why none does; None: unknown.
        memory_fits: whether one does, as far as that is known.
        native_problem: why the native runtime cannot be used; None if it can.
        missing: modules that are absent or unusable, and needed.
    """

    fast_sam3d: str
    python: str
    system: str
    torch: PackageState
    cuda: str | None
    gpus: tuple[Gpu, ...]
    packages: tuple[PackageState, ...]
    embedded: WeightsState
    weights: tuple[WeightsState, ...]
    attention: Attention
    asked_for: bool = False
    driver: tuple[Gpu, ...] = ()
    first_load: tuple[Fetched, ...] = ()
    memory: str | None = None
    memory_fits: bool = True
    native_problem: str | None = None

    @property
    def next_step(self) -> str | None:
        """The reason why the weights cannot be used here, the first in the order of installation; None if they can."""
        if self._embedded_only:
            state = self.weights[0]
            return self._torch_problem() or (state.problem and f"{state.tag} cannot be used: {state.problem}")
        if self.asked_for and self.weights[0].kind == "synthetic":
            return self._torch_problem() or self.native_problem
        return (
            (self._weights_problem() if self.asked_for else None)
            or self._torch_problem()
            or (self.embedded.problem and f"the embedded model cannot be loaded: {self.embedded.problem}")
            or self._weights_problem()
            or (self.stock_problem if self.native_problem else None)
        )

    @property
    def stock_problem(self) -> str | None:
        """Why the stock runtime cannot be used; None if it can."""
        return self._gpu_problem() or self._package_problem()

    @property
    def runtime(self) -> str:
        """The runtime that SAM 3D Objects gets here, "stock" or "native"."""
        return "native" if self.stock_problem else "stock"

    @property
    def missing(self) -> tuple[str, ...]:
        """Modules of packages that are needed and cannot be used."""
        wanted = {_DENSE[self.attention.dense], _SPARSE[self.attention.sparse]}
        return tuple(
            package.module
            for package in self.packages
            if package.problem is not None and (not package.optional or package.module in wanted)
        )

    @property
    def install(self) -> tuple[str, ...]:
        """Lines to paste into a shell, which install all that is missing; none where that would not help."""
        absent = not self.weights and not self.asked_for
        if absent and self.native_problem is None:
            return LOGIN
        if self.next_step is None or self._embedded_only or not (self.gpus or self.driver):
            return ()
        torch = None if self._torch_problem() or self._wrong_build() else (self.torch.version or "").split("+")[0]
        new_gpu = any(float(gpu.capability) >= 10 for gpu in self.gpus or self.driver)
        machine = Machine(sys.version_info[:2], torch, self.cuda if torch else None, new_gpu)
        return (*commands(self.missing, machine), *(LOGIN if absent else ()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        step = self.next_step
        more = {"runtime": self.runtime, "next_step": step, "install": list(self.install)}
        return {"ready": step is None, **asdict(self), **more}

    @property
    def _embedded_only(self) -> bool:
        return self.asked_for and self.weights[0].kind == "mini"

    def _torch_problem(self) -> str | None:
        return self.torch.problem and f"torch {self.torch.problem}"

    def _wrong_build(self) -> str | None:
        """Why this torch cannot use the GPU that is there."""
        if not self.gpus and self.driver and self.cuda is None:
            return "there is a GPU, but torch was built for the CPU"
        unsupported = next((gpu for gpu in self.gpus if not gpu.supported), None)
        if unsupported is not None:
            return (
                f"torch {self.torch.version} has no code for {unsupported.name} "
                f"(compute capability {unsupported.capability})"
            )
        return None

    def _gpu_problem(self) -> str | None:
        wrong = self._wrong_build()
        if wrong or self.gpus:
            return wrong
        if not self.driver:
            return f"the stock runtime needs an NVIDIA GPU on Linux, and there is none; {EMBEDDED_RUNS}"
        return f"torch for CUDA {self.cuda} does not see the GPU: unset CUDA_VISIBLE_DEVICES, or update the driver"

    def _package_problem(self) -> str | None:
        states = {package.module: package for package in self.packages}
        if len(self.missing) > 1:
            return f"{len(self.missing)} packages are missing or unusable: {', '.join(self.missing)}"
        return next((f"{module} {states[module].problem}" for module in self.missing), None)

    def _weights_problem(self) -> str | None:
        if any(found.problem is None for found in self.weights):
            return None
        if not self.weights:
            return "the weights of SAM 3D Objects are missing, and no other folder was given with --tag"
        first = self.weights[0]
        return first.problem if self.asked_for else f"{first.folder} cannot be used ({first.problem})"


def examine(tag: str | None = None) -> Examination:
    """Diagnose the installation. Problems are returned, not raised.

    Args:
        tag: the weights to check: "mini", the name of a folder under checkpoints/, or a path. None: those under
            checkpoints/ that are for SAM 3D Objects.
    """
    torch_state, cuda, gpus = _torch()
    driver = () if gpus else driver_gpus()
    packages = inspect_all(REQUIREMENTS)
    weights = _weights() if tag is None else (_asked_for(tag),)
    memory, fits = (None, True) if torch_state.problem else _memory(gpus)
    return Examination(
        fast_sam3d=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch_state,
        cuda=cuda,
        gpus=gpus,
        packages=packages,
        embedded=_embedded(),
        weights=weights,
        attention=_attention(packages, gpus or driver, torch_state),
        asked_for=tag is not None,
        driver=driver,
        first_load=_first_load(weights),
        memory=memory,
        memory_fits=fits,
        native_problem=_native_problem(weights) if fits else memory,
    )


def _torch() -> tuple[PackageState, str | None, tuple[Gpu, ...]]:
    """State of torch, its CUDA version, and the visible GPUs."""
    state = inspect(TORCH)
    if state.problem is not None:
        return state, None, ()
    try:
        import torch

        cuda = torch.version.cuda
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(visible_gpu(torch, index) for index in range(count))
    except Exception as error:  # a missing or incompatible library
        return replace(state, problem=f"cannot be imported ({_brief(error)})"), None, ()
    return state, cuda, gpus


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


def _embedded(tag: str = "mini") -> WeightsState:
    folder, problem = "", None
    try:
        from fast_sam3d.checkpoints.load import load_checkpoint, locate_checkpoint

        checkpoint = locate_checkpoint(tag)
        folder = str(checkpoint.folder)
        load_checkpoint(checkpoint, device="cpu")
    except Exception as error:  # damaged weights, or a missing dependency
        problem = _brief(error)
        if isinstance(error, ModuleNotFoundError):
            problem += f": {_REINSTALL}"
    return WeightsState(tag, folder, "mini", problem)


def _memory(gpus: tuple[Gpu, ...]) -> tuple[str | None, bool]:
    """The memory plan of the native runtime for the first GPU, or for the CPU, in the precision that it would have; or
    why there is none, and False."""
    try:
        import torch

        from fast_sam3d.native import plans

        device = torch.device("cuda" if gpus else "cpu")
        half, free = (torch.float16, gpus[0].free) if gpus else (None, plans.free_bytes(device))
        if free is None:
            return None, True
        plan = plans.choose(plans.AUTO, device, half, free=free)
        peak = max(plans.expected_peaks(plan, plans.LARGE, half).values())
    except Exception as error:  # too little memory, or a torch that does not work
        return _brief(error), False
    where = "the GPU" if gpus else "the CPU"
    return f"memory plan {plan.name} on {where}: at most about {peak / 2**30:.1f} of {free / 2**30:.1f} GiB", True


def _native_problem(weights: tuple[WeightsState, ...]) -> str | None:
    """What the native runtime does not implement of the weights that are there, if there are any; None if it can."""
    try:
        from fast_sam3d.checkpoints.native import implemented

        complete = [found for found in weights if found.kind == "sam3d" and not found.problem]
        faults = [implemented(Path(found.folder)) for found in complete]
    except Exception as error:  # a missing dependency
        return _brief(error)
    return faults[0] if faults and None not in faults else None


def _asked_for(tag: str) -> WeightsState:
    """The weights of that name or path."""
    try:
        from fast_sam3d.checkpoints.load import check_stock_folder, locate_checkpoint

        found = locate_checkpoint(tag)
    except Exception as error:  # no such folder, or a missing dependency
        return WeightsState(tag, tag, "sam3d", _brief(error))
    if found.kind == "mini":
        return _embedded(tag)
    if found.kind == "synthetic":
        return WeightsState(tag, "", found.kind, None)
    return WeightsState(tag, str(found.folder), "sam3d", check_stock_folder(found.folder))


def _weights() -> tuple[WeightsState, ...]:
    """The user's SAM 3D Objects weights, checkpoints/hf first."""
    try:
        from fast_sam3d.checkpoints.load import check_stock_folder, stock_folders

        return tuple(
            WeightsState(folder.name, str(folder), "sam3d", check_stock_folder(folder)) for folder in stock_folders()
        )
    except Exception as error:  # a missing dependency, or an unreadable folder
        return (WeightsState("", "checkpoints", "sam3d", _brief(error)),)


def _first_load(weights: tuple[WeightsState, ...]) -> tuple[Fetched, ...]:
    usable = next((found for found in weights if found.kind == "sam3d" and found.problem is None), None)
    if usable is None:
        return ()
    try:
        from fast_sam3d.checkpoints.files import read_yaml

        return first_load(read_yaml(Path(usable.folder, "pipeline.yaml")))
    except Exception:  # torch or the hub client cannot be imported, which is reported elsewhere
        return ()


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
