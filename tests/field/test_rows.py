"""Each input or command that failed in the field has a test of its kind: this table says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = {
    "pictures that are links": "field/test_files.py::test_results_are_named_after_the_path_that_is_given",
    "results of another picture": "field/test_files.py::test_replacing_the_results_of_another_picture_is_logged",
    "a palette that begins with white": "field/test_masks.py::test_a_mask_is_read_right",
    "zeros where a depth camera measured nothing": "inputs/test_pointmaps.py::test_points_without_a_depth_are_unknown",
    "a pointmap in OpenCV's axes": "inputs/test_axes.py::test_every_frame_is_converted",
    "axes that cannot be recognised": "inputs/test_axes.py::test_unknown_frames_are_refused_with_the_option",
    "a picture turned by its EXIF": "field/test_files.py::test_a_turned_picture_with_an_upright_mask_is_read_upright",
    "0.jpg beside 1.png": "field/test_files.py::test_a_folder_with_masks_of_several_formats_counts_all",
    "faint alpha of a matting tool": "field/test_masks.py::test_what_may_mean_something_else_has_a_notice",
    "a GLB without a material": "outputs/test_meshes.py::test_glb_is_y_up_with_outward_normals_and_linear_colours",
    "gaussians upside down in viewers": "outputs/test_gaussians.py::test_ply_is_a_standard_3dgs_file",
    "two threads, one accelerated pipeline": "test_serial.py::test_two_threads_get_what_they_get_alone",
    "the report of a scene": "scene/test_batch.py::test_reports_count_a_batch_once",
    "calls of the README": "test_docs.py::test_python_snippets_run",
    "a mesh without gaussians": "run/test_object.py::test_a_mesh_needs_no_gaussians",
    "scene of 50 objects": "scene/test_pictures.py::test_memory_of_composing_does_not_grow_with_the_objects",
    "many faces, no texture": "texture/test_bake.py::test_a_light_mesh_shows_the_colours_of_the_detailed_one",
    "other files than GLB and PLY": "run/test_export.py::test_the_files_that_are_asked_for_are_written",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_kind_has_a_test(row):
    file, name = ROWS[row].split("::")
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)
