"""Finding checkpoints, the default choice and its reason, and unusable weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints import runtime
from fast_sam3d.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint, load_pipeline
from fast_sam3d.config.packaged import resource
from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config_file import ModelConfig
from tests.minis import random_mini

PARTS = ("ss_generator", "ss_decoder", "slat_generator", "slat_decoder_gs", "slat_decoder_mesh")
STAND_IN = """
    import os

    import torch
    from omegaconf import OmegaConf

    class Pipeline:
        def __init__(self, **settings):
            if settings.get("version") == "broken":
                raise RuntimeError("size mismatch for blocks.0\\nsecond line")
            self.settings = settings
            self.device = settings["device"]
            self.skipped_init = os.environ.get("LIDRA_SKIP_INIT")
            self.conda = os.environ["CONDA_PREFIX"]
            self.parts = {}
            for key in [k for k in settings if k.endswith("_config_path")]:
                part = key.removesuffix("_config_path")
                config = OmegaConf.load(os.path.join(settings["workspace_dir"], settings[key]))
                for name, network in config.get("module", {"": {"backbone": config}}).items():
                    self.parts[part + name] = self.instantiate_and_load_from_pretrained(
                        network["backbone"],
                        os.path.join(settings["workspace_dir"], settings[part + "_ckpt_path"]),
                        state_dict_fn=only(f"_base_models.{name}.") if name else None,
                        state_dict_key="state_dict" if name else None,
                        device=self.device,
                    )

        def instantiate_and_load_from_pretrained(self, *arguments, **options):
            raise AssertionError("this one unpickles")

    def only(start):
        return lambda state: {name[len(start):]: state[name] for name in state if name.startswith(start)}

    class Part(torch.nn.Module):
        def __init__(self, size, num_blocks):
            super().__init__()
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(size, size) for _ in range(num_blocks))

        def to(self, device):  # there may be no such device here
            self.moved_to = str(device)
            return self
"""
DEPTH_STAND_IN = """
    class MoGe:
        def __init__(self, model, device="cuda"):
            self.model, self.device = model, device

    class Weights:
        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path):
            return pretrained_model_name_or_path
"""
DEPTH = """depth_model:
  _target_: sam3d_objects.pipeline.depth_models.MoGe
  model:
    _target_: sam3d_objects.pipeline.depth_models.Weights.from_pretrained
    pretrained_model_name_or_path: Ruicheng/moge-vitl
"""


@pytest.fixture
def checkpoints(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkpoints/ in the working folder, and nowhere else."""
    folder = elsewhere / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(loading, "checkpoint_roots", lambda: [folder])
    return folder


@pytest.fixture
def stock_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An importable package sam3d_objects that stands in for the real ones, and a GPU that torch claims to see."""
    package = tmp_path / "site" / "sam3d_objects"
    (package / "pipeline").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "pipeline" / "__init__.py").write_text(textwrap.dedent(STAND_IN))
    (package / "pipeline" / "depth_models.py").write_text(textwrap.dedent(DEPTH_STAND_IN))
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "stock_problem", lambda device: None)
    monkeypatch.delenv("LIDRA_SKIP_INIT", raising=False)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "sam3d_objects"]:
        del sys.modules[name]


def stock_weights(part: str, ballast: int = 0) -> dict[str, torch.Tensor]:
    """The content of a weights file of `write_stock`. `ballast`: elements of a tensor that is not needed."""
    generator = torch.Generator().manual_seed(len(part))
    shapes = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in (("weight", (3, 3)), ("bias", (3,)))}
    networks = ("generator", "condition_embedder") if part.endswith("generator") else ("",)
    starts = [f"_base_models.{name}." if name else "" for name in networks]
    state = {start + k: torch.randn(shape, generator=generator) for start in starts for k, shape in shapes.items()}
    return {**state, "_base_models.decoder.x": torch.zeros(ballast)} if ballast else state


def write_weights(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A weights file in the format of its name; generators' .ckpt as Lightning writes them."""
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if path.stem.endswith("generator") else state, path)
    return path


