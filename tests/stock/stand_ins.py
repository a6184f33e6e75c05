"""Stand-ins for packages that `sam3d_objects` imports and that may be missing.

Nothing here is installed for good: `importable` puts it in place while the package is imported and a pipeline is
built, `on_cpu` while one runs. A package that is really there is used.

Three kinds:
- packages that no test reaches are empty: every name in them is `Anything`;
- functions that a run does reach (pytorch3d's transforms, kaolin's check, easydict, and in `pictures.py` those of
  torchvision and timm) are written out, as small as the calls in a run allow;
- sparse convolution, in `sparse_convolution.py`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.stock import pictures, sparse_convolution

EMPTY = {
    "astor", "cv2", "easydict", "flash_attn", "gsplat", "igraph", "kaolin", "lightning", "loguru", "moge", "open3d",
    "plotly", "plyfile", "pymeshfix", "pytorch3d", "pyvista", "seaborn", "spconv", "timm", "torchvision", "utils3d",
    "xatlas",
}  # fmt: skip
ENVIRONMENT = {
    "LIDRA_SKIP_INIT": "1",
    "ATTN_BACKEND": "sdpa",
    "SPARSE_ATTN_BACKEND": "sdpa",
    "SPARSE_BACKEND": "spconv",
}


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Anything(metaclass=_Anything):
    """A class that can be called and inherited from, has every attribute, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Anything()


