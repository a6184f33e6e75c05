"""Token aggregation on a pipeline of the embedded classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fast_sam3d
from fast_sam3d.decode.aggregate import MeshMethod
from fast_sam3d.decode.hooks import AggregateInDecoder, MeshWithoutGaussians
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.patch import seam_at
from fast_sam3d.report import observe
from fast_sam3d.sampling.exchange import Exchange
from tests.fakes import same_vars, snapshot
from tests.minis import picture, random_mini

ALWAYS_2 = {"mesh": {"factors": [2.0, 2.0, 2.0], "min_voxels": 0}}


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    return random_mini()


@pytest.fixture
def pipeline(shared: Pipeline) -> Iterator[Pipeline]:
    before = snapshot(shared)
    yield shared
    assert same_vars(before, snapshot(shared))


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return run(random_mini())


def run(pipeline: Pipeline, formats: tuple[str, ...] = ("mesh", "gaussian")) -> dict[str, Any]:
    return pipeline.run(*picture(), seed=0, decode_formats=formats)


def same_mesh(a: Any, b: Any) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("vertices", "faces", "vertex_attrs"))


def size(result: dict[str, Any]) -> torch.Tensor:
    return torch.stack([result["mesh"][0].vertices.amin(0), result["mesh"][0].vertices.amax(0)])


def test_only_the_mesh_changes_and_keeps_its_size(pipeline: Pipeline, plain: dict) -> None:
    with fast_sam3d.accelerated(pipeline, ALWAYS_2) as handle:
        result = run(pipeline)
    (record,) = handle.report.aggregations
    assert record.factor == 2 and record.voxels == len(plain["coords"]) and record.kept < record.voxels
    # A bin of two voxels on each side, and a voxel of tolerance for the random weights.
    assert (size(result) - size(plain)).abs().max() < 3 / pipeline.config.ss_decoder.resolution
    assert len(result["mesh"][0].faces) < len(plain["mesh"][0].faces)
    for name in ("coords", "rotation", "translation", "scale"):
        assert torch.equal(result[name], plain[name])
    assert torch.equal(result["gaussian"][0].get_xyz, plain["gaussian"][0].get_xyz)
    assert "voxels merged by 2" in handle.report.table()
    assert handle.report.to_dict()["aggregations"][0]["kept"] == record.kept


def test_features_are_pooled_with_the_configured_reduction() -> None:
    """The decoder returns its input."""
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 4, 4, 4]], dtype=torch.int32)
    feats = torch.tensor([[1.0], [3.0], [7.0]])

    class Latent:
        def __init__(self, feats: torch.Tensor, coords: torch.Tensor) -> None:
            self.feats, self.coords = feats, coords

    seen: list[Any] = []

    def decode(slat: Latent) -> list[Any]:
        seen.append(slat.feats.flatten().tolist())
        return [SimpleNamespace(vertices=torch.zeros(1, 3))]

    for pool in ("max", "mean"):
        method = MeshMethod(factors=(2.0, 2.0, 2.0), min_voxels=0, pool=pool)
        AggregateInDecoder(method)(Exchange(), decode, Latent(feats, coords))
    assert seen == [[3.0, 7.0], [2.0, 7.0]]


def test_observers_receive_records_in_any_order_of_installation(pipeline: Pipeline) -> None:
    with observe(pipeline) as outer, fast_sam3d.accelerated(pipeline, ALWAYS_2) as handle, observe(pipeline) as inner:
        run(pipeline)
    (record,) = handle.report.aggregations
    assert outer.aggregations == inner.aggregations == [record]


def test_the_state_of_a_run_is_cleared_after_it(pipeline: Pipeline) -> None:
    with fast_sam3d.accelerated(pipeline, ALWAYS_2):
        run(pipeline)
        (scene,) = {id(layer.scene): layer.scene for layer in seam_at(pipeline, "run").layers}.values()
        assert scene.picture is None and scene.occupancy is None


@pytest.mark.parametrize("where", ["decoder", "voxels"])
def test_factor_one_is_bit_identical(pipeline: Pipeline, plain: dict, where: str) -> None:
    with fast_sam3d.accelerated(pipeline, {"mesh": {"where": where, "factors": [1, 1, 1], "min_voxels": 0}}) as handle:
        result = run(pipeline)
    assert same_mesh(result["mesh"][0], plain["mesh"][0])
    assert torch.equal(result["gaussian"][0].get_xyz, plain["gaussian"][0].get_xyz)
    assert [record.factor for record in handle.report.aggregations] == [1]


@pytest.mark.parametrize("where", ["decoder", "voxels"])
def test_removal_is_exact(pipeline: Pipeline, plain: dict, where: str) -> None:
    with fast_sam3d.accelerated(pipeline, {"mesh": {**ALWAYS_2["mesh"], "where": where}}):
        assert not same_mesh(run(pipeline)["mesh"][0], plain["mesh"][0])
    assert same_mesh(run(pipeline)["mesh"][0], plain["mesh"][0])


def test_small_objects_are_not_merged(pipeline: Pipeline, plain: dict) -> None:
    many = len(plain["coords"]) + 1
    with fast_sam3d.accelerated(pipeline, {"mesh": {"factors": [2, 2, 2], "min_voxels": many}}):
        assert same_mesh(run(pipeline)["mesh"][0], plain["mesh"][0])


def test_merged_voxels_keep_the_posed_size(pipeline: Pipeline, plain: dict) -> None:
    with fast_sam3d.accelerated(pipeline, {"mesh": {**ALWAYS_2["mesh"], "where": "voxels"}}):
        result = run(pipeline)
    assert len(result["coords"]) < len(plain["coords"])
    assert torch.equal(result["coords_original"], plain["coords_original"])
    assert torch.equal(result["scale"], 2 * plain["scale"])
    resolution = pipeline.config.ss_decoder.resolution

    def posed_bounds(outcome: dict[str, Any]) -> torch.Tensor:
        corners = torch.stack([outcome["coords"][:, 1:].amin(0), outcome["coords"][:, 1:].amax(0) + 1])
        return (corners / resolution - 0.5) * outcome["scale"]

    bin_size = 2 / resolution * float(plain["scale"].max())
    assert (posed_bounds(result) - posed_bounds(plain)).abs().max() <= bin_size


@pytest.mark.parametrize("formats", [("mesh",), ("gaussian",), ()])
@pytest.mark.parametrize("where", ["decoder", "voxels"])
def test_any_subset_of_formats(pipeline: Pipeline, formats: tuple[str, ...], where: str) -> None:
    with fast_sam3d.accelerated(pipeline, {"mesh": {**ALWAYS_2["mesh"], "where": where}}) as handle:
        result = run(pipeline, formats)
    assert [name for name in ("mesh", "gaussian") if name in result] == [
        n for n in ("mesh", "gaussian") if n in formats
    ]
    assert len(handle.report.aggregations) == (where == "voxels" or "mesh" in formats)


def test_decoder_called_outside_a_run(pipeline: Pipeline) -> None:
    """The picture is unknown then; only the shape's ratio is used."""
    with torch.no_grad():
        slat = pipeline.sample_slat(
            pipeline.preprocess_image(pipeline.merge_image_and_mask(*picture()), pipeline.ss_preprocessor),
            torch.argwhere(torch.ones(1, 7, 7, 7)).int(),
        )
    with fast_sam3d.accelerated(pipeline, {"mesh": {"factors": [2, 2, 2], "min_voxels": 0}}) as handle:
        handle.report.clear()
        pipeline.decode_slat(slat, ["mesh"])
    (record,) = handle.report.aggregations
    assert record.picture is None and record.shape is not None
    assert (record.voxels, record.kept) == (343, 64)


