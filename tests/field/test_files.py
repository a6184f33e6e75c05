"""Pictures and folders as people have them: turned by a camera, linked, hidden, with masks of several formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.cli import main
from fast_sam3d.config.compose import load
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import load_object
from fast_sam3d.inputs.pictures import read_picture
from fast_sam3d.scene.inputs import load_scene, scene_folders
from fast_sam3d.scene.plan import plan_scene
from tests.field.made import CORNERS, LABELS, MASK, OTHER, PICTURE, WHITE, exif, labelme, runs, save, shape, stored

TURNS = range(2, 9)
HALF = (2, 3, 4)
"""Turns that keep a picture's size."""


def camera(folder: Path, pixels: np.ndarray, orientation: int) -> None:
    """A picture as a camera stores it, to be turned for display."""
    save(stored(pixels, orientation), folder / "image.jpg", exif=exif(orientation), quality=95)


def near(pixels: np.ndarray, wanted: np.ndarray) -> bool:
    return pixels.shape == wanted.shape and float(np.abs(pixels.astype(float) - wanted).mean()) < 8


# ------------------------------------------------------------------------------------------------------------- turned


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_picture_with_an_upright_mask_is_read_upright(tmp_path, turn):
    camera(tmp_path, PICTURE, turn)
    save(WHITE, tmp_path / "0.png")
    given = load_object(tmp_path)
    assert near(given.image, PICTURE)
    np.testing.assert_array_equal(given.mask, MASK)
    assert [("read upright" in notice) for notice in given.notices] == ([True] if turn in HALF else [])


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_picture_with_a_mask_of_its_stored_pixels_is_read_as_stored(tmp_path, turn):
    camera(tmp_path, PICTURE, turn)
    save(stored(WHITE, turn), tmp_path / "0.png")
    given = load_object(tmp_path)
    assert near(given.image, stored(PICTURE, turn))
    np.testing.assert_array_equal(given.mask, stored(MASK, turn))


@pytest.mark.parametrize("turn", TURNS)
def test_a_mask_that_is_turned_itself_fits_its_picture(tmp_path, turn):
    save(PICTURE, tmp_path / "image.png")
    save(stored(WHITE, turn), tmp_path / "0.jpg", exif=exif(turn), quality=90)
    np.testing.assert_array_equal(load_object(tmp_path).mask, MASK)
    assert (load_scene(tmp_path).mask(0) == MASK).all()


@pytest.mark.parametrize("turn", TURNS)
def test_picture_and_mask_that_are_turned_alike_stay_as_they_are(tmp_path, turn):
    camera(tmp_path, PICTURE, turn)
    save(stored(WHITE, turn), tmp_path / "0.png", exif=exif(turn))
    given = load_object(tmp_path)
    assert near(given.image, stored(PICTURE, turn))
    np.testing.assert_array_equal(given.mask, stored(MASK, turn))


@pytest.mark.parametrize("turn", TURNS)
def test_a_scene_is_turned_as_its_masks_are(tmp_path, turn):
    camera(tmp_path, PICTURE, turn)
    for number, mask in enumerate((MASK, OTHER)):
        save(mask.astype(np.uint8) * 255, tmp_path / f"{number}.png")
    scene = load_scene(tmp_path)
    assert near(scene.image, PICTURE)
    np.testing.assert_array_equal(scene.mask(0), MASK)


def test_square_pictures_are_turned_by_what_their_masks_show(tmp_path):
    for turn in TURNS:
        camera(tmp_path, PICTURE[:60, :60], turn)
        save(WHITE[:60, :60], tmp_path / "0.png")
        assert near(load_object(tmp_path).image, PICTURE[:60, :60]), turn


def test_a_turn_that_cannot_be_seen_has_a_notice(tmp_path):
    camera(tmp_path, np.full_like(PICTURE, 90), 3)
    save(WHITE, tmp_path / "0.png")
    (notice,) = load_object(tmp_path).notices
    assert "read as stored" in notice and "save the picture upright" in notice


