"""Relative errors of latents."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast_sam3d import metrics


def test_relative_error_by_hand():
    assert metrics.latent_error(torch.tensor([[3.0, 5.0]]), np.array([[3.0, 4.0]])) == pytest.approx(1 / 5)
    assert metrics.latent_error([1.0, 2.0], [1.0, 2.0]) == 0.0
    assert np.isnan(metrics.latent_error([1.0], [0.0]))
    with pytest.raises(ValueError, match="shape"):
        metrics.latent_error(np.zeros(3), np.zeros(4))


def test_sparse_latents_are_compared_at_common_voxels():
    def sparse(places, values):
        return SimpleNamespace(coords=np.array([[0, *p] for p in places]), feats=torch.tensor(values)[:, None])

    first = sparse([(1, 1, 1), (2, 2, 2), (5, 5, 5)], [3.0, 4.0, 99.0])
    second = sparse([(7, 7, 7), (2, 2, 2), (1, 1, 1)], [50.0, 4.0, 4.0])
    assert metrics.latent_error(first, second) == pytest.approx(1 / 32**0.5)
    assert np.isnan(metrics.latent_error(first, sparse([(9, 9, 9)], [1.0])))
