"""Weights files of stock checkpoints: both formats, every layout, strict, and named when they are unusable."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.checkpoints.load import check_stock_folder, load_pipeline
from fast_sam3d.checkpoints.requirements import FORK_MARK
from fast_sam3d.checkpoints.tensors import check_weights
from fast_sam3d.errors import CheckpointError
from tests.checkpoints.test_load import (  # noqa: F401 (fixtures)
    PARTS,
    checkpoints,
    message,
    stock_package,
    stock_weights,
    write_stock,
    write_weights,
)

State = dict[str, Tensor]
LAYOUTS: dict[str, Callable[[str], str]] = {
    "published": lambda name: name,
    "state_dict kept": lambda name: f"state_dict.{name}",
    "without _base_models": lambda name: name.removeprefix("_base_models."),
    "bare": lambda name: name.removeprefix("_base_models.generator."),
}


@pytest.fixture
def folder(checkpoints: Path, stock_package: None) -> Path:  # noqa: F811
    return write_stock(checkpoints / "hf")


def renamed(state: State, rename: Callable[[str], str]) -> State:
    return {rename(name): value for name, value in state.items()}


def states(pipeline: Any) -> State:
    return {f"{part}/{k}": v for part, network in pipeline.parts.items() for k, v in network.state_dict().items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_network_has_its_weights_and_is_frozen(folder):
    pipeline = load_pipeline("hf", device="cpu")
    expected = {
        f"{part}{name.split('.')[1] if name.startswith('_base') else ''}/{name[name.index('blocks') :]}": value
        for part in PARTS
        for name, value in stock_weights(part).items()
    }
    assert same(states(pipeline), expected)
    for network in pipeline.parts.values():
        assert network.moved_to == "cpu" and not network.training
        assert not any(p.requires_grad for p in network.parameters())
    kind = importlib.import_module("sam3d_objects.pipeline").Pipeline
    assert type(pipeline) is kind
    with pytest.raises(AssertionError, match="unpickles"):
        kind.instantiate_and_load_from_pretrained(pipeline)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_converted_files_give_the_same_networks(folder, layout, beside):
    expected = states(load_pipeline("hf", device="cpu"))
    for part in PARTS:
        state = stock_weights(part)
        if layout == "bare" and part.endswith("generator"):
            # Two networks of equal names cannot be in one file without their prefixes.
            state = {name: value for name, value in state.items() if ".generator." in name}
            text = (folder / f"{part}.yaml").read_text()
            (folder / f"{part}.yaml").write_text(text[: text.index(", condition_embedder")] + "}\n")
        write_weights(folder / f"{part}.safetensors", renamed(state, LAYOUTS[layout]))
        ckpt = folder / f"{part}.ckpt"
        if beside and ckpt.is_file():
            ckpt.write_bytes(b"not read")
        else:
            ckpt.unlink(missing_ok=True)
    found = states(load_pipeline("hf", device="cpu"))
    assert same(found, {name: expected[name] for name in found})
    assert layout == "bare" or found.keys() == expected.keys()


def test_safetensors_take_precedence_and_the_choice_is_logged(folder, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    state = {name: value + 1 for name, value in stock_weights("ss_generator").items()}
    write_weights(folder / "ss_generator.safetensors", state)
    found = states(load_pipeline("hf", device="cpu"))
    assert torch.equal(found["ss_generatorgenerator/blocks.0.bias"], state["_base_models.generator.blocks.0.bias"])
    assert "weights: ss_generator.safetensors instead of the files that pipeline.yaml names" in caplog.text


def test_ckpt_is_read_where_the_named_safetensors_is_missing(folder):
    expected = states(load_pipeline("hf", device="cpu"))
    (folder / "ss_decoder.safetensors").unlink()
    write_weights(folder / "ss_decoder.ckpt", stock_weights("ss_decoder"))
    assert same(states(load_pipeline("hf", device="cpu")), expected)


def test_unneeded_copy_of_the_decoder_is_ignored(folder):
    expected = states(load_pipeline("hf", device="cpu"))
    write_weights(folder / "ss_generator.ckpt", stock_weights("ss_generator", ballast=5))
    assert same(states(load_pipeline("hf", device="cpu")), expected)


def test_half_precision_is_converted(folder):
    state = {name: value.half() for name, value in stock_weights("ss_decoder").items()}
    write_weights(folder / "ss_decoder.safetensors", state)
    found = states(load_pipeline("hf", device="cpu"))["ss_decoder/blocks.1.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, state["blocks.1.weight"].float())


def changed(name: str, value: Tensor | None) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in {**state, name: value}.items() if v is not None}


FIRST = "_base_models.generator.blocks.1.weight"
BAD: dict[str, tuple[Callable[[State], State], str, bool]] = {
    # what is done to ss_generator, what the message says, whether the header shows it
    "missing": (changed(FIRST, None), "lack blocks.1.weight", True),
    "missing block": (
        lambda state: {k: v for k, v in state.items() if "generator.blocks.1" not in k},
        "lack blocks.1 (num_blocks is 2",
        True,
    ),
    "surplus": (changed("_base_models.generator.odd", torch.zeros(1)), "have odd, which the network lacks", False),
    "surplus in a block": (
        changed("_base_models.generator.blocks.1.odd", torch.zeros(1)),
        "have a surplus blocks.1.odd",
        True,
    ),
    "surplus block": (changed("_base_models.generator.blocks.2.bias", torch.zeros(1)), "have a surplus blocks.2", True),
    "no embedder": (
        lambda state: {k: v for k, v in state.items() if "embedder" not in k},
        "lack _base_models.condition_embedder.*",
        True,
    ),
    "shape": (changed(FIRST, torch.zeros(3, 4)), "have another shape of blocks.1.weight", True),
    "all shapes": (
        lambda state: {k: v.repeat(2, *[1] * (v.dim() - 1)) if "generator" in k else v for k, v in state.items()},
        "have blocks.0.weight with the shape [6, 3], and the network takes [3, 3]",
        False,
    ),
    "nan": (changed(FIRST, torch.full((3, 3), torch.nan)), "values in blocks.1.weight that are not finite", False),
    "inf": (changed(FIRST, torch.full((3, 3), -torch.inf)), "values in blocks.1.weight that are not finite", False),
    "int8": (changed(FIRST, torch.zeros(3, 3, dtype=torch.int8)), "have blocks.1.weight as int8", True),
    "float8": (changed(FIRST, torch.zeros(3, 3).to(torch.float8_e4m3fn)), "have blocks.1.weight as float8", True),
}


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
@pytest.mark.parametrize("fault", BAD)
def test_unusable_weights_are_named_with_their_file(folder, fault, ending):
    change, words, in_header = BAD[fault]
    path = write_weights(folder / f"ss_generator.{ending}", change(stock_weights("ss_generator")))
    text = message(load_pipeline, "hf", device="cpu")
    assert f"the weights {path} {words}" in text or words in text
    assert str(path) in text
    # A converted file can be removed to use the other one.
    assert ("remove it to use ss_generator.ckpt" in text) == (ending == "safetensors")
    assert (check_stock_folder(folder) is not None) == in_header


def test_overflow_of_half_precision_is_found(folder, monkeypatch):
    kind = importlib.import_module("sam3d_objects.pipeline").Part
    make = kind.__init__

    def half(self: Any, **options: Any) -> None:
        make(self, **options)
        self.half()

    monkeypatch.setattr(kind, "__init__", half)
    state = {**stock_weights("ss_decoder"), "blocks.0.bias": torch.full((3,), 1e6)}
    write_weights(folder / "ss_decoder.safetensors", state)
    assert "values in blocks.0.bias that are not finite in float16" in message(load_pipeline, "hf", device="cpu")


def test_half_of_a_folder_is_named(folder):
    for name in ("ss_generator.ckpt", "ss_decoder.safetensors", "slat_decoder_gs.yaml"):
        (folder / name).unlink()
    for text in (message(load_pipeline, "hf", device="cpu"), check_stock_folder(folder)):
        assert f"{folder} lacks slat_decoder_gs.yaml, ss_decoder.safetensors, ss_generator.ckpt;" in text


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("pipeline.yaml", "x: 1\n", "pipeline.yaml names no _target_"),
        ("pipeline.yaml", "_target_: sam3d_objects.pipeline.Pipeline\n", "names no ss_generator_config_path"),
        ("ss_generator.yaml", "x: 1\n", "ss_generator.yaml names no module.generator.backbone._target_"),
        ("ss_generator.yaml", "module: [1]\n", "ss_generator.yaml names no module.generator.backbone._target_"),
        ("ss_decoder.yaml", "x: 1\n", "ss_decoder.yaml names no _target_"),
        ("ss_decoder.yaml", "_target_: sam3d_objects.pipeline.ShortCut_faster\n", "a class of the Fast-SAM3D fork"),
        ("ss_decoder.yaml", "_target_: os.system\n", "would build 'os.system'"),
    ],
)
def test_yaml_files_are_checked_deeply(folder, file, content, words):
    (folder / file).write_text(content)
    text = check_stock_folder(folder)
    assert text is not None and words in text and str(folder / file) in text


def test_depth_model_named_by_the_yaml_must_exist(folder):
    with (folder / "pipeline.yaml").open("a") as stream:
        stream.write("depth_model: {model: {pretrained_model_name_or_path: /nowhere/moge/model.pt}}\n")
    for text in (check_stock_folder(folder), message(load_pipeline, "hf", device="cpu")):
        assert f"{folder / 'pipeline.yaml'} names a depth model, but there is no depth model /nowhere/moge" in text


def test_the_fork_of_the_package_is_refused(folder, tmp_path):
    assert check_stock_folder(folder) is None
    home, name = FORK_MARK.split(":")
    module = tmp_path.joinpath("site", *home.split(".")).with_suffix(".py")
    module.parent.mkdir(parents=True)
    module.write_text(f"class {name}(FlowMatching):\n    pass\n")
    text = message(load_pipeline, "hf", device="cpu")
    assert "is the Fast-SAM3D fork's" in text and "facebookresearch/sam-3d-objects" in text


def test_other_loaders_are_refused(folder):
    kind = importlib.import_module("sam3d_objects.pipeline").Pipeline
    del kind.instantiate_and_load_from_pretrained
    assert "has no method instantiate_and_load_from_pretrained" in message(load_pipeline, "hf", device="cpu")


def test_a_yaml_with_far_too_many_blocks_is_refused_at_once(tmp_path: Path) -> None:
    write_weights(tmp_path / "net.safetensors", {f"blocks.{number}.weight": torch.zeros(1) for number in range(2)})
    with pytest.raises(CheckpointError, match=f"lack blocks.2 .num_blocks is {10**15} in the yaml"):
        check_weights(tmp_path / "net.ckpt", {"": {"num_blocks": 10**15}}, "")
