"""Condition embedder: token order, and dependence on every input."""

from __future__ import annotations

import pytest
import torch

from fast_sam3d.model.config import EmbedderConfig
from fast_sam3d.model.embedder import ConditionEmbedder

SMALL = EmbedderConfig(image_size=16, patch_size=8, model_channels=24, num_blocks=1, num_heads=2)


def crops(batch: int = 2, size: int = 16) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(batch, 3, size, size, generator=g),
        "mask": torch.rand(batch, 1, size, size, generator=g),
        "pointmap": torch.randn(batch, 3, size, size, generator=g),
        "descriptor": torch.randn(batch, 8, generator=g),
    }


def test_tokens_and_default_sizes() -> None:
    embedder = ConditionEmbedder()
    assert embedder(**crops(1, 64)).shape == (1, 65, 192)
    assert EmbedderConfig().num_tokens == 65
    assert EmbedderConfig(descriptor_channels=0).num_tokens == 64


@pytest.mark.parametrize("name", ["image", "mask", "pointmap", "descriptor"])
def test_tokens_depend_on_every_input(name: str) -> None:
    torch.manual_seed(0)
    embedder, inputs = ConditionEmbedder(SMALL), crops()
    base = embedder(**inputs)
    changed = embedder(**{**inputs, name: inputs[name].flip(-1)})
    assert not torch.allclose(base, changed, atol=1e-4)


def test_patch_tokens_are_row_major() -> None:
    torch.manual_seed(0)
    embedder = ConditionEmbedder(EmbedderConfig(**{**vars(SMALL), "num_blocks": 0, "descriptor_channels": 0}))
    inputs = crops(1)
    del inputs["descriptor"]
    base = embedder(**inputs)
    inputs["image"][:, :, 0:8, 8:16] = 0
    changed = embedder(**inputs)
    assert (base != changed).any(-1).tolist() == [[False, True, False, False]]


def test_missing_descriptor_equals_zeros() -> None:
    torch.manual_seed(0)
    embedder, inputs = ConditionEmbedder(SMALL), crops()
    zeros = embedder(**{**inputs, "descriptor": torch.zeros(2, 8)})
    del inputs["descriptor"]
    assert torch.equal(embedder(**inputs), zeros)


def test_crop_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="crops must be"):
        ConditionEmbedder(SMALL)(**crops(1, 24))
