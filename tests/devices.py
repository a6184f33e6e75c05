"""A strict accelerator in software: CPU tensors that pose as tensors of another device, and what CUDA or MPS would say.

Inside `Accelerator`, a tensor on `DEVICE` is an `OnDevice`, which holds a CPU tensor and passes every operator through
the dispatch mode below. Values are those of the CPU; what an accelerator would refuse is recorded as a fault with the
line of the package that asked for it:

- operators for which torch has a CPU kernel, but none for CUDA or for MPS (read from torch's own list),
- matrix products of integers, which CUDA lacks,
- float64 and complex128, which MPS lacks,
- random numbers on the device from a generator of the CPU,
- tensors of both devices in one operator. Allowed are scalars (0 dimensions), copies, and indices on the host.

`syncs` lists where the host waits for the device: reads of a value, operators whose output's shape depends on values,
solvers of `torch.linalg`, and copies between host and device (those to the device too: from pageable memory torch waits
for them, unless non_blocking). Indices, and values put at indices, that lie on the host are such copies.

`silent` lists tensors that the package creates without naming a device.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import torchgen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import fast_sam3d

DEVICE = torch.device("lazy", 0)
"""A kind of device that every build of torch knows and none of the package's users has."""

PACKAGE, TESTS = (str(Path(file).parent) + "/" for file in (fast_sam3d.__file__, __file__))
aten = torch.ops.aten

PRODUCTS = {"mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "matmul", "linear"}
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount"} | {
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


_OF_DATA = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)

_CAST = (F.linear, torch.conv2d, torch.conv3d, torch.matmul, Tensor.__matmul__, F.scaled_dot_product_attention)
"""What autocast runs in half precision."""


class OnDevice(Tensor):
    """A tensor that says it is on `DEVICE`; `held` is the CPU tensor behind it."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.held = real
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the accelerator outside its block")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        return memo.setdefault(id(self), OnDevice(self.held.clone()))


class Accelerator(TorchDispatchMode):
    """See the module. Enter it with `with accelerator.on():`.

    Attributes:
        faults, syncs, silent: "what, at file:line", in order.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler, which takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.syncs: list[str] = []
        self.silent: list[str] = []

    @contextmanager
    def on(self, default: bool = False) -> Iterator[Accelerator]:
        """The accelerator's block; `default`: it is torch's default device too, as in a run of the stock pipeline."""
        with ExitStack() as stack:
            stack.enter_context(_autocast_as_on_a_cpu())
            stack.enter_context(_Constructors(self, default))
            stack.enter_context(self)
            yield self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given: dict[int, Tensor] = {}  # each tensor as it was given, by the identity of the CPU tensor

        def real(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            given[id(x.held if isinstance(x, OnDevice) else x)] = x
            return x.held if isinstance(x, OnDevice) else x

        plain, named = tree_map(real, (args, kwargs))
        from_device = any(isinstance(x, OnDevice) for x in given.values())
        target = kwargs.get("device")
        if target is not None:
            target = torch.device(target)
            named["device"] = torch.device("cpu") if target.type == DEVICE.type else target
        to_device = from_device if target is None else target.type == DEVICE.type
        if from_device or to_device:
            self._check(func, args, kwargs, list(given.values()), from_device, to_device)
        out = func(*plain, **named)

        def back(x: Any) -> Any:
            if not isinstance(x, Tensor) or id(x) in given:
                known = given.get(id(x), x)
                # `squeeze_` inside of torch's own products changes a shape in place.
                return OnDevice(x) if isinstance(known, OnDevice) and known.shape != x.shape else known
            if to_device and x.dtype in (torch.float64, torch.complex128):
                self.fault(f"{x.dtype}".removeprefix("torch."), func)
            return OnDevice(x) if to_device else x

        return tree_map(back, out)

    def _check(
        self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], from_device: bool, to_device: bool
    ) -> None:
        name = func.overloadpacket.__name__
        host = [x for x in tensors if not isinstance(x, OnDevice) and x.dim() > 0]
        generator = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Generator)), None)
        if missing := without_kernel().get(str(func).removeprefix("aten.").removesuffix(".default")):
            self.fault(f"no kernel for {missing}", func)
        if name in PRODUCTS and not all(x.is_floating_point() or x.is_complex() for x in tensors):
            self.fault("product of integers", func)
        if to_device and generator is not None and generator.device.type != DEVICE.type:
            self.fault("generator of another device", func)
        if name in ("_to_copy", "copy_"):
            here = isinstance(args[1] if name == "copy_" else args[0], OnDevice)
            there = isinstance(args[0], OnDevice) if name == "copy_" else to_device
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] and args[2]))
            if here != there and (here or waits):
                self.sync(func, "to the host" if here else "from the host")
        elif name in INDEXING and from_device:
            self._check_indexing(func, name, args)
        elif from_device:
            if host:
                self.fault("tensors of two devices", func)
            sizes = name == "repeat_interleave" and kwargs.get("output_size") is None and len(args) == 1
            if name in WAITS or sizes or ("linalg" in name and not name.endswith(("_ex", "norm", "cross"))):
                self.sync(func)

    def _check_indexing(self, func: Any, name: str, args: Any) -> None:
        owner, indices, values = args[0], [i for i in args[1] if i is not None], args[2:3]
        device = isinstance(owner, OnDevice)
        masks = [i for i in indices if i.dtype in (torch.bool, torch.uint8)]
        for value in values:
            if isinstance(value, OnDevice) != device:
                if value.dim() > 0 or not device:
                    self.fault("tensors of two devices", func)
                elif len(masks) == len(indices) == 1:
                    return  # torch fills where the mask is true
                else:
                    self.sync(func, "a scalar from the host")
        if any(isinstance(i, OnDevice) != device for i in indices):
            if device:
                self.sync(func, "indices from the host")
            else:
                self.fault("indices on the device for a tensor of the host", func)
        if any(isinstance(i, OnDevice) for i in masks):
            self.sync(func, "of a mask")

    def fault(self, what: str, func: Any) -> None:
        self.faults.append(f"{what}: {func} at {_site()}")

    def sync(self, func: Any, what: str = "") -> None:
        self.syncs.append(f"{func}{what and ' '}{what} at {_site()}")


