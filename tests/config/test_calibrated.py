"""Measured schedules: their files, where they fit, and how presets take them by themselves."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.fingerprint import difference, fingerprint
from fast_sam3d.config.compose import load
from fast_sam3d.config.measured import cache_folder, cache_state, store
from fast_sam3d.documents import read_yaml
from fast_sam3d.errors import ConfigError
from tests.fakes import FakePipeline
from tests.native.tiny import random_native

METHOD = {"when": {"name": "stride", "stride": 5, "warmup": 1}}
OWN = load(["preset=default"]).modules


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def content(pipeline: Any, steps: dict[str, int | None] | None = None, **more: Any) -> dict[str, Any]:
    known = fingerprint(adapt(pipeline), steps)
    return {"ss": METHOD, "slat": METHOD, "calibrated": {"fingerprint": known, "evidence": {"objects": 4}}, **more}


def written(path: Path, tree: Any) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def strides(handle: Any) -> list[int]:
    return [handle.methods[stage]["when"].get("stride") for stage in ("ss", "slat")]


def test_a_file_is_taken_where_it_was_measured_and_the_report_names_it(tmp_path: Path) -> None:
    pipeline = FakePipeline()
    file = written(tmp_path / "tuned.yaml", content(pipeline))
    with fast_sam3d.accelerated(pipeline, file) as handle, fast_sam3d.observe(pipeline) as report:
        assert strides(handle) == [5, 5] and "calibrated" not in handle.methods
        pipeline.run(seed=0)
        assert (
            report.to_dict()["schedule"] == str(file) and f"schedule measured on this model: {file}" in report.table()
        )
    assert len(report.solves[0].evaluated) < 10


CHANGES = {
    "ss rescale_t 3, and the pipeline has 0.3": ("ss_generator", "rescale_t", 0.3),
    "slat 25 steps, and the pipeline has 12": ("slat_generator", "inference_steps", 12),
    "ss guidance 7, and the pipeline has 3": ("ss_generator.reverse_fn", "strength", 3.0),
    "ss guidance on the interval": ("ss_generator.reverse_fn", "interval", (0, 900)),
    "ss shortcut False, and the pipeline has True": ("ss_generator", "no_shortcut", False),
    "another checkpoint .the weights of the slat": ("slat_generator.reverse_fn.backbone", "weight", 1.02),
}


@pytest.mark.parametrize("says", CHANGES)
def test_another_model_or_sampler_is_refused_by_name(says: str, tmp_path: Path) -> None:
    pipeline = FakePipeline()
    file = written(tmp_path / "tuned.yaml", content(pipeline))
    part, name, value = CHANGES[says]
    owner = pipeline.models.get_submodule(part)
    setattr(owner, name, torch.nn.Parameter(owner.weight * value) if name == "weight" else value)
    with pytest.raises(ConfigError, match=f"tuned.yaml: this path was measured with {says}.*use preset=default"):
        fast_sam3d.accelerate(pipeline, file)


def test_the_steps_of_a_configuration_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = FakePipeline()
    store(yaml.safe_dump(content(pipeline)), {}, "default")
    config = load(["preset=default"])
    assert strides(fast_sam3d.accelerate(pipeline, config)) == [5, 5]
    fewer = dataclasses.replace(config, pipeline=dataclasses.replace(config.pipeline, ss_steps=10))
    with caplog.at_level(logging.INFO, "fast_sam3d"):
        assert strides(fast_sam3d.accelerate(pipeline, fewer)) != [5, 5]
    assert "measured on this model with ss 25 steps, and the pipeline has 10" in caplog.text


@pytest.mark.parametrize("preset", ["default", "fast"])
def test_presets_take_a_schedule_that_fits(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    pipeline, other = FakePipeline(), FakePipeline(12)
    path = store(yaml.safe_dump(content(pipeline)), {}, preset)
    with caplog.at_level(logging.INFO, "fast_sam3d"):
        handle = fast_sam3d.accelerate(pipeline, preset=preset)
    assert strides(handle) == [5, 5] and handle.report.schedule == str(path)
    assert [path.name in line for line in caplog.messages if "measured" in line] == [True]
    assert handle.methods["exact"]
    assert fast_sam3d.accelerate(other, preset=preset).report.schedule is None
    for left_out in (
        {"overrides": ["use_calibrated=false"]},
        {"overrides": ["ss=taylorseer"]},
        {"config": {**load([f"preset={preset}"]).modules}},
    ):
        with_preset = {"preset": preset} if "config" not in left_out else {}
        assert fast_sam3d.accelerate(pipeline, **with_preset, **left_out).report.schedule is None


def levels(**more: Any) -> dict[str, Any]:
    """Strides 9 and 3 with a voxel IoU of 0.9 and 0.98."""
    methods = {iou: {"when": {"name": "stride", "stride": stride}} for iou, stride in ((0.9, 9), (0.98, 3))}
    tree = content(FakePipeline(), **more)
    tree["calibrated"]["levels"] = [{"voxel_iou": iou, "ss": own, "slat": own} for iou, own in methods.items()]
    return tree


@pytest.mark.parametrize(("quality", "stride"), [(0.9, 9), (0.91, 3), (None, 5)])
def test_a_quality_takes_the_measured_schedule_with_the_fewest_calls_that_has_it(
    quality: float | None, stride: int, tmp_path: Path
) -> None:
    pipeline, asked = FakePipeline(), f"quality={'null' if quality is None else quality}"
    store(yaml.safe_dump(levels()), {}, "default")
    file = written(tmp_path / "tuned.yaml", levels())
    for handle in (
        fast_sam3d.accelerate(pipeline, overrides=[asked]),
        fast_sam3d.accelerate(pipeline, load(["preset=default", asked])),
        fast_sam3d.accelerate(pipeline, file, overrides=[asked]),
        fast_sam3d.accelerate(pipeline, written(tmp_path / "own.yaml", levels(quality=quality))),
    ):
        assert strides(handle) == [stride, stride] and handle.report.schedule


@pytest.mark.parametrize(
    ("tree", "options", "says"),
    [
        (levels(), {"overrides": ["quality=0.99"]}, "closest: 0.980.*ask for less, or run .fast-sam3d tune --quality"),
        (levels(), {"overrides": ["quality=2"]}, "quality is 2: give a number from 0 to 1"),
        (levels(), {"overrides": ["quality=0.9", "use_calibrated=false"]}, "these settings have none"),
        (levels(), {"overrides": ["quality=0.9"], "preset": "off"}, "these settings have none"),
        (content(FakePipeline()), {"overrides": ["quality=0.9"]}, "levels is missing or damaged: run"),
        (None, {"overrides": ["quality=0.9"]}, "these settings have none: run it"),
    ],
)
def test_a_quality_without_a_measured_schedule_is_refused(tree: Any, options: dict[str, Any], says: str) -> None:
    if tree is not None:
        store(yaml.safe_dump(tree), {}, "default")
    with pytest.raises(ConfigError, match=says):
        fast_sam3d.accelerate(FakePipeline(), **options)


def test_a_schedule_for_one_preset_is_not_for_another() -> None:
    pipeline = FakePipeline()
    store(yaml.safe_dump(content(pipeline)), {}, "fast")
    assert fast_sam3d.accelerate(pipeline).report.schedule is None
    assert fast_sam3d.accelerate(pipeline, preset="fast_sam3d").report.schedule is None


def test_damaged_files_of_the_cache_are_skipped(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = FakePipeline()
    assert cache_state() is None
    path = store(yaml.safe_dump(content(pipeline)), {"a": 1}, "default")
    (cache / "default-1.yaml").write_text("{")
    (cache / "default-2.yaml").write_text("[1, 2]")
    written(cache / "default-3.yaml", content(pipeline, ss={"when": {"name": "nothing"}}))
    for age, name in enumerate(("default-1.yaml", "default-2.yaml", "default-3.yaml")):
        os.utime(cache / name, (2e9 + age, 2e9 + age))  # newer than the one that fits
    assert fast_sam3d.accelerate(pipeline).report.schedule == str(path)
    assert len([line for line in caplog.messages if "is skipped" in line]) == 2
    assert cache_state() is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "x" * 300_000, "more than 256 KB"),
        ("a: &a [0,0,0,0,0,0,0,0,0,0]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
        ), "more than 20,000 values"),
        ("a: &a [*a]", "has more than|refers to itself"),
        ("a: {", "is not YAML"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
        ("calibrated: 3\nss: {when: {name: stride}}", "fingerprint is missing: run"),
        ("calibrated: {fingerprint: {weights: [1], ss: 2}}\nss: {when: {name: stride}}", "measured with another"),
        (f"ss: {{when: {{name: budget, threshold: 1{'0' * 400}}}}}", "more than 100 digits"),
    ],
)  # fmt: skip
def test_files_of_anybody_are_read_safely(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "path.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        fast_sam3d.accelerate(FakePipeline(), file)
    assert "\n" not in str(caught.value)


def test_a_device_is_no_file() -> None:
    with pytest.raises(ConfigError, match="it is not a file"):
        read_yaml(Path(os.devnull))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_copies_have_the_fingerprint_of_the_original(dtype: torch.dtype) -> None:
    pipeline = FakePipeline()
    own = fingerprint(adapt(pipeline))
    half = copy.deepcopy(pipeline)
    half.models.to(dtype)
    assert difference(own, fingerprint(adapt(half))) is None and difference(fingerprint(adapt(half)), own) is None


def test_weights_that_are_not_loaded_are_read_from_their_source() -> None:
    pipeline = random_native()
    loaded, parts = fingerprint(adapt(pipeline)), {}
    for name in ("ss_generator", "slat_generator"):
        tensors = {key: value.clone() for key, value in pipeline.models[name].state_dict().items()}
        source = SimpleNamespace(opened=lambda tensors=tensors: nullcontext(tensors))
        parts[name] = SimpleNamespace(sources={None: source})
        pipeline.models[name].to("meta")
    pipeline.residency = SimpleNamespace(parts=parts)
    assert len(loaded["weights"]["ss"]["values"]) == 32 and loaded == fingerprint(adapt(pipeline))
    assert difference(loaded, fingerprint(adapt(random_native(1)))) == (
        "another checkpoint (the weights of the ss network differ)"
    )


def test_a_run_with_other_steps_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = FakePipeline()
    path = {"when": {"name": "path", "nodes": [0, 6, 12], "steps": 25, "guided": 19}}
    with fast_sam3d.accelerated(pipeline, written(tmp_path / "tuned.yaml", content(pipeline, ss=path))):
        pipeline.run(seed=0)
        assert not caplog.messages
        pipeline.models["ss_generator"].inference_steps = 10
        pipeline.run(seed=0)
    assert ["measured with 25 steps, and this run has 10" in line for line in caplog.messages] == [True]
