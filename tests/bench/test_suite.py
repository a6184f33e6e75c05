"""Packaged and invalid suites."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from fast_sam3d.bench.runs import Given, run
from fast_sam3d.bench.suite import OFF, OTHER_SEED, Suite, load_suite, suite_names
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import ConfigError
from fast_sam3d.run.object import RunSettings
from tests.stand_in import StandIn

GOOD = {"objects": 3, "seeds": [1, 2], "methods": {"a": "ss=fast_sam3d"}}


def written(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


def test_fewer_steps_of_the_headline_have_as_many_calls_as_the_presets():
    image, pipeline, calls = np.zeros((6, 8, 3), np.uint8), StandIn(), {}
    for variant in load_suite("headline").variants():
        found = run(pipeline, Given(image, np.ones((6, 8), bool)), variant, RunSettings(formats=("mesh",)))
        calls[variant.name] = found.report.network_calls
    fewer = sorted(count for name, count in calls.items() if "steps" in name)
    assert calls[OFF] == 44 + 38, "the stand-in has the published samplers"
    assert fewer == pytest.approx(sorted([calls["fast"], calls["default"]]), abs=1), calls


def test_every_packaged_suite_composes():
    assert {"quick", "full", "headline", "sweeps"} <= set(suite_names())
    composed: dict[str, str] = {}
    for name in suite_names():
        suite = load_suite(name)
        names = [OFF, OTHER_SEED, *suite.methods]
        composed |= {overrides: label for label, overrides in suite.methods.items()}
        assert names[:2] == [OFF, OTHER_SEED] and len(set(names)) == len(names)
        assert {*suite.main, *suite.ablation.values()} <= set(names)
        assert {name for sweep in suite.sweeps for name in sweep.points.values()} <= set(names)
    # Each method once, as composing takes its time.
    everything = Suite("all", 1, (1,), {label: overrides for overrides, label in composed.items()})
    assert len(everything.methods) == len(composed) == len(everything.variants()) - 2
    assert load_suite("full").objects >= 100 and len(load_suite("full").seeds) >= 2
    assert {sweep.title for sweep in load_suite("sweeps").sweeps} >= {"stride", "beta", "kept share", "threshold"}


def test_one_method_under_two_labels_runs_once(tmp_path):
    sweep = {"method": "ss=fast_sam3d", "key": "ss.when.stride", "values": [3, 4]}
    suite = load_suite(
        written(tmp_path, methods={"a": "ss=fast_sam3d", "b": "ss=fast_sam3d ss.when.stride=4"},
                ablation={"SS": "ss=fast_sam3d", "mesh": "mesh=fast_sam3d"}, sweeps={"stride": sweep})
    )  # fmt: skip
    assert suite.ablation == {"SS": "a", "mesh": "mesh"}
    assert suite.main == ("a", "b", "mesh")
    assert suite.sweeps[0].points == {3: "ss=fast_sam3d ss.when.stride=3", 4: "b"}
    assert list(suite.methods) == ["a", "b", "mesh", "ss=fast_sam3d ss.when.stride=3"]


def test_methods_of_the_command_line(tmp_path):
    suite = load_suite(written(tmp_path))
    more = suite.with_methods(["mesh=fast_sam3d"], alone=False)
    assert more.main == ("a", "mesh=fast_sam3d") and len(more.variants()) == 4
    alone = suite.with_methods(["mesh=fast_sam3d"], alone=True)
    assert [variant.name for variant in alone.variants()] == [OFF, OTHER_SEED, "mesh=fast_sam3d"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"object": 3}, "has no 'object': did you mean 'objects'"),
        ({"objects": 0}, "objects is 0"),
        ({"objects": True}, "objects is True"),
        ({"objects": 10**12}, "1000000000000 objects with . seeds? each: give at most 100,000 pairs"),
        ({"seeds": []}, "seeds is"),
        ({"seeds": [-1]}, "seeds is"),
        ({"samplers": "published"}, "samplers is 'published'"),
        ({"methods": {}}, "no method"),
        ({"methods": ["ss=fast_sam3d"]}, "give names and their values"),
        ({"methods": {"a": 3}}, "a is 3"),
        ({"methods": {"other seed": "ss=fast_sam3d"}}, "is reserved"),
        ({"ablation": {"a": "mesh=fast_sam3d"}}, "two methods 'a'"),
        ({"sweeps": {"s": {"method": "ss=fast_sam3d", "key": "ss.when.stride", "values": ["3"]}}}, "list of numbers"),
        ({"sweeps": {"s": {"keys": 1}}}, "did you mean 'key'"),
    ],
)
def test_invalid_suites_are_errors(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        load_suite(written(tmp_path, **changes))


def test_an_unknown_name_is_an_error_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="method 'a': ss has no option 'taylorsee'"):
        load_suite(written(tmp_path, methods={"a": "ss=taylorsee"})).variants()


@pytest.mark.parametrize(
    ("name", "says"), [("quik", "did you mean 'quick'"), ("nowhere.yaml", "cannot be read"), ("bad.yaml", "not YAML")]
)
def test_unknown_suite_is_an_error(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=says):
        load_suite(name)


def test_suite_in_the_docs_composes(tmp_path):
    page = (checkout() / "docs" / "bench.md").read_text()
    (tmp_path / "mine.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    suite = load_suite(str(tmp_path / "mine.yaml"))
    assert len(suite.variants()) == 2 + 2 + 2 + 5 and list(suite.ablation) == ["SS", "SLaT"]