def write_stock(folder: Path, extra: str = "") -> Path:
    """A checkpoint folder with the file names and kinds of the stock one, and small networks."""
    folder.mkdir()
    lines = ["_target_: sam3d_objects.pipeline.Pipeline", "dtype: bfloat16", "device: cuda", "version: v0"]
    backbone = "_target_: sam3d_objects.pipeline.Part, size: 3, num_blocks: 2"
    for part in PARTS:
        ending = "safetensors" if part == "ss_decoder" else "ckpt"
        two = f"module: {{generator: {{backbone: {{{backbone}}}}}, condition_embedder: {{backbone: {{{backbone}}}}}}}\n"
        (folder / f"{part}.yaml").write_text(two if part.endswith("generator") else backbone.replace(", ", "\n") + "\n")
        write_weights(folder / f"{part}.{ending}", stock_weights(part))
        lines += [f"{part}_config_path: {part}.yaml", f"{part}_ckpt_path: {part}.{ending}"]
    (folder / "pipeline.yaml").write_text("\n".join(lines) + "\nss_encoder_ckpt_path: null\n" + extra)
    return folder


def write_mini(folder: Path) -> Path:
    """A folder of the embedded kind, without weights."""
    folder.mkdir(parents=True)
    ModelConfig().save(folder)
    return folder


