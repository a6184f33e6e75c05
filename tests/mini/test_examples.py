"""Contents of the bundled examples, and rendering them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.cli import main
from fast_sam3d.geometry.poses import quaternion_matrix
from fast_sam3d.inputs.load import list_masks, load_object
from fast_sam3d.mini.data import examples, views
from fast_sam3d.mini.data.families import sample_object
from fast_sam3d.mini.data.pictures import image_grid, take
from fast_sam3d.mini.data.shards import HELD_OUT_SEED
from fast_sam3d.mini.data.still_lifes import EXAMPLES, FIRST_SEED, Example, lowest, place, render

BUNDLED = Path(__file__).parents[2] / "examples"
BY_NAME = {example.name: example for example in EXAMPLES}
each = pytest.mark.parametrize("example", EXAMPLES, ids=list(BY_NAME))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_examples_cover_six_families_and_a_scene_of_five() -> None:
    single = [e for e in EXAMPLES if len(e.masks) == 1]
    families = {sample_object(FIRST_SEED + e.objects[e.masks[0]].seed).family for e in single}
    assert len(families) >= 6
    assert {"ladder", "frame"} <= families  # thin, and with holes
    assert len(BY_NAME["scene"].masks) == 5


@each
def test_seeds_are_held_out_from_training_and_evaluation(example: Example) -> None:
    assert all(FIRST_SEED + o.seed >= HELD_OUT_SEED + 500_000 for o in example.objects)


@each
def test_objects_touch_the_rendered_floor(example: Example) -> None:
    placed = place(example)
    up = placed[0].camera.R[2]
    # Height above the camera of each lowest point, which for the first one is where `views.render` puts the floor.
    feet = [float((p.camera.t + lowest(p.sampled.solid) * p.camera.size * p.camera.R[2]) @ up) for p in placed]
    assert feet == pytest.approx([feet[0]] * len(feet), abs=1e-5)
    assert all(np.allclose(p.camera.R[2], up, atol=1e-6) for p in placed)
    if len(placed) > 1:
        assert lowest(placed[0].sampled.solid) == pytest.approx(-0.47, abs=1e-4)


@each
def test_yaw_is_within_the_distinguishable_range(example: Example) -> None:
    for standing, placed in zip(example.objects, place(example), strict=True):
        n = placed.sampled.symmetry
        assert abs(standing.yaw) <= (180 / n if n else 0)


@each
def test_bundled_folders_are_readable_inputs(example: Example) -> None:
    folder = BUNDLED / example.name
    assert list(list_masks(folder)) == list(range(len(example.masks)))
    for number in range(len(example.masks)):
        given = load_object(folder, number)
        assert given.image.shape == (example.height, example.width, 3)
        assert given.pointmap is not None
        assert np.isfinite(given.pointmap[given.mask]).all()
        # At least as many pixels in the model's crop as its training pictures have.
        assert given.mask.sum() >= 1000


def surface_error(folder: Path, number: int) -> np.ndarray:
    """Distance from the true surface of the visible points, in canonical units, by the pose in truth.json."""
    truth = json.loads((folder / "truth.json").read_text())["objects"][f"{number}.png"]
    given = load_object(folder, number)
    assert given.pointmap is not None
    points = given.pointmap[given.mask].astype(np.float64)
    R = quaternion_matrix(truth["rotation"])
    canonical = (points - truth["translation"]) @ R.T / truth["scale"]
    solid = sample_object(truth["seed"]).solid
    assert truth["family"] == sample_object(truth["seed"]).family
    return np.abs(solid.distance(canonical.astype(np.float32)))


@each
def test_bundled_pointmap_mask_and_pose_agree(example: Example) -> None:
    for number in range(len(example.masks)):
        error = surface_error(BUNDLED / example.name, number)
        # What the tracer calls a hit, plus half precision: 2 mm in z at 2 to 4 m.
        assert np.quantile(error, 0.999) < 5e-3


def test_written_pose_matches_the_written_points(tmp_path: Path) -> None:
    example = BY_NAME["occluded_car"]
    examples.write(tmp_path, example, render(example, 128))
    assert np.quantile(surface_error(tmp_path, 0), 0.99) < 5e-3


def test_occluded_car_is_occluded_and_objects_of_the_scene_partly() -> None:
    def shares(name: str) -> list[float]:
        objects = json.loads((BUNDLED / name / "truth.json").read_text())["objects"]
        return [o["visible_share"] for o in objects.values()]

    assert 0.4 < shares("occluded_car")[0] < 0.8
    assert sum(share < 0.95 for share in shares("scene")) >= 2
    assert shares("chair") == [1.0]


@each
def test_bundled_example_is_small(example: Example) -> None:
    assert sum(map(len, contents(BUNDLED / example.name).values())) < 900_000


def test_command_recreates_an_example_bit_by_bit(tmp_path: Path) -> None:
    for run in ("first", "second"):
        assert main(["examples", "--output_dir", str(tmp_path / run), "--only", "mug", "--longest", "96"]) == 0
    first = contents(tmp_path / "first")
    assert first == contents(tmp_path / "second")
    assert set(first) == {f"mug/{name}" for name in ("image.png", "0.png", "pointmap.npz", "truth.json")}


def test_bundled_example_equals_its_rendering() -> None:
    # Not bit by bit: another processor's sines and another zlib may differ.
    example = BY_NAME["teapot"]
    photo = render(example)
    given = load_object(BUNDLED / example.name)
    assert np.abs(given.image.astype(int) - photo.rgb).mean() < 0.05
    assert (given.mask != photo.mask(example.masks[0])).mean() < 1e-4
    assert given.pointmap is not None
    both = np.isfinite(given.pointmap[..., 2]) & np.isfinite(photo.points[..., 2])
    assert np.abs(given.pointmap - photo.points)[both].max() < 2e-3


def test_colours_are_antialiased_and_labels_exact() -> None:
    example = BY_NAME["mug"]
    photo = render(example, 64)
    placed = place(example)[0]
    hit, where = views.trace(placed.sampled.solid, placed.camera, image_grid(64, 64))
    assert np.array_equal(photo.mask().ravel(), hit)
    camera_points = (where * placed.camera.size) @ placed.camera.R + placed.camera.t
    assert np.allclose(photo.points.reshape(-1, 3)[hit], camera_points[hit], atol=1e-6)
    high, low = (np.array(colour, np.float32) / 255 for colour in (example.high, example.low))
    double = take(place(example), views.Backdrop(high, low, True), None, 128, 128).rgb
    mean = double.reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(photo.rgb - mean).max() <= 0.5
    assert np.abs(double[::2, ::2] - mean).max() > 20  # there are outlines to smooth


def test_mask_covers_the_object_only() -> None:
    rgb = np.full((2, 3, 3), 9, np.uint8)
    mask = np.array([[True, False, False], [False, True, False]])
    out = examples.cutout(rgb, mask)
    assert out.dtype == np.uint8 and out.shape == (2, 3, 4)
    assert out[0, 0].tolist() == [9, 9, 9, 255] and out[0, 1].tolist() == [0, 0, 0, 0]


def test_photograph_is_bundled_with_the_mask_of_the_cup() -> None:
    given = load_object(BUNDLED / "photo")
    assert given.image.shape == (400, 600, 3)
    assert given.pointmap is None
    assert np.array_equal(given.mask, examples.cup_mask(400, 600))
    assert given.mask[150, 280] and given.mask[290, 215]  # coffee, handle
    assert not given.mask[350, 300] and not given.mask[280, 365]  # saucer, spoon
    rgb = examples.photograph()
    if rgb is None:
        pytest.skip("this scikit-image has no coffee.png")
    assert np.array_equal(given.image, rgb)


def test_photograph_is_skipped_if_scikit_image_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(examples, "photograph", lambda: None)
    assert main(["examples", "--output_dir", str(tmp_path), "--only", "photo"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "chiar"], "did you mean 'chair'"),
        (["--longest", "7"], "32 to 4096"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["examples", "--output_dir", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_with_other_files_is_not_modified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mug").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "mug" / "mine.png")
    assert main(["examples", "--output_dir", str(tmp_path), "--only", "mug", "--longest", "32"]) == 2
    assert "mine.png" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mug").iterdir()] == ["mine.png"]
