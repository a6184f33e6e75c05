"""The files of a result that are asked for."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import trimesh

from fast_sam3d.config.compose import FILES, FORMATS, load
from fast_sam3d.errors import ConfigError, ExportError
from fast_sam3d.outputs import packages
from fast_sam3d.run.export import EXPORT_NAMES, check_exports, write_exports
from tests.outputs.test_gaussians import gaussians


def made(*formats: str) -> Any:
    """A run whose result holds a tetrahedron and five gaussians."""
    mesh = SimpleNamespace(
        vertices=[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]], faces=[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
    )
    result = {"mesh": [mesh], "gaussian": [gaussians()], "gaussian_4": [gaussians(4)]}
    report = SimpleNamespace(stage=lambda name: nullcontext())
    return SimpleNamespace(formats=formats, result={name: result[name] for name in formats}, report=report)


def output(formats: str, *more: str) -> Any:
    return load([f"output.formats={formats}", *more]).output


@pytest.mark.parametrize(
    ("asked", "decoded", "files"),
    [
        ("null", ("mesh", "gaussian"), ["gaussians.ply", "mesh.glb"]),
        ("null", ("gaussian_4",), ["gaussians_4.ply"]),
        ("[spz,mesh]", ("mesh", "gaussian"), ["gaussians.spz", "mesh.glb"]),
        ("[stl,obj,glb-splat]", ("mesh", "gaussian"), ["gaussians.glb", "mesh.obj", "mesh.stl"]),
        ("[ply,sog,glb]", ("mesh", "gaussian"), ["gaussians.ply", "gaussians.sog", "mesh.glb"]),
        # What fitted into the memory:
        ("[spz,mesh]", ("gaussian_4",), ["gaussians_4.spz"]),
        ("[mesh,gaussian]", ("gaussian_4",), ["gaussians_4.ply"]),
        ("[obj]", ("gaussian",), ["gaussians.ply"]),
    ],
)  # fmt: skip
def test_the_files_that_are_asked_for_are_written(tmp_path, asked, decoded, files):
    if "spz" in asked or "sog" in asked:
        pytest.importorskip("gaussforge")
    written, facts, _ = write_exports(tmp_path, made(*decoded), output(asked))
    assert sorted(written) == files == sorted(path.name for path in tmp_path.iterdir())
    assert set(written) <= set(EXPORT_NAMES)
    assert ("mesh" in facts) == ("mesh" in decoded and any(name.startswith("mesh") for name in files))


def test_a_scene_keeps_what_it_is_composed_from_out_of_sight(tmp_path):
    pytest.importorskip("gaussforge")
    written, _, _ = write_exports(tmp_path, made("mesh", "gaussian"), output("[spz,stl]"), keep=FORMATS)
    assert sorted(written) == [".parts/gaussians.ply", ".parts/mesh.glb", "gaussians.spz", "mesh.stl"]
    assert all((tmp_path / name).is_file() for name in written)
    written, *_ = write_exports(tmp_path, made("mesh", "gaussian"), output("null"), keep=FORMATS)
    assert sorted(written) == ["gaussians.ply", "mesh.glb"]


def test_a_mesh_without_faces_is_left_out_with_a_line(tmp_path, caplog):
    run = made("mesh")
    run.result["mesh"][0].faces = []
    with caplog.at_level(logging.WARNING):
        assert write_exports(tmp_path, run, output("[obj]")) == ([], {}, [])
    assert "no mesh.obj is written" in caplog.text and not list(tmp_path.iterdir())


def box(depth: float) -> Any:
    found = trimesh.creation.box((1, 1, depth)).subdivide().subdivide().subdivide()
    return SimpleNamespace(vertices=found.vertices, faces=found.faces)


@pytest.mark.parametrize(
    ("mesh", "faces", "said"),
    [
        (trimesh.creation.icosphere(3), 4, "the mesh of 4 faces has another shape"),
        (trimesh.creation.icosphere(3), 500, None),
        (box(0), 20, "faces only, of the 20 asked for"),
        (box(1), 5000, None),
    ],
)
def test_a_mesh_reduced_to_another_shape_has_a_notice(tmp_path, caplog, mesh, faces, said):
    pytest.importorskip("fast_simplification")
    run = made("mesh")
    run.result["mesh"] = [SimpleNamespace(vertices=mesh.vertices, faces=mesh.faces)]
    with caplog.at_level(logging.WARNING):
        notices = write_exports(tmp_path, run, output("[mesh]", f"output.faces={faces}"))[2]
    assert (said in notices[0] and notices[0] in caplog.text) if said else not notices


def test_what_is_decoded_follows_from_the_files():
    for kind, source in FILES.items():
        assert load([f"output.formats={kind}"]).pipeline.formats == (source,)
    assert load(["output.formats=[spz,obj,sog]"]).pipeline.formats == ("mesh", "gaussian")
    assert load(["output.formats=[spz]", "pipeline.formats=[gaussian,gaussian_4]"]).pipeline.formats == ("gaussian",)
    assert load(["pipeline.formats=[gaussian_4]"]).output.formats is None


@pytest.mark.parametrize(
    ("asked", "module"),
    [
        ("output.formats=spz", "gaussforge"),
        ("output.faces=100", "fast_simplification"),
        ("output.texture=64", "xatlas"),
    ],
)
def test_missing_packages_are_named_before_the_work(monkeypatch, asked, module):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(ExportError, match=rf'{module}: run pip install "fast-sam3d\[export\]"'):
        check_exports(load([asked]).output)
    check_exports(load([]).output)


def test_a_texture_is_optimised_against_gaussians_that_are_decoded_for_it(tmp_path, monkeypatch):
    pytest.importorskip("xatlas")
    pytest.importorskip("fast_simplification")
    from fast_sam3d.texture import optimise

    config = load(["output.formats=[mesh]", "output.texture=64", "output.faces=4", "output.bake.gate=skipgs"])
    assert config.pipeline.formats == ("mesh", "gaussian")
    report = optimise.BakeReport(8, 6, 0.2, 0.1, 1.0, 1.0)
    seen = []
    monkeypatch.setattr(
        optimise, "optimised", lambda mesh, found, settings: seen.append((found, settings.gate)) or (mesh, report)
    )
    run = made("mesh", "gaussian")
    written, facts, _ = write_exports(tmp_path, run, config.output)
    assert written == ["mesh.glb"]
    assert facts["mesh"]["bake"]["backward"] == 6
    assert seen == [(run.result["gaussian"][0], "skipgs")]


def test_optimising_a_texture_needs_gaussians():
    with pytest.raises(ConfigError, match="decodes none"):
        load(["pipeline.formats=[mesh]", "output.texture=64", "output.bake.gate=none"])
