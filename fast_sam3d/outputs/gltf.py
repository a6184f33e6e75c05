"""glTF 2.0 binaries (.glb): a short writer, and a reader of files like its own.

Source: Khronos, glTF 2.0 Specification: binary layout in section 4.4, accessors in 3.6.2, materials in 3.9.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.documents import parse_json
from fast_sam3d.errors import ExportError
from fast_sam3d.outputs.files import atomic_write

__all__ = ["LINES", "POINTS", "TRIANGLES", "Glb", "GlbWriter", "read_glb"]

JPEG_QUALITY = 95  # a mean error of 0.6 to 0.9 of 255 on the examples' textures
POINTS, LINES, TRIANGLES = 0, 1, 4  # modes of a primitive
_COMPONENTS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
_SHAPES = {(): "SCALAR", (1,): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_VERTICES, _INDICES = 34962, 34963  # targets of a buffer view
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071  # filters and wrapping of a sampler
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")


class GlbWriter:
    """A .glb file under construction: add materials and meshes, then nodes, then save.

    Every `add_` method returns the index of what it added. Arrays are kept, not copied, until the file is saved.
    """

    def __init__(self) -> None:
        self._tree: dict[str, Any] = {"asset": {"version": "2.0", "generator": "fast-sam3d"}}
        self._parts: list[memoryview] = []
        self._size = 0
        self._used: set[str] = set()

    def add_material(
        self, texture: NDArray[np.uint8] | None = None, *, name: str = "material", lossless: bool = True
    ) -> int:
        """A matt material, as bright as its colours: not metallic, rough, seen from both sides.

        Args:
            texture: [H, W, 3 or 4] uint8 sRGB, row 0 at v = 0; without one the colour is that of the vertices.
            lossless: a PNG; False: a JPEG of about half the size, if there is no alpha.
        """
        surface: dict[str, Any] = {"metallicFactor": 0, "roughnessFactor": 1}
        if texture is not None:
            surface["baseColorTexture"] = {"index": self._add_texture(texture, lossless or texture.shape[2] == 4)}
        return self._add("materials", {"name": name, "pbrMetallicRoughness": surface, "doubleSided": True})

    def add_mesh(
        self,
        attributes: Mapping[str, NDArray[Any]],
        faces: NDArray[np.integer] | None = None,
        *,
        name: str,
        material: int | None = None,
        mode: int = TRIANGLES,
        extensions: Mapping[str, Any] | None = None,
    ) -> int:
        """A mesh of one primitive.

        Args:
            attributes: arrays [N] or [N, k] by name, such as POSITION float32; whole numbers are normalised (0..1).
            faces: [F, 3], or indices of any shape; None: the vertices in their order.
            material: index of `add_material`.
            mode: `TRIANGLES`, `LINES` or `POINTS`.
            extensions: of the primitive; they are listed as used.

        Raises:
            ValueError: an array of another type, of a different length, not finite, or with rows of odd bytes.
        """
        lengths = {key: len(values) for key, values in attributes.items()}
        if len(set(lengths.values())) != 1 or not all(lengths.values()):
            raise ValueError(f"the attributes of a mesh need one length above 0, got {lengths}")
        primitive: dict[str, Any] = {
            "attributes": {
                key: self._add_accessor(values, _VERTICES, bounds=key == "POSITION")
                for key, values in attributes.items()
            },
            "mode": mode,
        }
        if faces is not None:
            small = next(iter(lengths.values())) < 1 << 16
            indices = np.ascontiguousarray(faces, np.uint16 if small else np.uint32).reshape(-1)
            primitive["indices"] = self._add_accessor(indices, _INDICES)
        if material is not None:
            primitive["material"] = material
        if extensions:
            primitive["extensions"] = dict(extensions)
            self._used |= set(extensions)
        return self._add("meshes", {"name": name, "primitives": [primitive]})

    def add_node(self, mesh: int, *, name: str, matrix: Any = None, extras: Mapping[str, Any] | None = None) -> int:
        """A node of the scene that holds a mesh.

        Args:
            matrix: [4, 4] from the mesh to the scene, for column vectors; None: no transform.
            extras: JSON-ready, for applications.
        """
        node: dict[str, Any] = {"name": name, "mesh": mesh}
        if matrix is not None:
            node["matrix"] = np.asarray(matrix, np.float64).T.reshape(-1).tolist()  # column by column
        if extras:
            node["extras"] = dict(extras)
        return self._add("nodes", node)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, completely or not at all.

        Raises:
            ExportError: more than 4 GB, the most that a .glb holds.
        """
        tree = dict(self._tree)
        tree |= {"scene": 0, "scenes": [{"nodes": list(range(len(self._tree.get("nodes", []))))}]}
        tree["buffers"] = [{"byteLength": self._size}]
        if self._used:
            tree["extensionsUsed"] = sorted(self._used)
        text = json.dumps(tree, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")
        text += b" " * (-len(text) % 4)
        length = _HEADER.size + 2 * _CHUNK.size + len(text) + self._size
        if length >= 1 << 32:
            raise ExportError(f"{length / 1e9:.1f} GB do not fit into a .glb file: give fewer --faces")
        with atomic_write(path) as file:
            file.write(_HEADER.pack(b"glTF", 2, length) + _CHUNK.pack(len(text), b"JSON") + text)
            file.write(_CHUNK.pack(self._size, b"BIN\0"))
            for part in self._parts:
                file.write(part)
                file.write(bytes(-part.nbytes % 4))

    def _add(self, kind: str, item: Any) -> int:
        items = self._tree.setdefault(kind, [])
        items.append(item)
        return len(items) - 1

    def _add_view(self, content: Any, target: int | None = None) -> int:
        part = memoryview(content).cast("B")
        view = {"buffer": 0, "byteOffset": self._size, "byteLength": part.nbytes}
        self._parts.append(part)
        self._size += part.nbytes + -part.nbytes % 4
        return self._add("bufferViews", view if target is None else {**view, "target": target})

    def _add_accessor(self, values: NDArray[Any], target: int, bounds: bool = False) -> int:
        values = np.ascontiguousarray(values)
        kind, shape = _COMPONENTS.get(values.dtype.name), _SHAPES.get(values.shape[1:])
        if kind is None or shape is None:
            raise ValueError(f"glTF has no {values.dtype} of shape {list(values.shape)}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ExportError("a mesh with coordinates that are not finite cannot be written")
        row = values.itemsize * int(np.prod(values.shape[1:]))
        if target == _VERTICES and row % 4:
            raise ValueError(f"a vertex has {row} bytes of {shape}, and needs a multiple of 4: add a component")
        accessor: dict[str, Any] = {"bufferView": self._add_view(values, target), "componentType": kind}
        accessor |= {"count": len(values), "type": shape}
        if target == _VERTICES and values.dtype.kind in "iu":
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        return self._add("accessors", accessor)

    def _add_texture(self, pixels: NDArray[np.uint8], lossless: bool) -> int:
        from PIL import Image

        content = io.BytesIO()
        kind = "png" if lossless else "jpeg"
        Image.fromarray(pixels).save(content, kind, **({} if lossless else {"quality": JPEG_QUALITY, "subsampling": 0}))
        image = self._add("images", {"bufferView": self._add_view(content.getvalue()), "mimeType": f"image/{kind}"})
        if "samplers" not in self._tree:
            sampler = {"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}
            self._add("samplers", sampler)
        return self._add("textures", {"sampler": 0, "source": image})


@dataclass(frozen=True)
class Glb:
    """A .glb file that was read.

    Args:
        tree: its JSON. binary: its one buffer.
    """

    tree: Mapping[str, Any]
    binary: bytes = field(repr=False)

    def accessor(self, index: int) -> NDArray[Any]:
        """[N] or [N, k] of an accessor, as it is stored; whole numbers are not normalised."""
        item = self.tree["accessors"][index]
        view = self.tree["bufferViews"][item["bufferView"]]
        dtype = np.dtype(next(name for name, code in _COMPONENTS.items() if code == item["componentType"]))
        shape = next(shape for shape, name in reversed(_SHAPES.items()) if name == item["type"] and shape != (1,))
        row = dtype.itemsize * int(np.prod(shape))
        stride, offset = view.get("byteStride", row), view.get("byteOffset", 0) + item.get("byteOffset", 0)
        count = item["count"]
        if count < 1 or offset + (count - 1) * stride + row > len(self.binary):
            raise ValueError("an accessor reaches beyond the data")
        strides = (stride, *np.empty(shape, dtype).strides)
        values: NDArray[Any] = np.ndarray((count, *shape), dtype, self.binary, offset, strides)
        return np.ascontiguousarray(values)

    def image(self, index: int) -> bytes:
        """The file inside an image, PNG or JPEG."""
        view = self.tree["bufferViews"][self.tree["images"][index]["bufferView"]]
        start = view.get("byteOffset", 0)
        return self.binary[start : start + view["byteLength"]]

    @property
    def primitives(self) -> Sequence[Mapping[str, Any]]:
        """Those of all meshes, in order."""
        return [primitive for mesh in self.tree.get("meshes", ()) for primitive in mesh["primitives"]]


def read_glb(path: str | os.PathLike[str]) -> Glb:
    """Read a .glb file whose data lie in it.

    Raises:
        OSError: it cannot be read.
        ValueError: not a .glb of version 2, or damaged.
    """
    content = Path(path).read_bytes()
    try:
        mark, version, length = _HEADER.unpack_from(content)
        size, kind = _CHUNK.unpack_from(content, _HEADER.size)
        if (mark, version, length, kind) != (b"glTF", 2, len(content), b"JSON"):
            raise ValueError("its header or length is wrong")
        start = _HEADER.size + _CHUNK.size
        tree = parse_json(content[start : start + size], "its description", advice="save it again")
        binary = b""
        if start + size < len(content):
            size_2, kind = _CHUNK.unpack_from(content, start + size)
            begin = start + size + _CHUNK.size
            binary = content[begin : begin + size_2]
    except (ValueError, struct.error) as error:
        raise ValueError(f"{path} is not a complete .glb file of version 2: {error}") from error
    return Glb(tree, binary)
