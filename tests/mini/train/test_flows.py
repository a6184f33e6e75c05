"""The sparse-structure flow's loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fast_sam3d.mini.train import flows
from fast_sam3d.mini.train.autoencoders import coarse_occupancy
from fast_sam3d.mini.train.conditions import layout_statistics
from fast_sam3d.mini.train.flows import Readout, SSFlowLoss, keep_condition, sample_times
from fast_sam3d.model.config import LAYOUT_CHANNELS
from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.ss_flow import SparseStructureFlow

CPU = torch.device("cpu")


@pytest.fixture
def loss(objects, tiny) -> SSFlowLoss:
    torch.manual_seed(0)
    config = tiny.pipeline
    return SSFlowLoss(
        objects,
        torch.randn(len(objects), 512, 8).half(),
        coarse_occupancy(objects, 8),
        layout_statistics(objects.arrays["pose"]),
        SparseStructureFlow(config.ss_flow),
        ConditionEmbedder(config.ss_embedder),
        Readout(config.ss_embedder.model_channels, 8),
        torch.eye(64),
        CPU,
        draws=2,
    )


def test_sampled_times_cover_the_open_interval():
    times = sample_times(20_000, torch.Generator().manual_seed(0))
    assert 0 < times.min() < 0.01 and 0.99 < times.max() < 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.01)
    # Half uniform, half logistic-normal with its middle half in sigmoid(+-0.6745) = 0.3375..0.6625.
    middle = ((times > 0.3375) & (times < 0.6625)).float().mean().item()
    assert middle == pytest.approx((0.325 + 0.5) / 2, abs=0.015)


def test_a_tenth_of_the_conditions_is_dropped():
    keep = keep_condition(20_000, torch.Generator().manual_seed(0))
    assert keep.shape == (20_000, 1, 1)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert keep.mean().item() == pytest.approx(0.9, abs=0.01)


def test_readout_uses_the_mean_and_the_last_token():
    readout = Readout(6, 2)
    tokens = torch.randn(3, 5, 6)
    layout, cells, colours = readout(tokens)
    assert layout.shape == (3, sum(LAYOUT_CHANNELS.values())) and cells.shape == (3, 8)
    assert colours.shape == (3, 3, 4, 4)
    swapped = tokens[:, [1, 0, 2, 3, 4]]
    torch.testing.assert_close(readout(swapped)[0], layout)
    assert not torch.allclose(readout(tokens.flip(1))[0], layout)


def test_colours_of_a_patch_are_read_from_its_own_token():
    readout = Readout(6, 2)
    tokens = torch.randn(1, 5, 6, requires_grad=True)
    readout(tokens)[2][0, :, :2, 2:].sum().backward()  # upper right patch, the second token
    assert tokens.grad is not None and tokens.grad.abs().sum((0, 2)).nonzero().flatten().tolist() == [1]


def test_colour_error_is_limited_to_the_object():
    image, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    image[..., 0, 0], image[..., 0, 1] = 0.8, 0.1
    mask[..., 0, 0] = 1  # of the upper left part only one pixel is the object's
    predicted = torch.full((1, 3, 2, 2), 0.3)
    assert Readout.colour_error(predicted, image, mask).item() == pytest.approx(0.5**2)
    predicted[..., 0, 0] = 0.8
    assert Readout.colour_error(predicted, image, mask).item() == pytest.approx(0, abs=1e-12)
    assert Readout.colour_error(predicted, image, mask * 0).item() == 0


def test_every_network_gets_gradients(loss):
    losses = loss(torch.Generator().manual_seed(1), 4)
    assert set(losses) == {"shape", *LAYOUT_CHANNELS, "readout_layout", "readout_cells", "readout_colours"}
    assert all(value.isfinite() and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    for part in (loss.backbone, loss.embedder, loss.readout):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_same_generator_same_loss(loss):
    first, again, other = (loss(torch.Generator().manual_seed(s), 4) for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["shape"], other["shape"])


class Oracle(nn.Module):
    """Returns the velocity from the noise to known clean leaves."""

    def __init__(self, clean: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.clean, self.context = clean, None

    def forward(self, mixed, t, context):
        self.context, at = context, (t / 1000)[:, None, None]
        return {name: (self.clean[name] - value) / (1 - at) for name, value in mixed.items()}


def test_loss_of_the_true_velocity_is_zero(loss):
    _, clean, _ = loss.batch(torch.Generator().manual_seed(3), 2)
    loss.backbone = oracle = Oracle({name: leaf.repeat(2, 1, 1) for name, leaf in clean.items()})
    losses = loss(torch.Generator().manual_seed(3), 4)
    for name in ("shape", *LAYOUT_CHANNELS):
        assert losses[name].item() == pytest.approx(0, abs=1e-4)
    assert oracle.context.shape[0] == 4


def test_errors_are_weighted_by_the_decoders_sensitivity(loss):
    _, clean, _ = loss.batch(torch.Generator().manual_seed(3), 2)
    wrong = {name: leaf.repeat(2, 1, 1) for name, leaf in clean.items()}
    true = wrong["shape"].clone()

    class Off(Oracle):
        def forward(self, mixed, t, context):
            velocity = super().forward(mixed, t, context)
            return velocity | {"shape": velocity["shape"] + (wrong["shape"] - true)}

    loss.backbone = Off({name: leaf.repeat(2, 1, 1) for name, leaf in clean.items()})
    costs = {}
    # Rows of a block are its 8 cells times 8 channels, channels fastest: 3 and 5 are two channels in all cells.
    weights = torch.ones(8, 8)
    weights[:, 3], weights[:, 5] = 2, 0
    loss.weighting = torch.diag(weights.flatten())
    for channel in (0, 3, 5):
        wrong["shape"] = true.clone()
        wrong["shape"][..., channel] += 1
        costs[channel] = loss(torch.Generator().manual_seed(3), 4)["shape"].item()
    assert costs == {
        0: pytest.approx(1 / 8, abs=1e-3),
        3: pytest.approx(4 / 8, abs=1e-3),
        5: pytest.approx(0, abs=1e-3),
    }


def test_dropped_conditions_reach_the_backbone_as_zeros(loss, monkeypatch):
    monkeypatch.setattr(flows, "keep_condition", lambda count, generator: torch.zeros(count, 1, 1))
    _, clean, _ = loss.batch(torch.Generator().manual_seed(3), 2)
    loss.backbone = oracle = Oracle({name: leaf.repeat(2, 1, 1) for name, leaf in clean.items()})
    loss(torch.Generator().manual_seed(3), 4)
    assert (oracle.context == 0).all()


def test_shape_targets_belong_to_the_views_object(objects, loss):
    _, clean, coarse = loss.batch(torch.Generator().manual_seed(3), 16)
    rows = torch.randint(len(objects) * 2, (16,), generator=torch.Generator().manual_seed(3))
    assert torch.equal(clean["shape"], loss.latents[rows // 2].float())
    assert torch.equal(coarse, loss.coarse[rows // 2].float())
