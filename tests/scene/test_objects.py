"""`run_scene` and `compose_scene`, on a stand-in and on the embedded classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import fast_sam3d
from fast_sam3d.errors import InputError
from fast_sam3d.scene import Scene, SceneObject, compose_scene, run_scene
from tests.beds import EMBEDDED, differing, tensors
from tests.minis import picture, random_mini
from tests.stand_in import StandIn


@pytest.fixture(scope="module")
def mini():
    return random_mini()


def three_masks(disc: np.ndarray) -> dict[str, np.ndarray]:
    return {"0": disc, "2": np.roll(disc, 5, axis=1), "11": np.roll(disc, -4, axis=0)}


def test_each_object_equals_its_single_run(mini):
    image, disc = picture()
    masks = three_masks(disc)
    alone = EMBEDDED.run(mini)
    handle = fast_sam3d.accelerate(mini)
    items = list(run_scene(mini, image, masks, seed=0, formats=["gaussian"], batch=1))
    again = list(run_scene(mini, image, {"11": masks["11"]}, seed=0, formats=["gaussian"]))
    handle.remove()
    assert [item.name for item in items] == ["0", "2", "11"]
    assert differing(tensors(items[2].result), tensors(again[0].result)) == set()
    assert differing(tensors(items[0].result), tensors(items[1].result)) != set()
    plain = next(run_scene(mini, image, masks, seed=0, formats=["gaussian"], batch=1))
    assert differing(tensors(plain.result), alone) == set()
    assert plain.report.network_calls > items[0].report.network_calls > 0


def test_run_scene_is_lazy(disc, picture):
    pipeline = StandIn()
    results = run_scene(pipeline, picture, [disc, disc], ss_steps=2, slat_steps=2, formats=["mesh"])
    assert not hasattr(pipeline, "arguments")
    assert next(results).name == "0"
    np.testing.assert_array_equal(pipeline.arguments["image"][..., 3], disc * 255)
    assert pipeline.arguments["seed"] == 42
    results.close()


def test_a_failed_object_has_its_error_and_the_others_follow(disc, picture, monkeypatch):
    def run(self, image=None, *args, **options):
        if image[0, 0, 3]:
            raise RuntimeError("no such luck")
        return plain(self, image, *args, **options)

    plain = StandIn.run
    monkeypatch.setattr(StandIn, "run", run)
    corner = disc.copy()
    corner[0, 0] = True
    masks = {"a": disc, "b": corner, "c": disc[:-1], "d": np.zeros_like(disc), "e": torch.from_numpy(disc)}
    items = list(run_scene(StandIn(), picture, masks, ss_steps=2, slat_steps=2, formats=["mesh"]))
    assert [item.error is None for item in items] == [True, False, False, False, True]
    assert "no such luck" in str(items[1].error)
    assert "mask c is [39, 48]" in str(items[2].error)
    assert "mask d is empty" in str(items[3].error)
    assert list(compose_scene(items).poses) == ["a", "e"]


def test_out_of_memory_decodes_fewer_formats(disc, picture, monkeypatch):
    asked = []

    def run(self, *args, **options):
        asked.append(options["decode_formats"])
        if "mesh" in options["decode_formats"]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args, **options)

    plain = StandIn.run
    monkeypatch.setattr(StandIn, "run", run)
    (item,) = run_scene(StandIn(), picture, [disc], ss_steps=2, slat_steps=2, formats=["mesh", "gaussian"])
    assert asked == [["mesh", "gaussian"], ["mesh", "gaussian"], ["gaussian"]]
    assert item.formats == ("gaussian",) and len(item.out_of_memory) == 2 and item.error is None
    (item,) = run_scene(StandIn(), picture, [disc], ss_steps=2, slat_steps=2, formats=["mesh"], smaller=[])
    assert "out of memory, also with fewer formats" in str(item.error)


@pytest.mark.parametrize(
    ("image", "masks", "word"),
    [
        (np.zeros((4, 4), np.uint8), [np.ones((4, 4))], "picture is uint8"),
        (np.zeros((4, 4, 3)), [np.ones((4, 4))], "picture is float64"),
        (np.zeros((4, 4, 3), np.uint8), [], "no masks"),
    ],
)
def test_invalid_arguments_are_refused_before_the_first_object(image, masks, word):
    with pytest.raises(InputError, match=word):
        run_scene(StandIn(), image, masks)


def test_composed_objects_are_at_their_poses(disc, picture):
    items = list(run_scene(StandIn(), picture, [disc, disc], ss_steps=2, slat_steps=2, formats=["mesh", "gaussian"]))
    for item, place in zip(items, (0.0, 3.0), strict=True):
        turn = torch.tensor([[0.8, 0.1 * place, 0.2, -0.3]])
        item.result.update(rotation=turn / turn.norm(), translation=torch.tensor([[place, 1.0, 4.0]]))
        item.result["scale"] = torch.full((1, 3), 0.5 + place)
    scene = compose_scene(items)
    assert isinstance(scene, Scene)
    row = 0
    for item in items:
        result = item.result
        w, x, y, z = result["rotation"][0].double().numpy()
        turn = Rotation.from_quat([x, y, z, w]).as_matrix()

        def placed(points, result=result, turn=turn):
            points = points.double().numpy() * result["scale"].double().numpy()
            return points @ turn + result["translation"].double().numpy()

        expected = placed(result["gaussian"][0].get_xyz)
        np.testing.assert_allclose(scene.gaussians.get_xyz[row : row + len(expected)], expected, atol=1e-4)
        row += len(expected)
        vertices, faces = scene.meshes[item.name]
        assert len(faces) == len(result["mesh"][0].faces)
        np.testing.assert_allclose(vertices, placed(result["mesh"][0].vertices), atol=1e-4)
    assert row == len(scene.gaussians.get_xyz)


def test_composing_no_objects():
    with pytest.raises(InputError, match="every mask failed"):
        compose_scene([SceneObject("0", error=ValueError("x"))])
