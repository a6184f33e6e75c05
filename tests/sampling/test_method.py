"""Building a method from a mapping, and its error messages."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.sampling.predict.anchored import Anchored
from fast_sam3d.sampling.predict.hold import Hold
from fast_sam3d.sampling.predict.taylor import Taylor
from fast_sam3d.sampling.when.always import Always
from fast_sam3d.sampling.when.stride import Stride
from fast_sam3d.sampling.where.everywhere import All

GROUPS = {"shape": ("shape",), "layout": ("scale", "translation")}
PAPER: dict[str, Any] = {
    "when": {"name": "stride", "stride": 3, "warmup": 2},
    "where": {"name": "all"},
    "predict": {"shape": {"name": "taylor", "order": 1}, "layout": {"name": "anchored", "beta": 0.5}},
}


def test_method_of_the_paper() -> None:
    method = build_stage_method(PAPER, GROUPS)
    assert method == StageMethod(
        Stride(3, 2), All(), {"shape": Taylor(1), "scale": Anchored(0.5), "translation": Anchored(0.5)}
    )
    assert method.depth == 2


def test_missing_parts_take_the_defaults() -> None:
    assert build_stage_method({}, GROUPS) == StageMethod(
        Always(), All(), dict.fromkeys(["shape", "scale", "translation"], Hold())
    )


def test_predictor_of_a_leaf_precedes_its_group_precedes_all() -> None:
    assert set(build_stage_method({"predict": {"name": "taylor", "order": 2}}, GROUPS).predict.values()) == {Taylor(2)}
    predict = {"all": {"name": "hold"}, "layout": {"name": "anchored"}, "scale": {"name": "taylor"}}
    assert build_stage_method({"predict": predict}, GROUPS).predict == {
        "shape": Hold(),
        "scale": Taylor(1),
        "translation": Anchored(0.5),
    }


def test_settings_round_trip_with_every_default() -> None:
    method = build_stage_method({"when": {"name": "stride"}}, GROUPS)
    assert method.settings()["when"] == {"name": "stride", "stride": 3, "warmup": 2}
    assert build_stage_method(method.settings(), GROUPS) == method


def test_building_does_not_modify_the_mapping() -> None:
    before = copy.deepcopy(PAPER)
    build_stage_method(PAPER, GROUPS)
    assert before == PAPER


def test_a_method_can_be_pickled() -> None:
    method = build_stage_method(PAPER, GROUPS)
    assert pickle.loads(pickle.dumps(method)) == method


def changed(**parts: Any) -> dict[str, Any]:
    return {**PAPER, **parts}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (changed(wen={}), r"ss\.wen is unknown: did you mean 'when'"),
        (changed(when={"name": "strid"}), r"ss\.when\.name is 'strid': did you mean 'stride'"),
        (changed(when={"stride": 3}), r"ss\.when has no name: give one of .*always, budget, .*stride"),
        (changed(when="stride"), r"ss\.when is 'stride': give a mapping"),
        (changed(when={"name": "stride", "strid": 3}), r"ss\.when\.strid is unknown: did you mean 'stride'"),
        (changed(when={"name": "stride", "stride": 0}), r"ss\.when\.stride is 0: give a whole number"),
        (changed(when={"name": ["stride"]}), r"ss\.when\.name is \['stride'\]"),
        (changed(where={"name": "xyz"}), r"ss\.where\.name is 'xyz': valid are: all, .*random, .*saliency"),
        (changed(predict={"shap": {"name": "hold"}}), r"ss\.predict\.shap is unknown: did you mean 'shape'"),
        (changed(predict={"shape": {"name": "hold"}}), r"ss\.predict has no predictor for 'scale': add layout"),
        (changed(predict={}), r"ss\.predict has no predictor for 'shape'"),
        (changed(predict={"name": "taylor", "order": 7}), r"ss\.predict\.all\.order is 7"),
        (changed(predict=[1]), r"ss\.predict is \[1\]: give a mapping"),
        (changed(when={"name": "budget", "warmup": 1}), r"ss\.when\.warmup is 1: give a whole number of at least 2"),
        (changed(where={"name": "saliency", "keep": 0}), r"ss\.where\.keep is 0: give a number from 0\.001 to 1"),
        (changed(where={"name": "random", "seed": -1}), r"ss\.where\.seed is -1"),
        ("stride", r"ss is 'stride': give a mapping"),
    ],
)
def test_errors_name_the_key_and_the_valid_ones(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_stage_method(mapping, GROUPS, path="ss")


def test_token_choice_requires_voxels() -> None:
    carved = changed(where={"name": "saliency"})
    assert build_stage_method(carved, GROUPS, path="ss").depth == 2
    with pytest.raises(ConfigError, match=r"ss\.where\.name is 'saliency', which chooses voxels: it fits slat, not ss"):
        build_stage_method(carved, GROUPS, path="ss", voxels=False)