def test_copy_of_an_accelerated_pipeline_has_its_own_state(pipeline: Pipeline, plain: dict) -> None:
    with fast_sam3d.accelerated(pipeline, ALWAYS_2) as handle:
        twin = copy.deepcopy(pipeline)
        run(twin)
        assert handle.report.aggregations == []
        fast_sam3d.restore(twin)
        assert same_mesh(run(twin)["mesh"][0], plain["mesh"][0])


def test_mutable_meshes_are_modified_in_place() -> None:
    """The stock decoder's mesh is such an object, with further attributes."""

    class Sparse:
        def __init__(self, feats: torch.Tensor, coords: torch.Tensor) -> None:
            self.feats, self.coords = feats, coords

    mesh = SimpleNamespace(vertices=torch.tensor([[-0.5, 0.0, 0.25]]), res=64)
    slat = Sparse(torch.ones(64, 2), torch.argwhere(torch.ones(1, 4, 4, 4)).int())
    around = AggregateInDecoder(MeshMethod(factors=(2.0, 2.0, 2.0), min_voxels=0))
    seen: list[int] = []

    def decoder(x: Sparse) -> list[Any]:
        seen.append(len(x.coords))
        return [mesh]

    scene = Exchange(occupancy=torch.ones(1, 8, 8, 8))
    (got,) = around(scene, decoder, slat)
    assert got is mesh and got.res == 64 and seen == [8]
    assert got.vertices.tolist() == [[-0.5, 0.5, 1.0]]


def test_a_mesh_can_be_decoded_without_gaussians() -> None:
    """Same as the stock `postprocess_slat_output`."""

    def postprocess(outputs: dict[str, Any], bake: bool) -> dict[str, Any]:
        if "mesh" in outputs:
            outputs["glb"] = (outputs["gaussian"][0], outputs["mesh"][0], bake)
        if "gaussian" in outputs:
            outputs["gs"] = outputs["gaussian"][0]
        return outputs

    def finished(**outputs: Any) -> dict[str, Any]:
        return MeshWithoutGaussians()(Exchange(), postprocess, outputs, bake=True)

    assert finished(mesh=["m"]) == {"mesh": ["m"], "glb": (None, "m", True)}
    assert finished(mesh=["m"], gaussian=["g"]) == {
        "mesh": ["m"], "gaussian": ["g"], "glb": ("g", "m", True), "gs": "g"
    }  # fmt: skip
    assert finished(gaussian=["g"]) == {"gaussian": ["g"], "gs": "g"}
