"""The bed itself: the checkpoint that it writes is one that the stock loader accepts."""

from __future__ import annotations

from typing import Any

import torch

from tests.beds import differing, tensors
from tests.minis import rgba
from tests.stock.native import bed, published

pytestmark = bed.needs_dinov2


def run(pipeline: Any) -> dict[str, torch.Tensor]:
    with bed.running():
        return tensors(pipeline.run(rgba(), None, seed=0, decode_formats=["gaussian"], with_mesh_postprocess=False))


def test_the_stock_loader_reads_the_folder_strictly_and_gives_the_same_results() -> None:
    original = bed.random_published(0)
    result = run(original)
    assert differing(run(bed.from_checkpoint(bed.checkpoint(0))), result) == set()
    assert 50 < len(result["coords"]) < 1000
    assert all(value.isfinite().all() for name, value in result.items() if name != "pointmap")


def test_the_folder_has_the_published_names() -> None:
    folder = bed.checkpoint(0)
    files = {path.name for path in folder.iterdir()}
    assert files == {"pipeline.yaml", *(f"{name}.{end}" for name in published.NETWORKS for end in ("yaml", "ckpt"))}
    state = torch.load(folder / "ss_generator.ckpt")["state_dict"]
    assert {key.split(".")[1] for key in state} == {"generator", "condition_embedder", "decoder"}
    assert "_base_models.generator.reverse_fn.backbone.latent_mapping.shape.pos_emb" in state
    mesh = torch.load(folder / "slat_decoder_mesh.ckpt")
    assert mesh["upsample.0.skip_connection.conv.weight"].shape == (64, 1, 1, 1, 256)
