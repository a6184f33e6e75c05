"""Sources of objects."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.bench.objects import Folder, HeldOut
from fast_sam3d.errors import InputError


def test_held_out_objects_have_ground_truth():
    objects = HeldOut(2)
    first = objects.load(objects.names()[0])
    assert objects.names() == ["10100000", "10100001"]
    assert first.given.image.shape == (*first.given.mask.shape, 3) == first.given.pointmap.shape
    assert len(first.truth.mesh.faces) and first.truth.matrix is not None and len(first.truth.voxels)


def test_the_masks_of_one_picture(object_folder):
    objects = Folder(object_folder)
    assert objects.names() == [".#0", ".#2", ".#11"] and not objects.truth
    assert Folder(object_folder, 2).names() == [".#0", ".#2"]
    given = pickle.loads(pickle.dumps(objects)).load(".#2")
    assert given.truth is None and given.given.mask.sum() > given.given.mask.size / 2


def test_a_folder_of_pictures(object_folder, tmp_path):
    shutil.copytree(object_folder, tmp_path / "many" / "b #2")
    shutil.copytree(object_folder, tmp_path / "many" / "a")
    objects = Folder(tmp_path / "many")
    assert objects.names() == ["a#0", "a#2", "a#11", "b #2#0", "b #2#2", "b #2#11"]
    assert np.array_equal(objects.load("b #2#0").given.mask, objects.load("a#0").given.mask)


def test_pictures_with_transparent_background(picture, disc, tmp_path):
    rgba = np.dstack([picture, disc.astype(np.uint8) * 255])
    Image.fromarray(rgba).save(tmp_path / "cup.png")
    (tmp_path / "notes.txt").write_text("")
    assert Folder(tmp_path).names() == ["cup.png"]
    assert np.array_equal(Folder(tmp_path).load("cup.png").given.mask, disc)


def test_identity_changes_with_the_pictures(object_folder):
    before = Folder(object_folder).identity()
    assert before == Folder(object_folder, 1).identity()
    shutil.copy(object_folder / "0.png", object_folder / "2.png")
    assert Folder(object_folder).identity() != before


def test_a_folder_without_pictures_is_refused(tmp_path):
    for path, says in ((tmp_path, "holds no picture"), (tmp_path / "nowhere", "not a folder")):
        with pytest.raises(InputError, match=says):
            Folder(path).names()
