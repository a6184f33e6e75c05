"""Cells of voxels, and the detail of a shape at each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fast_sam3d.sampling.exchange import Exchange, begin_run, keep_occupancy, keep_scale
from fast_sam3d.sampling.tokens import Tokens, cells, high_frequency


def coords(rows: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def test_cells_are_aligned_to_the_grid() -> None:
    rows = coords([(0, 1, 1, 1), (0, 2, 2, 2), (0, 3, 3, 3), (0, 2, 2, 4), (1, 1, 1, 1)])
    cell, count = cells(rows)
    assert (cell.tolist(), count) == ([0, 1, 1, 2, 3], 4)


@pytest.mark.parametrize("extent", [(2, 9, 9, 9), (4, 3, 9, 15), (2, 15, 9, 3), (1, 9, 15, 4)])
def test_cells_against_a_slow_reference(extent: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(0, n, (300,), generator=generator) for n in extent], dim=1).int()
    cell, count = cells(rows, 3)
    keys = [(b, x // 3, y // 3, z // 3) for b, x, y, z in rows.tolist()]
    assert count == len(set(keys))
    assert cell.tolist() == [sorted(set(keys)).index(key) for key in keys]


@pytest.mark.parametrize("cutoff", [0.0, 0.125, 0.3])
@pytest.mark.parametrize("size", [8, 7])
def test_high_frequency_against_a_slow_reference(size: int, cutoff: float) -> None:
    """The same filter as a sum over all frequencies."""
    logits = torch.randn(1, size, size, size, generator=torch.Generator().manual_seed(1))
    places = torch.argwhere(logits > 0.5).int()
    positive = logits[0].clamp_min(0).double().numpy()
    k = np.arange(size)
    frequency = np.where(k < (size + 1) // 2, k, k - size) / size
    if size % 2 == 0:
        frequency[size // 2] = 0.5
    wave = np.exp(-2j * np.pi * np.outer(k, k) / size)
    spectrum = np.einsum("ax,by,cz,xyz->abc", wave, wave, wave, positive)
    radius = np.sqrt(frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + frequency**2)
    spectrum[radius < cutoff] = 0
    back = np.abs(np.einsum("ax,by,cz,abc->xyz", wave.conj(), wave.conj(), wave.conj(), spectrum).real) / size**3
    expected = back[tuple(places[:, 1:].T.numpy())]
    np.testing.assert_allclose(high_frequency(logits, places, cutoff).numpy(), expected, atol=1e-5)


def test_a_thin_part_has_more_detail_than_the_middle_of_a_block() -> None:
    logits = torch.full((1, 32, 32, 32), -1.0)
    logits[0, 4:20, 4:20, 4:20] = 1.0
    logits[0, 12, 12, 20:30] = 1.0
    block, rod = high_frequency(logits, coords([(0, 12, 12, 12), (0, 12, 12, 25)]), 0.125)
    assert rod > 2 * block


def test_negative_logits_do_not_count() -> None:
    logits = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    places = torch.argwhere(logits > 0).int()
    deeper = torch.where(logits < 0, logits * 9, logits)
    assert torch.equal(high_frequency(logits, places, 0.2), high_frequency(deeper, places, 0.2))


def test_positions_of_merged_voxels() -> None:
    merged, logits = coords([(1, 3, 2, 5)]), torch.zeros(2, 8, 8, 8)
    # Voxel 5 is 1.5 from the middle, 4: twice that is 7, in cell 7.
    assert Tokens(merged, logits, scale=2.0).places.tolist() == [[1, 3, 1, 7]]
    assert Tokens(merged, logits).places.tolist() == [[1, 3, 2, 5]]


def test_exchange_holds_the_current_object_only() -> None:
    scene, rows = Exchange(), coords([(0, 1, 2, 3)])
    logits = torch.ones(1, 1, 4, 4, 4)
    assert keep_occupancy(scene, lambda: logits) is logits
    assert keep_scale(scene, lambda: {"downsample_factor": 2}) == {"downsample_factor": 2}
    assert scene.scale == 2.0
    scene.scale = 1.0
    assert scene.tokens(rows).occupancy is not None
    assert scene.tokens(coords([(0, 1, 4, 1)])).occupancy is None  # outside of a grid of 4: another object's voxels
    assert scene.tokens(coords([(1, 1, 1, 1)])).occupancy is None
    assert begin_run(scene, lambda: "result") == "result"
    assert scene == Exchange()


def test_other_decoder_outputs_are_passed_through() -> None:
    scene = Exchange()
    assert keep_occupancy(scene, lambda: "a mesh") == "a mesh"
    assert keep_occupancy(scene, lambda: torch.ones(1, 6, 4)).shape == (1, 6, 4)
    assert scene.occupancy is None
