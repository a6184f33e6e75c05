"""Weights from files: strict, tensor by tensor, in the types that each network is published for."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.names import NETWORKS, ROOT, module_tensor
from fast_sam3d.native.networks import build_networks, file_parts, make_parts
from fast_sam3d.native.settings import PUBLISHED, NativeSettings
from fast_sam3d.native.weights import WeightsPart
from tests.native.checkpoint import change, read, save, write_checkpoint
from tests.native.published_keys import published_keys

CPU = torch.device("cpu")


def parts(folder: Path) -> dict[str, WeightsPart]:
    return file_parts(folder, NativeSettings.read(folder), "download it again")


@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
def test_loads_every_tensor_and_releases_it(shared: Path, half: torch.dtype | None) -> None:
    found = parts(shared)
    for part in found.values():
        part.load(CPU, half)
    for name, part in found.items():
        file, inner = NETWORKS[name]
        saved = read(shared / f"{file}.ckpt")
        start = f"{ROOT}{inner}." if inner else ""
        wanted = dict(
            module_tensor(key.removeprefix(start), value) for key, value in saved.items() if key.startswith(start)
        )
        own = part.module.state_dict()
        assert own.keys() == wanted.keys()
        for key, value in own.items():
            assert torch.equal(value, wanted[key].to(part.dtype(key, half))) and value.is_contiguous()
        assert not any(p.requires_grad for p in part.module.parameters()) and not part.module.training
    for part in found.values():
        part.release()
    for part in found.values():
        assert all(value.is_meta for value in part.module.state_dict().values())


def test_half_precision_stores_what_the_published_networks_do() -> None:
    networks = build_networks(PUBLISHED)
    found = make_parts(networks, {name: {} for name in networks}, PUBLISHED)
    for name in ("slat_generator", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4"):
        types = {
            key: dtype
            for key, (_, dtype) in published_keys()[name].items()
            if key.endswith((".weight", ".bias", "gamma", "perturbation"))
        }
        own = {key: found[name].dtype(module_tensor(key, torch.empty(0))[0], torch.float16) for key in types}
        assert own == types
    # Under autocast, everything that is multiplied; norms, gains, tokens and position codes are not.
    in_half = found["ss_generator"].in_half | found["ss_condition_embedder"].in_half
    assert "reverse_fn.backbone.latent_mapping.scale.out_layer.bias" in in_half
    assert "module_list.0.backbone.patch_embed.proj.weight" in in_half
    assert not any(re.search(r"norm\d?\.|gamma|pos_e|token", key) for key in in_half)
    assert not found["ss_decoder"].in_half


def test_equal_image_encoders_are_loaded_once(shared: Path) -> None:
    found = parts(shared)
    first, second = found["ss_condition_embedder"], found["slat_condition_embedder"]
    encoders = [*first.module.image_encoders(), *second.module.image_encoders()]
    assert len({id(encoder.backbone) for encoder in encoders}) == 1
    own = sum(p.numel() * 4 for p in second.module.parameters())
    shared_bytes = sum(p.numel() * 4 for p in encoders[0].backbone.parameters())
    assert second.size(None) == own - shared_bytes and first.size(None) > shared_bytes
    first.load(CPU, None)
    before = encoders[0].backbone.norm.weight
    second.load(CPU, None)
    assert encoders[0].backbone.norm.weight is before
    first.release()
    assert not before.is_meta and encoders[0].backbone.norm.weight is before
    second.release()
    assert encoders[0].backbone.norm.weight.is_meta


def test_different_image_encoders_stay_apart(tmp_path: Path) -> None:
    found = parts(write_checkpoint(tmp_path, equal_encoders=False))
    encoders = [e for name in found if "embedder" in name for e in found[name].module.image_encoders()]
    assert len({id(encoder.backbone) for encoder in encoders}) == 4


def test_safetensors_are_read_too(tmp_path: Path, shared: Path) -> None:
    found = parts(write_checkpoint(tmp_path, ending=".safetensors"))
    other = parts(shared)
    for name in ("ss_generator", "slat_decoder_mesh"):
        for part in (found[name], other[name]):
            part.load(CPU, None)
        for key, value in found[name].module.state_dict().items():
            assert torch.equal(value, other[name].module.state_dict()[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_any_floating_type_are_read(folder: Path, dtype: torch.dtype) -> None:
    path = folder / "slat_decoder_mesh.ckpt"
    save(path, {key: value.to(dtype) for key, value in read(path).items()}, wrapped=False)
    part = parts(folder)["slat_decoder_mesh"]
    part.load(CPU, None)
    wanted = read(path)["out_layer.weight"].float()
    assert torch.equal(part.module.out_layer.weight, wanted)


MESH, SS = "slat_decoder_mesh.ckpt", "ss_generator.ckpt"
GENERATOR = "_base_models.generator.reverse_fn.backbone"


def test_a_missing_tensor_is_named_with_its_file(folder: Path) -> None:
    change(folder / SS, **{f"{GENERATOR}.blocks.1.norm2.shape.weight": None})
    with pytest.raises(CheckpointError, match=rf"{SS} lack .*blocks\.1\.norm2\.shape\.weight: download"):
        parts(folder)


def test_a_misshapen_tensor_is_named_by_its_key_in_the_file(folder: Path) -> None:
    change(folder / MESH, **{"upsample.0.skip_connection.conv.weight": torch.zeros(64, 1, 1, 1, 255)})
    with pytest.raises(
        CheckpointError, match=rf"{MESH} have upsample\.0\.skip_connection\.conv\.weight as \[64, 255\]"
    ):
        parts(folder)


def test_a_transposed_kernel_is_refused(folder: Path) -> None:
    # [k, k, k, in, out], as an early port assumed.
    key = "upsample.0.out_layers.0.conv.weight"
    saved = read(folder / MESH)[key]
    change(folder / MESH, **{key: saved.permute(1, 2, 3, 4, 0).contiguous()})
    with pytest.raises(CheckpointError, match="out_layers"):
        parts(folder)


def test_a_surplus_tensor_is_refused(folder: Path) -> None:
    change(folder / SS, **{f"{GENERATOR}.novelty": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"{SS} have {GENERATOR}\.novelty, which the network lacks"):
        parts(folder)


def test_the_copy_of_the_decoder_is_ignored(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert any(key.startswith("_base_models.decoder.") for key in read(shared / SS))
    parts(shared)["ss_generator"].load(CPU, None)
    assert not caplog.text


def test_tensors_of_no_network_are_ignored_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder / SS, **{"_base_models.teacher.weight": torch.zeros(1)})
    parts(folder)["ss_generator"].load(CPU, None)
    assert caplog.text.count("1 tensors belong to no network and are ignored: _base_models.teacher.weight") == 1


def test_whole_numbers_are_refused(folder: Path) -> None:
    change(folder / MESH, **{"out_layer.bias": torch.zeros(101, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=r"out_layer\.bias as int8"):
        parts(folder)


@pytest.mark.parametrize(("value", "half"), [(float("nan"), None), (float("inf"), None), (1e6, torch.float16)])
def test_values_that_are_not_finite_are_refused_and_nothing_stays_loaded(
    folder: Path, value: float, half: torch.dtype | None
) -> None:
    key = "blocks.0.mlp.mlp.2.weight"
    saved = read(folder / MESH)[key]
    saved[0, 0] = value
    change(folder / MESH, **{key: saved})
    part = parts(folder)["slat_decoder_mesh"]
    with pytest.raises(CheckpointError, match=rf"{MESH} have values in .*2\.weight that are not finite in float"):
        part.load(CPU, half)
    assert all(tensor.is_meta for tensor in part.module.state_dict().values())


def test_a_truncated_file_is_refused_before_anything_is_loaded(folder: Path) -> None:
    path = folder / MESH
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="corrupt or incomplete"):
        parts(folder)


def test_a_file_of_another_model_is_refused(folder: Path) -> None:
    (folder / "ss_decoder.ckpt").write_bytes((folder / MESH).read_bytes())
    with pytest.raises(CheckpointError, match=r"ss_decoder\.ckpt"):
        parts(folder)


class OneAtATime(dict[str, torch.Tensor]):
    """Tensors that are made when they are asked for; the one before must be gone by then."""

    last: Any = staticmethod(lambda: None)

    def like(self, name: str) -> torch.Tensor:
        return super().__getitem__(name)

    def __getitem__(self, name: str) -> torch.Tensor:
        assert self.last() is None
        value = torch.ones(self.like(name).shape)
        self.last = weakref.ref(value)
        return value


@pytest.mark.parametrize("half", [None, torch.float16])
def test_only_one_tensor_of_the_file_is_held_beside_the_weights(half: torch.dtype | None) -> None:
    class Source:
        @contextmanager
        def opened(self) -> Iterator[OneAtATime]:
            yield OneAtATime(network.state_dict())

    with torch.device("meta"):
        network = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    part = WeightsPart("any", network, {None: Source()}, {"0.weight"}, [])
    part.load(CPU, half)
    assert network[0].weight.dtype is (half or torch.float32) and network[2].bias.sum() == 4
