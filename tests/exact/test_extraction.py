"""Sparse mesh extraction without stock classes, which `tests/stock/test_extraction.py` has."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.exact import extraction
from fast_sam3d.exact.extraction import _Regular
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.patch import seam_at
from tests.minis import picture, random_mini

ONLY = {"exact": {"unconditional": False, "context": False, "subdivision": False, "extraction": True}}
CORNERS = torch.tensor([[j & 1, j >> 1 & 1, j >> 2] for j in range(8)])
EDGES = torch.tensor([0, 1, 1, 5, 4, 5, 0, 4, 2, 3, 3, 7, 6, 7, 2, 6, 2, 0, 3, 1, 7, 5, 6, 4])


def test_surface_edges_are_numbered_as_sorted_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    side, count = 4, 9
    cubes = torch.randperm(27, generator=generator)[:count].sort().values
    places = torch.stack([cubes // 9, cubes // 3 % 3, cubes % 3], dim=1)
    corners = ((places[:, None] + CORNERS) * torch.tensor([side * side, side, 1])).sum(-1)
    field = torch.randn(side**3, generator=generator)
    chosen = torch.ones(count, dtype=torch.bool)
    edges, number, shared, crossed = _Regular(EDGES, EDGES, cubes, side).surface_edges(field, corners, chosen)

    pairs = [tuple(pair) for pair in corners[:, EDGES].view(-1, 2).tolist()]
    cut = [(field[a] < 0) != (field[b] < 0) for a, b in pairs]
    want = sorted({pair for pair, is_cut in zip(pairs, cut, strict=True) if is_cut})
    assert [tuple(pair) for pair in edges.tolist()] == want
    assert crossed.tolist() == cut
    for pair, is_cut, index, times in zip(pairs, cut, number.tolist(), shared.tolist(), strict=True):
        assert index == (want.index(pair) if is_cut else -1)
        assert times == (pairs.count(pair) if is_cut else 0)


class Other:
    """An extractor of another kind."""

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.extractor(*args, **kwargs)


class Pretender(Other):
    """Has every attribute of the stock one, but another constructor."""

    res, sdf_bias, use_color, feats_channels, get_layout = 256, 0.0, True, 101, None
    mesh_extractor = SimpleNamespace(
        **dict.fromkeys(
            ("check_table", "cube_corners", "cube_edges", "_get_case_id", "_identify_surf_edges", "_compute_reg_loss")
        )
    )


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Other, "the extractor (Other) fails on a small trial: AttributeError"),
        (Pretender, "the extractor (Pretender) fails on a small trial: TypeError"),
    ],
)
def test_another_extractor_is_skipped_with_a_log_message(
    kind: type[Other], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = random_mini()
    plain = mesh(pipeline)
    decoder: Any = pipeline.models["slat_decoder_mesh"]
    decoder.mesh_extractor = other = kind(decoder.mesh_extractor)
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, ONLY):
        results = [mesh(pipeline) for _ in range(2)]
    said = [record.message for record in caplog.records if "exact.extraction stays off" in record.message]
    assert len(said) == 1 and says in said[0]
    assert decoder.mesh_extractor is other
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, plain, strict=True))


def test_out_of_memory_in_the_trial_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(extractor: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(extraction, "_trial", fail)
    pipeline = random_mini()
    decoder: Any = pipeline.models["slat_decoder_mesh"]
    decoder.mesh_extractor = Other(decoder.mesh_extractor)
    with fast_sam3d.accelerated(pipeline, ONLY), pytest.raises(RuntimeError, match="allocate memory"):
        mesh(pipeline)


def test_embedded_extractor_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = random_mini()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, ONLY):
        assert seam_at(pipeline.models["slat_decoder_mesh"], "mesh_extractor") is None
    assert not caplog.records


def mesh(pipeline: Pipeline) -> tuple[Tensor, Tensor, Tensor]:
    found = pipeline.run(*picture(), seed=0, decode_formats=["mesh"])["mesh"][0]
    return found.vertices, found.faces, found.vertex_attrs
