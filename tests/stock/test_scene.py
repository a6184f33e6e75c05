"""Composition against the unmodified code of the stock notebook; encoder passes shared within a scene."""

from __future__ import annotations

import ast
import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fast_sam3d
from fast_sam3d.scene import SceneObject, compose_scene
from tests.beds import differing, tensors
from tests.exact.test_passes import only
from tests.minis import picture
from tests.stock.build import STOCK
from tests.stock.stand_ins import Transform3d, importable, on_cpu, quaternion_to_matrix
from tests.stock.test_passes import Depth, DepthNetwork


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return STOCK.build()


def stock_make_scene() -> Any:
    """`make_scene` of notebook/inference.py, without the rest of the module."""
    spec = importlib.util.find_spec("sam3d_objects")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parents[1] / "notebook" / "inference.py"
    if not file.is_file():
        pytest.skip("the clone has no notebook/inference.py")
    tree = ast.parse(file.read_text())
    tree.body = [part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == "make_scene"]

    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        aw, ax, ay, az = a.unbind(-1)
        bw, bx, by, bz = b.unbind(-1)
        return torch.stack(
            [
                aw * bw - ax * bx - ay * by - az * bz,
                aw * bx + ax * bw + ay * bz - az * by,
                aw * by - ax * bz + ay * bw + az * bx,
                aw * bz + ax * by - ay * bx + az * bw,
            ],
            -1,
        )

    class SceneVisualizer:
        """utils/visualization/scene_visualizer.py, `object_pointcloud`: scale, rotate, translate."""

        @staticmethod
        def object_pointcloud(points_local: Any, quat_l2c: Any, trans_l2c: Any, scale_l2c: Any) -> Any:
            moved = Transform3d().scale(scale_l2c).rotate(quaternion_to_matrix(quat_l2c)).translate(trans_l2c)
            return SimpleNamespace(points_list=lambda: [moved.transform_points(points_local[0])])

    names = {
        "torch": torch,
        "deepcopy": copy.deepcopy,
        "SceneVisualizer": SceneVisualizer,
        "quaternion_multiply": multiply,
        "quaternion_invert": lambda q: q * torch.tensor([1.0, -1, -1, -1]),
    }
    exec(compile(tree, str(file), "exec"), names)
    return names["make_scene"]


def test_gaussians_are_placed_as_the_stock_notebook_places_them(pipeline):
    results = [STOCK.raw(pipeline, seed, decode_formats=["gaussian"]) for seed in (0, 1)]
    for result, size in zip(results, (0.6, 1.7), strict=True):
        result["scale"] = torch.full((1, 3), size)
    with importable(), on_cpu():
        theirs = stock_make_scene()(*results)
    ours = compose_scene([SceneObject(str(i), result) for i, result in enumerate(results)]).gaussians
    assert ours is not None and len(ours.get_xyz) == len(theirs.get_xyz)
    np.testing.assert_allclose(ours.get_xyz, theirs.get_xyz.numpy(), atol=1e-4)
    turned = torch.nn.functional.normalize(theirs.get_rotation, dim=-1).numpy()
    np.testing.assert_allclose(np.abs((ours.get_rotation * turned).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(ours.get_opacity, theirs.get_opacity.numpy(), atol=1e-5)
    # Where their sizes are not raised to their least kernel, which they merge to one for all objects.
    sizes, place = [], 0
    for result in results:
        gaussians, scale = result["gaussian"][0], float(result["scale"][0, 0])
        count = len(gaussians.get_xyz)
        np.testing.assert_allclose(
            ours.get_scaling[place : place + count], gaussians.get_scaling.numpy() * scale, rtol=1e-5
        )
        sizes.append(count)
        place += count
    assert place == len(ours.get_scaling)


def test_depth_and_whole_image_are_encoded_once_per_scene(pipeline):
    pipe = copy.deepcopy(pipeline)
    pipe.depth_model = Depth()
    image, disc = picture()
    masks = [disc, np.roll(disc, 9, axis=1), np.roll(disc, -7, axis=0)]
    DepthNetwork.calls = 0
    handle = fast_sam3d.accelerate(pipe, only("images", "embedders"))
    with STOCK.running():
        shared = list(fast_sam3d.run_scene(pipe, image, masks, seed=3, formats=["gaussian"]))
    assert DepthNetwork.calls == 1
    handle.remove()
    with STOCK.running():
        alone = list(fast_sam3d.run_scene(pipe, image, masks, seed=3, formats=["gaussian"]))
    assert DepthNetwork.calls == 1 + len(masks)
    for ours, theirs in zip(shared, alone, strict=True):
        assert differing(tensors(ours.result), tensors(theirs.result)) == set()