@pytest.mark.parametrize("tag", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_none(tmp_path, tag):
    save(PICTURE, tmp_path / "image.jpg", exif=exif(tag))
    assert read_picture(tmp_path / "image.jpg").orientation == 1


def test_polygons_are_drawn_on_the_upright_picture(tmp_path):
    camera(tmp_path, PICTURE, 6)
    (tmp_path / "image.json").write_text(labelme(shape("cup", CORNERS)))
    given = load_object(tmp_path, mask_path=tmp_path / "image.json")
    assert near(given.image, PICTURE)
    np.testing.assert_array_equal(given.mask, MASK)


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Two folders whose pictures are links into a store, as a cache of downloads lays them out."""
    (tmp_path / "blobs").mkdir()
    for name, blob, pixels in (("cat", "aaa", PICTURE), ("dog", "bbb", PICTURE[:, ::-1])):
        (tmp_path / name).mkdir()
        save(pixels, tmp_path / "blobs" / blob, format="PNG")
        (tmp_path / name / "image.png").symlink_to(Path("..") / "blobs" / blob)
        save(WHITE, tmp_path / name / "0.png")
    return tmp_path


def test_results_are_named_after_the_path_that_is_given(linked, monkeypatch):
    (linked / "pet").symlink_to(linked / "cat")
    assert [load_object(linked / name).name for name in ("cat", "dog", "pet")] == ["cat_0", "dog_0", "pet_0"]
    assert [load_object(linked / name / "image.png").name for name in ("cat", "dog")] == ["cat_0", "dog_0"]
    assert [load_scene(linked / name).name for name in ("cat", "dog", "pet")] == ["cat", "dog", "pet"]
    monkeypatch.chdir(linked / "pet")
    assert Path.cwd().name == "cat" and load_object(".").name == "cat_0"


def test_replacing_the_results_of_another_picture_is_logged(linked, monkeypatch, caplog):
    """Up to the moment before the run."""
    from fast_sam3d.cli import object_input
    from fast_sam3d.run.results import REPORT, RESULT_NAMES

    config = load([f"input.image_path={linked / 'cat'}", f"output.dir={linked / 'out'}", "pipeline.tag=mini"])
    with object_input.prepare(config, False, REPORT, RESULT_NAMES) as request:
        assert request is not None
    request.target.mkdir(parents=True)
    report = {"identity": request.identity, "files": {}, "input": {"image": "cat/image.png", "mask": "cat/0.png"}}
    (request.target / REPORT).write_text(json.dumps(report))
    with object_input.prepare(config, True, REPORT, RESULT_NAMES) as again:
        assert again is not None
    assert "replaced" not in caplog.text
    (linked / "cat" / "image.png").unlink()
    (linked / "cat" / "image.png").symlink_to(linked / "blobs" / "bbb")
    with object_input.prepare(config, True, REPORT, RESULT_NAMES) as again:
        assert again is not None
    assert "results of another input, cat/image.png with cat/0.png, which are replaced" in caplog.text


def test_hidden_folders_are_no_scenes_and_named(linked, caplog):
    for name in (".ipynb_checkpoints", "bird"):
        (linked / name).mkdir()
        save(PICTURE, linked / name / "image.png")
    assert [folder.name for folder in scene_folders(linked)] == ["bird", "cat", "dog"]
    assert ".ipynb_checkpoints" in caplog.text
    assert scene_folders(linked / ".ipynb_checkpoints") == [linked / ".ipynb_checkpoints"]


def test_a_folder_with_masks_of_several_formats_counts_all(tmp_path, caplog):
    save(PICTURE, tmp_path / "image.png")
    save(WHITE, tmp_path / "0.jpg", quality=90)
    save(OTHER.astype(np.uint8) * 255, tmp_path / "1.png")
    save(WHITE, tmp_path / "1.jpg")
    np.save(tmp_path / "2.npy", OTHER)
    save(PICTURE, tmp_path / "3.jpg", quality=95)
    scene = load_scene(tmp_path)
    assert [mask.name for mask in scene.masks.values()] == ["0.jpg", "1.png", "2.npy", "3.jpg"]
    assert [path.name for path in scene.passed_over] == ["1.jpg"] and "1.jpg is left out" in caplog.text
    np.testing.assert_array_equal(scene.mask(0), MASK)
    np.testing.assert_array_equal(scene.mask(2), OTHER)
    plan = plan_scene(scene, load(), {}, tmp_path / "out", overwrite=False)
    assert [task.number for task in plan.tasks] == [0, 1]
    assert [(number, outcome.status) for number, outcome in plan.known.items()] == [(2, "duplicate"), (3, "failed")]
    assert "several colours" in plan.known[3].message


@pytest.mark.parametrize("source", ["labels.png", "labels.npy", "image.json", "asked"])
def test_the_objects_of_one_file_are_those_of_a_scene(tmp_path, source):
    save(PICTURE, tmp_path / "image.png")
    asked = InputConfig()
    shapes = [shape("cup", CORNERS), shape("tray", [(60, 50), (75, 60)], "rectangle")]
    if source == "labels.png":
        save(LABELS, tmp_path / source)
    elif source == "labels.npy":
        np.save(tmp_path / source, LABELS)
    elif source == "image.json":
        (tmp_path / source).write_text(labelme(*shapes))
    else:
        save(WHITE, tmp_path / "0.png")
        (tmp_path / "all.json").write_text(labelme(*shapes))
        asked = InputConfig(mask_path=tmp_path / "all.json")
    scene = load_scene(tmp_path, asked)
    numbers = {"labels.png": [2, 5], "labels.npy": [2, 5]}.get(source, [0, 1])
    assert list(scene.masks) == numbers
    for number, wanted in zip(numbers, (MASK, OTHER), strict=True):
        np.testing.assert_array_equal(scene.object(number).mask, wanted)
    names = [mask.name for mask in scene.masks.values()]
    file = "all.json" if source == "asked" else source
    assert names == ([f"{file}:cup_0", f"{file}:tray_1"] if file.endswith("json") else [f"{file}:2", f"{file}:5"])


def test_each_mask_of_a_scene_has_its_own_notices(tmp_path):
    save(PICTURE, tmp_path / "image.png")
    save(WHITE, tmp_path / "0.png")
    save(255 - WHITE, tmp_path / "1.png")
    scene = load_scene(tmp_path)
    assert scene.object(0).notices == ()
    assert "inverted" in scene.object(1).notices[0]


def test_a_picture_of_videos_limited_range_has_a_notice(tmp_path):
    full = np.tile(np.linspace(0, 255, 80).round(), (64, 1))[..., None].repeat(3, -1)
    save((16 + full * 219 / 255).round().astype(np.uint8), tmp_path / "image.png")
    save(WHITE, tmp_path / "0.png")
    assert "limited range of video" in load_object(tmp_path).notices[0]
    save(full.astype(np.uint8), tmp_path / "image.png")
    assert not load_object(tmp_path).notices


def test_a_pointmap_of_a_picture_that_is_read_upright_has_a_notice(tmp_path):
    camera(tmp_path, PICTURE, 3)
    save(WHITE, tmp_path / "0.png")
    rows, columns = np.mgrid[:64, :80]
    points = np.stack([(40 - columns) / 80, (32 - rows) / 80, np.ones((64, 80))], -1)
    np.save(tmp_path / "pointmap.npy", points.astype(np.float32))
    assert any("pointmap.npy" in notice for notice in load_object(tmp_path).notices)
    assert any("pointmap.npy" in notice for notice in load_scene(tmp_path).notices)


def test_a_very_dark_picture_has_a_notice(tmp_path):
    save((PICTURE[..., 0].astype(np.uint16) * 16), tmp_path / "image.png")  # 12 of 16 bits
    save(WHITE, tmp_path / "0.png")
    assert "has no value above" in load_object(tmp_path).notices[0]


def test_annotations_are_chosen_by_the_path_of_the_picture(tmp_path):
    images, annotations = [], []
    for number, (folder, mask) in enumerate((("a", MASK), ("b", OTHER))):
        (tmp_path / folder).mkdir()
        save(PICTURE, tmp_path / folder / "image.png")
        images.append({"id": number, "file_name": f"{folder}/image.png", "height": 64, "width": 80})
        runs_of = {"size": [64, 80], "counts": runs(mask)}
        annotations.append({"id": number, "image_id": number, "category_id": 0, "segmentation": runs_of})
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    for folder, mask in (("a", MASK), ("b", OTHER)):
        np.testing.assert_array_equal(load_object(tmp_path / folder, mask_path=file).mask, mask)
    save(PICTURE, tmp_path / "image.png")
    with pytest.raises(InputError, match="2 pictures named image"):
        load_object(tmp_path, mask_path=file)


def test_annotations_of_another_picture_have_a_notice(tmp_path):
    save(PICTURE, tmp_path / "dog.png")
    content = json.loads(labelme(shape("cup", CORNERS))) | {"imagePath": "..\\pets\\cat.jpg"}
    (tmp_path / "cat.json").write_text(json.dumps(content))
    (notice,) = load_object(tmp_path / "dog.png", mask_path=tmp_path / "cat.json").notices
    assert notice == "cat.json has annotations of cat, which are used for dog.png"


# -------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mask_threshold", "1.5"], "mask_threshold"),
        (["--mask_label", "3"], "--mask_path"),
        (["--mask_path", "nowhere.json"], "cannot be read"),
        (["--mask_path", "nowhere.npy"], "no file at"),
    ],
)
def test_bad_flags_are_one_sentence(linked, capsys, flags, words):
    code = main(
        ["infer", "--image_path", str(linked / "cat"), "--output_dir", str(linked / "out"), "--tag", "mini", *flags]
    )
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (linked / "out").exists()


def test_one_file_of_masks_is_not_for_several_scenes(linked, capsys):
    flags = ["--mask_path", str(linked / "cat" / "0.png"), "--output_dir", str(linked / "out")]
    assert main(["scene", "--image_path", str(linked), *flags]) == 2
    assert "labels.png beside its picture" in capsys.readouterr().err
