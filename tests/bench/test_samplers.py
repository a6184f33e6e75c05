"""Samplers of the sparse structure: set, restored, and read from files."""

from __future__ import annotations

import pytest

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.samplers import MILD, OWN, PUBLISHED, Sampler, find_samplers
from fast_sam3d.errors import ConfigError
from tests.fakes import same_vars, snapshot
from tests.minis import random_mini, rgba


@pytest.fixture(scope="module")
def pipeline():
    return random_mini()


def calls(pipeline):
    return [adapt(pipeline).network_calls(stage) for stage in ("ss", "slat")]


def test_sampler_changes_the_grid_and_the_guidance_of_a_run(pipeline):
    before = snapshot(pipeline)
    times, strengths = adapt(pipeline).generator("ss")._prepare_t(), []
    guidance = adapt(pipeline).guidance("ss")
    hook = guidance.register_forward_hook(lambda *_: strengths.append(guidance.strength))
    with Sampler("mine", 0.25, 2.0).on(pipeline):
        assert adapt(pipeline).generator("ss")._prepare_t()[1] > times[1]
        pipeline.run(rgba(), None, seed=0, stage1_only=True)
    hook.remove()
    assert set(strengths) == {2.0}, "the pipeline sets the strength in every run"
    assert same_vars(before, snapshot(pipeline)) and adapt(pipeline).generator("ss")._prepare_t() == times


def test_own_sampler_changes_nothing(pipeline):
    found = calls(pipeline)
    with OWN.on(pipeline):
        assert calls(pipeline) == found


def test_sampler_is_restored_after_an_error(pipeline):
    before = snapshot(pipeline)
    with pytest.raises(RuntimeError), MILD.on(pipeline), PUBLISHED.on(pipeline):
        raise RuntimeError
    assert same_vars(before, snapshot(pipeline))


def test_samplers_by_name_and_file(tmp_path):
    (tmp_path / "strong.yaml").write_text("strength: 9")
    found = find_samplers(["published", str(tmp_path / "strong.yaml"), "own", "published"])
    assert found == (PUBLISHED, Sampler("strong", strength=9), OWN)
    assert [each.label for each in found] == ["published (rescale_t 3, strength 7)", "strong (strength 9)", "own"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rescale_t: 0", "rescale_t is 0: give a number above 0"),
        ("strength: -1", "strength is -1"),
        ("strength: .nan", "strength is nan"),
        ("strength: 1.0e+308", r"strength is 1e\+308: give 0 or more, at most 1e\+06"),
        ("steps: 3", "give rescale_t, strength or both"),
        ("", "give rescale_t, strength or both"),
        ("[", "is not YAML"),
    ],
)
def test_invalid_files_are_refused(tmp_path, text, says):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        find_samplers([str(tmp_path / "bad.yaml")])


def test_unknown_and_ambiguous_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'published'"):
        find_samplers(["publishd"])
    with pytest.raises(ConfigError, match="cannot be read"):
        find_samplers([str(tmp_path / "absent.yaml")])
    (tmp_path / "own.yaml").write_text("strength: 9")
    with pytest.raises(ConfigError, match="two samplers 'own'"):
        find_samplers(["own", str(tmp_path / "own.yaml")])
