"""YAML files that name untrusted targets are refused; the published ones are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from fast_sam3d.checkpoints.files import read_yaml
from fast_sam3d.checkpoints.trust import check_homes, check_names
from fast_sam3d.errors import CheckpointError

# The kinds of targets, and the keys beside them, that the published files hold.
HARMLESS = """
_target_: sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap
ss_preprocessor:
  _target_: sam3d_objects.data.dataset.tdfy.preprocessor.PreProcessor
  img_transform:
    _target_: torchvision.transforms.Compose
    transforms:
    - {_partial_: true, _target_: sam3d_objects.data.dataset.tdfy.img_processing.pad_to_square_centered}
    - {_target_: torchvision.transforms.Resize, size: 518}
depth_model:
  _target_: sam3d_objects.pipeline.depth_models.moge.MoGe
  model: {_target_: moge.model.v1.MoGeModel.from_pretrained, pretrained_model_name_or_path: Ruicheng/moge-vitl}
embedder_list:
- - {_target_: sam3d_objects.model.backbone.dit.embedder.dino.Dino, dino_model: dinov2_vitl14_reg}
  - {_target_: sam3d_objects.model.backbone.dit.embedder.dino.Dino, repo_or_dir: facebookresearch/dinov2}
  - [[image, cropped], [rgb_image, full]]
loss_weights: {_target_: sam3d_objects.config.utils.make_dict, scale: 0.1}
activation: {_target_: torch.nn.GELU}
"""


def refused(text: str, tmp_path: Path) -> str:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        check_names(path, read_yaml(path))
    assert str(path) in str(caught.value)
    assert "trust" in str(caught.value)
    return str(caught.value)


def test_published_targets_are_allowed(tmp_path):
    check_names(tmp_path / "pipeline.yaml", yaml.safe_load(HARMLESS))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "hydra.utils.instantiate",
        "torchx.nn.Linear",
        "torch.hub.load",
        "torch.load",
        "torch.os.system",
        "torch.utils.cpp_extension.load_inline",
        "torchvision.io.write_file",
        "moge.scripts.app.main",
        "sam3d_objects.config.utils.StrictPartial",
        "sam3d_objects.config.utils.get_attr",
        "sam3d_objects.model.io.load_model_from_checkpoint",
        "sam3d_objects.pipeline.os.system.__call__",
        "sam3d_objects..os",
        "",
    ],
)
def test_names_outside_the_allowed_packages(target, tmp_path):
    for text in ("_target_: {}", "a: {{b: [1, {{_target_: {}}}]}}", "a: {{_target_: {}, _partial_: true}}"):
        shown = refused(text.format(repr(target)), tmp_path)
        assert f"'{target}'" in shown


@pytest.mark.parametrize("target", [["os.system"], {"a": "os.system"}, 7, None])
def test_invalid_target_names(target, tmp_path):
    refused(yaml.safe_dump({"a": {"_target_": target}}), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a: os\nb: {_target_: '${a}.system'}",
        "a: '${oc.create:{_target_: os.system}}'",
        "a: '${oc.decode:${oc.env:PATH}}'",
        "a: [b, '${oc.env:HF_TOKEN}']",
        "b: {c: 1}\na: ${b}",
    ],
)
def test_interpolations(text, tmp_path):
    assert "interpolation" in refused(text, tmp_path)


def test_anchors_are_checked_where_they_are_used(tmp_path):
    text = "x: &x {_target_: os.system}\na: {<<: *x, command: 'true'}"
    assert "'os.system'" in refused(text, tmp_path)


@pytest.mark.parametrize("place", ["", "a: "])
def test_positional_arguments(place, tmp_path):
    text = "{_target_: torch.nn.Linear, _args_: [2, 3]}"
    assert "_args_" in refused(place + text, tmp_path)


def test_other_keys_that_name_classes(tmp_path):
    assert "_rpartial_target_" in refused("a: {_rpartial_target_: os.system}", tmp_path)


@pytest.mark.parametrize("name", ["inference_pipeline.InferencePipeline", "inference_pipeline_pointmap.Any.method"])
def test_a_pipeline_inside_the_pipeline(name, tmp_path):
    target = f"sam3d_objects.pipeline.{name}"
    check_names(tmp_path, {"_target_": target})
    assert "second pipeline" in refused(f"depth_model: {{_target_: {target}, workspace_dir: elsewhere}}", tmp_path)


def test_the_image_embedder_comes_from_the_published_repository(tmp_path, monkeypatch):
    cache, ours = tmp_path / "hub", "facebookresearch/dinov2"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))
    for place in (ours, f"{ours}:main", cache / "facebookresearch_dinov2_main"):
        check_names(tmp_path, {"a": {"repo_or_dir": str(place)}})
    for place in ("someone/dinov2", f"{ours}:other", tmp_path / "dinov2", cache / ".." / "dinov2"):
        assert str(place) in refused(f"a: {{repo_or_dir: '{place}', source: local}}", tmp_path)


# ----------------------------------------------------------------------------------------------------------- homes


def test_defining_modules_of_classes_functions_and_methods(tmp_path):
    for target in ("torch.nn.Linear", "torch.nn.init.zeros_", "torch.nn.Embedding.from_pretrained"):
        check_homes(tmp_path, {"a": {"_target_": target}})


@pytest.mark.parametrize(
    ("target", "home"),
    [
        ("torch.nn.init.warnings.warn", "warnings.warn"),
        ("torch.nn.functional.importlib.import_module", "importlib.import_module"),
        ("torch.nn.modules.module.functools.partial", "functools.partial"),
        ("torch.nn.parallel.data_parallel.operator.attrgetter", "operator.attrgetter"),
        ("torch.nn.functional.torch.hub.load", "torch.hub.load"),
        ("torch.nn.functional.importlib.sys.path.append", "None.list.append"),
    ],
)
def test_names_imported_by_an_allowed_module(target, home, tmp_path):
    check_names(tmp_path, {"a": {"_target_": target}})
    with pytest.raises(CheckpointError, match=home):
        check_homes(tmp_path, {"a": {"_target_": target}})


def test_missing_target(tmp_path):
    with pytest.raises(CheckpointError, match=r"'torch.nn.Nothing', which cannot be imported \(.*doctor"):
        check_homes(tmp_path, {"a": {"_target_": "torch.nn.Nothing"}})