def message(call, *arguments, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --------------------------------------------------------------------------------------------------------- finding


def test_a_tag_is_a_folder_under_checkpoints(checkpoints):
    write_mini(checkpoints / "mine")
    found = find_checkpoint("mine")
    assert (found.tag, found.folder, found.kind) == ("mine", checkpoints / "mine", "mini")


def test_a_path_is_a_tag(checkpoints, tmp_path):
    folder = write_mini(tmp_path / "runs" / "last")
    assert find_checkpoint(folder).folder == folder
    assert find_checkpoint(os.path.relpath(folder)).folder == folder


def test_home_folder_in_a_path_is_expanded(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write_mini(tmp_path / "last")
    assert find_checkpoint("~/last").folder == folder


def test_the_kind_follows_the_named_class(checkpoints):
    write_stock(checkpoints / "other")
    assert find_checkpoint("other").kind == "sam3d"


def test_unknown_tag_lists_existing_ones(checkpoints):
    write_mini(checkpoints / "larger")
    assert "did you mean 'larger'" in message(find_checkpoint, "large")
    assert "valid are: larger, mini, synthetic" in message(find_checkpoint, "xyz")


def test_missing_gated_weights_name_the_download_command(checkpoints):
    missing = message(find_checkpoint, "hf")
    (checkpoints / "hf").mkdir()
    for text in (missing, message(find_checkpoint, "hf"), message(find_checkpoint, checkpoints / "hf")):
        for word in ("request access", "facebook/sam-3d-objects", "hf auth login", "fast-sam3d download"):
            assert word in text


@pytest.mark.parametrize("name", [".", "..", "checkpoints", "./checkpoints"])
def test_folder_without_a_checkpoint_is_not_reported_as_gated(checkpoints, name):
    assert "the folder that holds the weights" in message(find_checkpoint, name)
    write_mini(checkpoints / "mine")
    text = message(find_checkpoint, name)
    assert "gated" not in text
    assert f"{Path(name).resolve()} holds no pipeline.yaml" in text
    assert ("such as mine" in text) == (Path(name).resolve() == checkpoints)


def test_settings_that_are_no_regular_file_are_not_called_missing(checkpoints):
    (checkpoints / "odd" / "pipeline.yaml").mkdir(parents=True)
    assert "is no regular file" in message(find_checkpoint, "odd")


@pytest.mark.parametrize("name", ["", "x" * 5000, "~nobody-of-that-name", "a\0b"])
def test_invalid_tags(checkpoints, name):
    assert ("no checkpoint" if name else "tag is empty") in message(find_checkpoint, name)


def test_other_class_is_not_the_embedded_model(checkpoints):
    folder = write_mini(checkpoints / "mine")
    (folder / "pipeline.yaml").write_text("_target_: os.system\ncommand: 'true'\n")
    text = message(find_checkpoint, "mine")
    assert "'os.system'" in text
    assert "trust" in text


def test_yaml_of_something_else_is_named(checkpoints):
    folder = write_mini(checkpoints / "mine")
    (folder / "pipeline.yaml").write_text("x: 1\n")
    assert f"{folder / 'pipeline.yaml'} names no _target_ and no ss_flow" in message(find_checkpoint, "mine")


@pytest.mark.parametrize("inner", ["checkpoints", "checkpoints/hf", "snapshots/0123abc/checkpoints"])
def test_layouts_around_a_checkpoint_are_taken(checkpoints, inner):
    folder = checkpoints / "hf" / inner
    folder.parent.mkdir(parents=True)
    write_stock(folder)
    assert find_checkpoint("hf").folder == folder
    assert loading.check_stock_folder(checkpoints / "hf") is None
    assert find_checkpoint(folder / "pipeline.yaml").folder == folder


@pytest.mark.parametrize("inner", ["", "checkpoints"])
def test_files_of_the_hubs_cache_are_links_without_an_ending(checkpoints, tmp_path, stock_package, inner):
    cache = tmp_path / "models--owner--name"
    folder = cache / "snapshots" / "0123abc" / inner
    folder.parent.mkdir(parents=True)
    write_stock(folder)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = file.rename(cache / "blobs" / f"{number}")
        file.symlink_to(os.path.relpath(blob, folder))
    (checkpoints / "hf").symlink_to(folder)
    assert find_checkpoint(folder / "pipeline.yaml").folder == folder
    assert load_pipeline("hf", device="cpu").parts


@pytest.mark.parametrize("name", ["pipeline.yaml", "ss_decoder.yaml", "slat_decoder_gs.ckpt"])
def test_a_link_out_of_the_folder_is_refused(checkpoints, tmp_path, name):
    folder = write_stock(checkpoints / "hf")
    (folder / name).rename(tmp_path / "other")
    (folder / name).symlink_to(tmp_path / "other")
    text = message(load_pipeline, "hf", device="cpu")
    assert f"{folder / name} is a link to" in text and "outside of the checkpoint's folder" in text


def test_a_link_out_of_the_folder_of_an_embedded_model_is_refused(checkpoints, tmp_path):
    folder = write_mini(checkpoints / "mine")
    (tmp_path / "other").touch()
    (folder / "ss_decoder.safetensors").symlink_to(tmp_path / "other")
    assert "ss_decoder.safetensors is a link to" in message(load_pipeline, "mine", device="cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../other.yaml", "names ../other.yaml, outside of its folder"),
        ("/etc/hostname", "names /etc/hostname, outside of its folder"),
        ('"a\\e[31m.yaml"', "names the file 'a.x1b.31m.yaml': give a name of printable characters"),
        ("7", "names no ss_decoder_config_path"),
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(checkpoints, name, words):
    folder = write_stock(checkpoints / "hf")
    path = folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("ss_decoder.yaml", name))
    assert re.search(words, message(load_pipeline, "hf", device="cpu"))


def test_a_single_file_is_no_checkpoint(checkpoints):
    path = write_stock(checkpoints / "hf") / "ss_generator.ckpt"
    assert f"{path} is a file: give the folder" in message(find_checkpoint, path)


def test_a_missing_checkpoint_lists_where_it_was_looked_for(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = message(find_checkpoint, "~/weights")
    assert str(tmp_path / "weights") in text
    text = message(find_checkpoint, "large")
    assert str(checkpoints / "large") in text and str(Path.cwd() / "large") in text


# --------------------------------------------------------------------------------------------------------- default


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_mini(tmp_path / "embedded")
    monkeypatch.setattr(loading, "resource", lambda name: folder)
    return folder


def test_default_without_own_weights_is_the_embedded_model(checkpoints, embedded):
    found = find_checkpoint()
    assert (found.tag, found.folder, found.kind) == ("mini", embedded, "mini")
    assert "no SAM 3D Objects weights" in found.reason


def test_default_uses_own_weights_if_usable(checkpoints, embedded, stock_package):
    write_stock(checkpoints / "another")
    assert find_checkpoint().tag == "another"
    write_stock(checkpoints / "hf")
    found = find_checkpoint()
    assert (found.tag, found.kind) == ("hf", "sam3d")
    assert "usable" in found.reason


def test_default_reports_why_own_weights_are_not_used(checkpoints, embedded, stock_package, monkeypatch):
    folder = write_stock(checkpoints / "hf")
    (folder / "ss_generator.ckpt").unlink()
    assert "lacks ss_generator.ckpt" in find_checkpoint().reason
    assert find_checkpoint().tag == "mini"
    write_weights(folder / "ss_generator.ckpt", stock_weights("ss_generator"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs an NVIDIA GPU" in find_checkpoint().reason


def test_incomplete_downloads_are_ignored(checkpoints, embedded):
    write_stock(checkpoints / ".hf.partial")
    assert "no SAM 3D Objects weights" in find_checkpoint().reason
    assert ".hf" not in message(find_checkpoint, "xyz")


def test_default_ignores_folders_of_the_embedded_kind(checkpoints, embedded):
    write_mini(checkpoints / "aaa")
    assert find_checkpoint().folder == embedded


def test_the_choice_is_logged_with_its_reason(checkpoints, embedded, stock_package, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    write_stock(checkpoints / "hf")
    load_pipeline(device="cpu")
    assert "pipeline: hf" in caplog.text
    assert "usable" in caplog.text


# --------------------------------------------------------------------------------------------- the stock checkpoint


def test_stock_pipeline_is_built_with_the_loaders_own_settings(checkpoints, stock_package):
    folder = write_stock(checkpoints / "hf")
    pipeline = load_pipeline("hf", device="cpu", dtype="float16")
    assert type(pipeline).__module__ == "sam3d_objects.pipeline"
    settings = pipeline.settings
    assert settings["workspace_dir"] == str(folder)
    assert settings["rendering_engine"] == "pytorch3d"
    assert settings["compile_model"] is False
    assert (settings["device"], settings["dtype"]) == ("cpu", "float16")
    assert pipeline.skipped_init == "true"


def test_dtype_defaults_to_the_checkpoint_and_environment_variables_are_kept(checkpoints, stock_package, monkeypatch):
    monkeypatch.setenv("LIDRA_SKIP_INIT", "1")
    write_stock(checkpoints / "hf")
    pipeline = load_pipeline("hf", device="cpu")
    assert pipeline.settings["dtype"] == "bfloat16"
    assert pipeline.skipped_init == "1"


def test_environment_is_restored_after_loading(checkpoints, stock_package, monkeypatch):
    folder = write_stock(checkpoints / "hf")
    before = dict(os.environ)
    assert load_pipeline("hf", device="cpu").conda == sys.prefix
    assert dict(os.environ) == before
    (folder / "pipeline.yaml").write_text((folder / "pipeline.yaml").read_text().replace("v0", "broken"))
    message(load_pipeline, "hf", device="cpu")
    assert dict(os.environ) == before
    monkeypatch.setenv("CONDA_PREFIX", "/conda")
    write_stock(checkpoints / "other")
    assert load_pipeline("other", device="cpu").conda == "/conda"
    assert os.environ["CONDA_PREFIX"] == "/conda"


def test_default_depth_model_is_loaded_on_the_chosen_device(checkpoints, stock_package):
    write_stock(checkpoints / "hf", DEPTH)
    depth = load_pipeline("hf", device="cpu").settings["depth_model"]
    assert (depth.model, depth.device) == ("Ruicheng/moge-vitl", "cpu")


@pytest.mark.parametrize("given", ["weights/model.pt", "weights", "Ruicheng/moge-2-vitl-normal"])
def test_another_depth_model(checkpoints, stock_package, given):
    write_stock(checkpoints / "hf", DEPTH)
    file = Path("weights/model.pt").resolve()
    file.parent.mkdir()
    file.write_bytes(b"weights")
    depth = load_pipeline("hf", device="cpu", depth_model=given).settings["depth_model"]
    assert depth.model == (given if given.startswith("Ruicheng") else str(file))


@pytest.mark.parametrize("given", ["nowhere/model.pt", "./nowhere", "/a/b/c", "moge", "empty"])
def test_missing_depth_model(checkpoints, stock_package, given):
    write_stock(checkpoints / "hf", DEPTH)
    Path("empty").mkdir()
    assert "there is no depth model" in message(load_pipeline, "hf", device="cpu", depth_model=given)


def test_depth_model_that_cannot_be_replaced(checkpoints, stock_package):
    write_stock(checkpoints / "hf", "depth_model: null\n")
    assert "no depth model under depth_model.model" in message(
        load_pipeline, "hf", device="cpu", depth_model="Ruicheng/moge-vitl"
    )
    write_mini(checkpoints / "small")
    assert "embedded model has no depth model" in message(
        load_pipeline, "small", device="cpu", depth_model="Ruicheng/moge-vitl"
    )


def test_a_numbered_gpu_is_the_current_one_while_loading(checkpoints, stock_package, monkeypatch, caplog):
    write_stock(checkpoints / "hf")
    entered = []

    @contextlib.contextmanager
    def current(device):
        entered.append(str(device))
        yield

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", current)
    assert load_pipeline("hf", device="cuda:0").settings["device"] == "cuda:0"
    assert entered == []
    load_pipeline("hf", device="cuda:1")
    assert entered == ["cuda:1"]
    assert "torch.cuda.set_device(1)" in caplog.text


def test_missing_package(checkpoints, monkeypatch):
    write_stock(checkpoints / "hf")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "sam3d_objects", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "sam3d_objects, which is not importable" in message(load_pipeline, "hf", device="cpu", runtime="stock")


def test_missing_gpu(checkpoints, stock_package, monkeypatch):
    write_stock(checkpoints / "hf")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs an NVIDIA GPU" in message(load_pipeline, "hf", device="cpu", runtime="stock")


@pytest.mark.parametrize("name", ["slat_generator.ckpt", "slat_generator.yaml", "ss_decoder.safetensors"])
def test_missing_files_are_named(checkpoints, stock_package, name):
    (write_stock(checkpoints / "hf") / name).unlink()
    text = message(load_pipeline, "hf", device="cpu")
    assert f"lacks {name};" in text
    assert "request access" in text


@pytest.mark.parametrize("name", ["slat_generator.ckpt", "ss_decoder.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "pointer", "page"])
def test_damaged_weights_are_named(checkpoints, stock_package, name, damage):
    path = write_stock(checkpoints / "hf") / name
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) * 2 // 3],
            "empty": b"",
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "page": b"<!doctype html><title>Access to model is restricted</title>",
        }[damage]
    )
    text = message(load_pipeline, "hf", device="cpu")
    assert str(path) in text
    words = {"cut": "corrupt or incomplete", "empty": "is empty", "pointer": "LFS pointer", "page": "is a web page"}
    assert words[damage] in text


@pytest.mark.parametrize("content", ["", "a: [", "- 1\n", "\x00\x01", "a: &a [*a]", "!!int x", "a: !!timestamp x"])
def test_unreadable_settings(checkpoints, stock_package, content):
    folder = write_stock(checkpoints / "hf")
    (folder / "pipeline.yaml").write_text(content)
    assert "pipeline.yaml" in message(load_pipeline, "hf", device="cpu")


def test_yaml_files_are_checked_before_any_import(checkpoints, stock_package, monkeypatch):
    folder = write_stock(checkpoints / "hf")
    with (folder / "ss_decoder.yaml").open("a") as stream:
        stream.write("extra: {_target_: os.system}\n")
    assert "os.system" in message(load_pipeline, "hf", device="cpu")
    assert "sam3d_objects" not in sys.modules


def test_names_imported_by_an_allowed_package_are_refused(checkpoints, stock_package):
    folder = write_stock(checkpoints / "hf")
    (folder / "ss_decoder.yaml").write_text("_target_: sam3d_objects.pipeline.os.system\ncommand: 'true'\n")
    text = message(load_pipeline, "hf", device="cpu")
    assert "sam3d_objects.pipeline.os.system" in text
    assert "trust" in text


def test_classes_of_torch_are_allowed(checkpoints, stock_package):
    write_stock(checkpoints / "hf", "extra: {_target_: torch.nn.Linear, in_features: 2, out_features: 3}\n")
    assert load_pipeline("hf", device="cpu").settings["extra"].out_features == 3


def test_missing_targets(checkpoints, stock_package):
    write_stock(checkpoints / "hf", "extra: {_target_: sam3d_objects.nowhere.Thing}\n")
    text = message(load_pipeline, "hf", device="cpu")
    assert "'sam3d_objects.nowhere.Thing'" in text
    assert "No module named 'sam3d_objects.nowhere'" in text
    assert "fast-sam3d doctor" in text


def test_failing_constructor_is_reported_with_its_cause(checkpoints, stock_package):
    folder = write_stock(checkpoints / "hf")
    path = folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("version: v0", "version: broken"))
    text = message(load_pipeline, "hf", device="cpu")
    assert "size mismatch for blocks.0" in text
    assert "second line" not in text


def test_torch_files_are_recognised_by_their_zip_directory(tmp_path):
    torch.save({"a": 1}, tmp_path / "x.ckpt")
    assert zipfile.is_zipfile(tmp_path / "x.ckpt")


# ------------------------------------------------------------------------------------------------ device and dtype


@pytest.mark.parametrize(
    ("device", "word"),
    [
        ("gpu", "is not a device"),
        ("cuda", "no CUDA GPU"),
        ("cuda:7", "no CUDA GPU"),
        ("meta", "holds no data"),
        ("xpu", "cannot use it"),
        ("ipu", "cannot use it"),
    ],
)
def test_unavailable_devices(checkpoints, embedded, monkeypatch, device, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if device == "xpu" and torch.xpu.is_available():
        pytest.skip("there is one here")
    text = message(load_pipeline, device=device)
    assert word in text
    assert "--device cpu" in text or device == "gpu"


def test_unavailable_gpu_number(checkpoints, embedded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "2 GPU(s)" in message(load_pipeline, device="cuda:2")


def test_unknown_dtype(checkpoints, embedded):
    assert "did you mean 'float32'" in message(load_pipeline, device="cpu", dtype="float3")


def test_a_memory_plan_is_refused_where_there_are_none(checkpoints, embedded):
    assert "the embedded model has no memory plans" in message(load_pipeline, "mini", memory="8GB")
    assert "'8 GB' is not a memory plan" in message(load_pipeline, "mini", memory="8 GB")


# ---------------------------------------------------------------------------------------------- the embedded model


def test_the_shipped_weights_load():
    load_checkpoint(Checkpoint("mini", resource("checkpoints/mini"), "mini", "the test says so"), "cpu")


def test_half_precision_on_a_cpu_is_a_warning(checkpoints, caplog):
    random_mini().save_pretrained(checkpoints / "small")
    load_pipeline("small", device="cpu", dtype="float32")
    assert caplog.text == ""
    load_pipeline("small", device="cpu", dtype="float16")
    assert "float16 is much slower" in caplog.text


def test_embedded_checkpoint_without_weights(checkpoints, embedded):
    text = message(load_pipeline, "mini" if (checkpoints / "mini").exists() else embedded, device="cpu")
    assert "missing" in text
    assert "train-mini" in text