class _Constructors(TorchFunctionMode):
    """Records the package's tensors that are created without a device, and gives them the default one."""

    def __init__(self, accelerator: Accelerator, default: bool) -> None:
        super().__init__()
        self.accelerator, self.default = accelerator, default

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _CAST and torch.is_autocast_enabled(DEVICE.type):
            dtype = torch.get_autocast_dtype(DEVICE.type)
            args, kwargs = tree_map(lambda x: x.to(dtype) if isinstance(x, OnDevice) else x, (args, kwargs))
        if func in _device_constructors() and kwargs.get("device") is None:
            self.accelerator.silent.append(f"{func.__name__} at {_site()}")
            if self.default:
                kwargs["device"] = DEVICE
        owner = args[0].device if func is Tensor.new_tensor and isinstance(args[0], OnDevice) else None
        if func in _OF_DATA and (device := kwargs.get("device") or owner) and torch.device(device).type == DEVICE.type:
            # Torch would allocate on the device itself, out of a mode's sight.
            make = torch.tensor if func is Tensor.new_tensor else func
            return make(args[-1], **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnDevice):
            # As for CUDA: a list becomes a tensor on the host, and so does a number that is set at indices.
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            places = tuple(torch.tensor(i, device="cpu") if isinstance(i, list) else i for i in places)
            values = args[2:]
            if any(isinstance(i, Tensor) for i in places):
                kind = {"dtype": args[0].dtype, "device": "cpu"}
                values = tuple(v if isinstance(v, Tensor) else torch.tensor(v, **kind) for v in values)
            args = (args[0], places, *values)
        return func(*args, **kwargs)


def ours(lines: list[str]) -> list[str]:
    """Those of methods and savings, not of the networks and the tests."""
    return [line for line in lines if not line.partition(" at ")[2].startswith(("model/", "geometry/", "the test"))]


def moved(module: nn.Module) -> None:
    """Move a module's parameters and buffers to `DEVICE`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, OnDevice):
                part._parameters[name] = nn.Parameter(OnDevice(parameter.detach()), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, OnDevice):
                part._buffers[name] = OnDevice(buffer)


def place(pipeline: Any, device: torch.device) -> None:
    """Move an embedded pipeline to a device; call it in the accelerator's block."""
    for network in (pipeline.models, *pipeline.condition_embedders.values()):
        moved(network) if device == DEVICE else network.to(device)
    pipeline.device = device
    for name in ("slat_mean", "slat_std"):
        setattr(pipeline, name, getattr(pipeline, name).to(device))


@functools.cache
def without_kernel() -> dict[str, str]:
    """Operators with a kernel for the CPU, but none for CUDA or none for MPS, by name: the devices that lack one."""
    source = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    kernels: dict[str, set[str] | str] = {}
    for block in re.split(r"\n(?=- func: )", source.read_text()):
        if not (name := re.match(r"- func: ([\w.]+)\(", block)):
            continue
        delegate = re.search(r"\n  structured_delegate: ([\w.]+)", block)
        dispatch = re.search(r"\n  dispatch:\n((?:    .*\n?)+)", block)
        keys = re.findall(r"^    ([\w, ]+):", dispatch[1], re.M) if dispatch else []
        kernels[name[1]] = delegate[1] if delegate else {key.strip() for line in keys for key in line.split(",")}
    found = {}
    for name, keys in kernels.items():
        while isinstance(keys, str):
            keys = kernels.get(keys, set())
        lacking = [key for key in ("CUDA", "MPS") if key not in keys]
        if lacking and "CPU" in keys and not any(key.startswith("Composite") for key in keys):
            found[name] = " and ".join(lacking)
    # An operator that is composed of a copy and its own in-place form has the kernels of that.
    composed = {name: re.sub(r"^(\w+)", r"\1_", name) for name, keys in kernels.items() if "CPU" not in keys}
    found |= {name: found[inner] for name, inner in composed.items() if inner in found}
    if torch.torch_version.TorchVersion(torch.__version__) < "2.6":  # where it has none for MPS
        found.pop("scatter_reduce.two")
        found.pop("scatter_reduce_.two")
    return found


@contextmanager
def _autocast_as_on_a_cpu() -> Iterator[None]:
    """Torch knows no autocast of `DEVICE`, so that of the CPU takes its place."""

    def on_a_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(kind: Any = None, *args: Any, **kwargs: Any) -> Any:
            kind = "cpu" if kind == DEVICE.type else kind
            return function(*(() if kind is None else (kind,)), *args, **kwargs)

        return call

    init = torch.amp.autocast_mode.autocast.__init__

    def begin(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        init(self, "cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)

    with ExitStack() as stack:
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            stack.enter_context(mock.patch.object(torch, name, on_a_cpu(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch.amp.autocast_mode.autocast, "__init__", begin))
        yield


def _site() -> str:
    """The line that an operator comes from, "sampling/solve.py:12 name"; "the test" for tests and the stock code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            return f"{path.removeprefix(PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
        if (path.startswith(TESTS) and path != __file__) or "/sam3d_objects/" in path:
            break
        frame = frame.f_back
    return "the test"
