"""The catalogue of methods, and the descriptions in their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fast_sam3d.config.catalogue import FEWER_STEPS, NEEDS, STAGES, Listing, listed, method_named
from fast_sam3d.config.compose import check_methods, group_options, load
from fast_sam3d.config.methods import build_methods
from fast_sam3d.config.packaged import resource
from fast_sam3d.config.resolve import resolve
from fast_sam3d.decode import MeshMethod
from fast_sam3d.errors import ConfigError, FastSam3dError
from fast_sam3d.sampling import StageMethod
from fast_sam3d.sampling.guide.both import Both
from fast_sam3d.sampling.when.magnitude import Magnitude
from tests.stand_in import run
from tests.test_packaging import loaded_after

EVERY = [(method, stage) for method in listed() for stage in method.stages]
FROM_FILES = [(method, stage) for method, stage in EVERY if method is not FEWER_STEPS and method.name != "off"]


def test_catalogue_lists_exactly_the_files() -> None:
    options = group_options()
    there = {(stage, name) for stage in STAGES for name in options[stage]}
    named = {(stage, method.name) for method, stage in EVERY if method is not FEWER_STEPS}
    assert named == there
    assert len({method.name for method in listed()}) == len(listed())


@pytest.mark.parametrize(("method", "stage"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_listed_overrides_enable_the_method(method: Listing, stage: str) -> None:
    config = load(method.switch[stage])
    check_methods(config)
    assert (config == load()) == (method.name == "off")


@pytest.mark.parametrize(("method", "stage"), FROM_FILES, ids=lambda value: getattr(value, "name", value))
def test_needs_follow_from_the_parts(method: Listing, stage: str) -> None:
    built = build_methods(load(method.switch[stage]).modules)[stage]
    needs = set()
    if isinstance(built, MeshMethod):
        needs = {"voxels"} | ({"picture"} if len(set(built.factors)) > 1 else set())
    elif isinstance(built, StageMethod):
        needs |= {"voxels"} if built.where.needs_tokens else set()
        needs |= {"occupancy"} if built.where.needs_decoder else set()
        needs |= set() if isinstance(built.guide, Both) else {"guidance"}
        needs |= {"calibration"} if isinstance(built.when, Magnitude) else set()
    assert set(method.needs[stage]) == needs


def test_table_has_name_paper_stages_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods")
    assert code == 0
    lines = out.split("\n\n", 1)[1].splitlines()  # after the presets
    assert lines[0].split() == ["method", "paper", "stages", "needs", "switch", "on", "with"]
    taylorseer = next(line for line in lines if line.startswith("TaylorSeer"))
    assert taylorseer.split() == ["TaylorSeer", "2503.06923", "ss", "slat", "-", "ss=taylorseer", "slat=taylorseer"]
    assert sum(any(line.startswith(method.title) for line in lines) for method in listed()) == len(listed())
    assert all(f"{need}: " in out for need in NEEDS if any(need in method.all_needs for method in listed()))
    assert max(map(len, lines)) < 140


@pytest.mark.parametrize("stage", STAGES)
def test_methods_of_one_stage(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods", "--stage", stage, "--json")
    assert code == 0
    rows = json.loads(out)
    assert {row["name"] for row in rows} == {method.name for method in listed() if stage in method.stages}
    assert all(stage in row["switch_on"] and set(row["needs"][stage]) <= set(NEEDS) for row in rows)
    _, out, _ = run(capsys, "methods", "--stage", stage)
    assert all(f"{other}=" not in out.split("papers are arXiv numbers")[0] for other in STAGES if other != stage)


def test_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "methods", "--stage", "gaussian")
    assert code == 2
    assert "there is no stage 'gaussian'" in err and "ss" in err


def test_listing_needs_no_torch() -> None:
    assert "torch" not in loaded_after("from fast_sam3d.cli import main\nmain(['methods'])")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ss=tome", "tome does not fit ss, it fits slat: slat=tome"),
        ("slat=fast3dcache", "fast3dcache does not fit slat, it fits ss: ss=fast3dcache"),
        ("mesh=taylorseer", "taylorseer does not fit mesh, it fits ss and slat: ss=taylorseer slat=taylorseer"),
        ("ss=fewer_steps", "it is switched on by pipeline.ss_steps=10"),
        ("ss=tailorseer", "ss has no option 'tailorseer': did you mean 'taylorseer'"),
        ("exact=tome", "exact has no option 'tome'"),
    ],
)
def test_method_of_another_stage_is_refused_with_its_stages(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([override])


def test_fewer_steps_use_the_pipelines_settings() -> None:
    config = load([override for overrides in FEWER_STEPS.switch.values() for override in overrides])
    assert (config.pipeline.ss_steps, config.pipeline.slat_steps) == (10, 10)
    assert not any(config.modules.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about: {titel: A}", "about is {'titel': 'A'}: give a mapping of title, paper, needs"),
        ("about: A", "about is 'A': give a mapping"),
        ("about: {title: A, needs: [voxel]}", "needs 'voxel': did you mean 'voxels'"),
        ("about: {title: A, needs: voxel}", "did you mean 'voxels'.*in a list"),
    ],
)
def test_a_malformed_description_is_refused_with_its_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "ss").mkdir()
    (tmp_path / "ss" / "mine.yaml").write_text(text)
    with pytest.raises(FastSam3dError, match=message):
        listed(configs=tmp_path)


def test_a_file_without_a_description_is_listed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "ss").mkdir()
    (tmp_path / "ss" / "mine.yaml").write_text("# method: Mine\nwhen: {name: always}\n")
    (mine,) = (method for method in listed(configs=tmp_path) if method is not FEWER_STEPS)
    assert (mine.title, mine.paper, mine.needs) == ("mine", None, {"ss": ()})


@pytest.mark.parametrize(("method", "stage"), FROM_FILES, ids=lambda value: getattr(value, "name", value))
def test_every_file_describes_itself_in_full_and_its_settings_do_not(method: Listing, stage: str) -> None:
    path = resource("configs") / stage / f"{method.name}.yaml"
    assert set(yaml.safe_load(path.read_text())["about"]) == {"title", "paper", "needs"}
    assert "about" not in load(method.switch[stage]).modules[stage]


def test_config_file_is_a_valid_mapping() -> None:
    mapping = {"ss": yaml.safe_load((resource("configs") / "ss" / "taylorseer.yaml").read_text())}
    assert resolve(mapping, None, []).modules == {"ss": load(["ss=taylorseer"]).modules["ss"]}
    assert resolve(mapping, None, ["ss.when.stride=4"]).modules["ss"].keys() == {"when", "where", "predict"}
    off = yaml.safe_load((resource("configs") / "ss" / "off.yaml").read_text())
    assert build_methods(resolve({"ss": off}, None, []).modules) == {}


def test_stages_must_agree(tmp_path: Path) -> None:
    for stage, title in (("ss", "A"), ("slat", "B")):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "mine.yaml").write_text(f"about: {{title: {title}, paper: null, needs: []}}\n")
    with pytest.raises(FastSam3dError, match="is 'B'"):
        listed(configs=tmp_path)


def test_method_by_name() -> None:
    taylorseer = method_named("taylorseer")
    assert taylorseer is not None and taylorseer.paper == "2503.06923"
    assert method_named("nothing of that name") is None
    assert (resource("configs") / "ss" / "taylorseer.yaml").is_file()