class EasyDict(dict):  # type: ignore[type-arg]
    """A dict with its keys as attributes, nested dicts included."""

    def __init__(self, mapping: Any = ()) -> None:
        super().__init__({k: EasyDict(v) if isinstance(v, dict) else v for k, v in dict(mapping).items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Transform3d:
    """A batch of 4x4 matrices that act on row vectors."""

    def __init__(self, dtype: torch.dtype = torch.float32, device: Any = "cpu", matrix: Tensor | None = None) -> None:
        self.matrix = torch.eye(4, dtype=dtype, device=device)[None] if matrix is None else matrix

    def _then(self, linear: Tensor | None = None, offset: Tensor | None = None) -> Transform3d:
        given = offset if linear is None else linear
        assert given is not None
        step = torch.eye(4).to(self.matrix).repeat(len(given), 1, 1)
        if linear is not None:
            step[:, :3, :3] = linear
        if offset is not None:
            step[:, 3, :3] = offset
        return Transform3d(matrix=self.matrix @ step)

    def scale(self, scale: Tensor) -> Transform3d:
        return self._then(torch.diag_embed(scale))

    def rotate(self, rotation: Tensor) -> Transform3d:
        return self._then(rotation)

    def translate(self, offset: Tensor) -> Transform3d:
        return self._then(offset=offset)

    def compose(self, *others: Transform3d) -> Transform3d:
        matrix = self.matrix
        for other in others:
            matrix = matrix @ other.matrix
        return Transform3d(matrix=matrix)

    def inverse(self) -> Transform3d:
        return Transform3d(matrix=torch.linalg.inv(self.matrix))

    def to(self, device: Any) -> Transform3d:
        return Transform3d(matrix=self.matrix.to(device))

    def get_matrix(self) -> Tensor:
        return self.matrix

    def transform_points(self, points: Tensor) -> Tensor:
        # Homogeneous, as in pytorch3d: where one coordinate is infinite, all of them become NaN.
        whole = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ self.matrix[0]
        return whole[..., :3] / whole[..., 3:]


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """[..., 4] real part first -> [..., 3, 3]."""
    r, i, j, k = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (j * j + k * k), 2 * (i * j - k * r), 2 * (i * k + j * r),
        2 * (i * j + k * r), 1 - 2 * (i * i + k * k), 2 * (j * k - i * r),
        2 * (i * k - j * r), 2 * (j * k + i * r), 1 - 2 * (i * i + j * j),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quaternion.shape[:-1], 3, 3)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4], real part first and not negative."""
    from scipy.spatial.transform import Rotation

    flat = matrix.detach().cpu().double().reshape(-1, 3, 3).numpy()
    quaternion = torch.from_numpy(Rotation.from_matrix(flat).as_quat(canonical=True))[:, [3, 0, 1, 2]]
    return quaternion.to(matrix.dtype).reshape(*matrix.shape[:-2], 4)


def look_at_view_transform(**view: Any) -> tuple[Tensor, Tensor]:
    """The one view that a pipeline requests: from (0, 0, -1) to the origin, with y down."""
    return torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None], torch.tensor([[0.0, 0.0, 1.0]])


def check_tensor(tensor: Tensor, shape: Any = None, **options: Any) -> bool:
    return shape is None or all(expected in (None, got) for expected, got in zip(shape, tensor.shape, strict=True))


WRITTEN: dict[str, dict[str, Any]] = {
    **pictures.WRITTEN,
    "easydict": {"EasyDict": EasyDict},
    "kaolin.utils.testing": {"check_tensor": check_tensor},
    "pytorch3d.renderer": {"look_at_view_transform": look_at_view_transform},
    "pytorch3d.transforms": {
        "Transform3d": Transform3d,
        "matrix_to_quaternion": matrix_to_quaternion,
        "quaternion_to_matrix": quaternion_to_matrix,
    },
    "spconv.pytorch": {
        "SparseConvTensor": sparse_convolution.SparseConvTensor,
        "SubMConv3d": sparse_convolution.SubMConv3d,
    },
}


class Finder:
    """Finds stand-ins; at the end of `sys.meta_path`, so that installed packages take precedence.

    Args:
        empty: names of packages.
        written: what is in their modules.
    """

    def __init__(self, empty: Set[str] = EMPTY, written: Mapping[str, dict[str, Any]] = WRITTEN) -> None:
        self.empty, self.written = empty, written

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.empty:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        return _module(spec.name, self.written)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _module(name: str, written: Mapping[str, dict[str, Any]]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(written.get(name, {}))

    def attribute(wanted: str) -> Any:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        inner = f"{name}.{wanted}"
        if any(known == inner or known.startswith(f"{inner}.") for known in written):
            return importlib.import_module(inner)  # also for those who do not import it themselves
        return Anything

    vars(module)["__getattr__"] = attribute
    return module


@contextmanager
def importable() -> Iterator[None]:
    """`sam3d_objects` can be imported and its pipeline built in this block, on a machine without a GPU."""
    if sparse_convolution.REAL:
        importlib.import_module("spconv.pytorch")  # before a GPU is pretended
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, ENVIRONMENT))
        # The package reads the name of the GPU and fails without one.
        stack.enter_context(mock.patch("torch.cuda.is_available", return_value=True))
        stack.enter_context(mock.patch("torch.cuda.get_device_name", return_value="none"))
        stack.enter_context(mock.patch("torch.cuda.current_device", return_value=0))
        stack.enter_context(found(Finder()))
        yield


@contextmanager
def found(finder: Any) -> Iterator[None]:
    """The stand-ins of a `Finder` can be imported in this block."""
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if getattr(getattr(module, "__spec__", None), "loader", None) is finder:
                del sys.modules[name]


@contextmanager
def on_cpu() -> Iterator[None]:
    """A pipeline runs in this block: the package creates gaussians on the GPU, not on the pipeline's device."""
    from sam3d_objects.model.backbone.tdfy_dit.models.structured_latent_vae import decoder_gs
    from sam3d_objects.model.backbone.tdfy_dit.representations import Gaussian

    with (
        sparse_convolution.on_cpu(),
        mock.patch.object(Tensor, "cuda", lambda self, *args, **kwargs: self),
        mock.patch.object(decoder_gs, "Gaussian", partial(Gaussian, device="cpu")),
    ):
        yield


@contextmanager
def half_on_cpu() -> Iterator[None]:
    """As `on_cpu`, and the autocast that the package asks of the GPU is the CPU's; nothing changes in float32.

    A CPU lacks no operator for float16, but its convolution of dense grids takes ten times as long: it is computed in
    float32, of float16 inputs.
    """
    convolution = torch.nn.functional.conv3d

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, **options: Any) -> None:
            super().__init__("cpu", dtype, enabled and dtype is not torch.float32, **options)

    def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> Tensor:
        cast = torch.is_autocast_enabled("cpu")
        kind = torch.get_autocast_dtype("cpu") if cast else x.dtype
        wide = [part if part is None else part.to(kind).float() for part in (x, weight, bias)]
        with torch.autocast("cpu", enabled=False):
            return convolution(*wide, *rest, **options).to(kind)

    with (
        on_cpu(),
        mock.patch("torch.autocast", Autocast),
        mock.patch("torch.nn.functional.conv3d", conv3d),
    ):
        yield
