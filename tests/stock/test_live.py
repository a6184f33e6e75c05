"""The layout evaluated alone on the stock network, against the network's own result."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import fast_sam3d
from fast_sam3d.adapters.layout import no_layout_stream
from tests.minis import enliven
from tests.sampling.test_live import Rested, same
from tests.stock import build
from tests.stock.stand_ins import importable

LIVE: dict[str, Any] = {
    "ss": {
        "when": {"name": "stride", "stride": 2},
        "predict": {"shape": {"name": "hold"}, "layout": {"name": "live"}},
    }
}


def network(**settings: Any) -> Any:
    """A small stock network."""
    from hydra.utils import instantiate

    config = build.ss_generator()["reverse_fn"]["backbone"] | {"num_blocks": 2, "num_heads": 2, **settings}
    config["latent_mapping"]["shape"]["pos_embedder"]["resolution"] = 4
    with importable():
        torch.manual_seed(0)
        made = instantiate(config)
    enliven([made])
    return made.eval().requires_grad_(False)


def inputs(made: Any, batch: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    randn = partial(torch.randn, generator=generator)
    x = {
        name: randn(batch, latent.pos_emb.shape[0], latent.input_layer.in_features)
        for name, latent in made.latent_mapping.items()
    }
    return x, torch.tensor([300.0]), randn(batch, 7, build.WIDTH)


@pytest.mark.parametrize("settings", [{}, {"share_mod": True}, {"qk_rms_norm_cross": True}])
def test_with_keys_of_the_same_step_it_is_the_full_evaluation(settings: dict[str, Any]) -> None:
    made = network(**settings)
    args, d = inputs(made, 2), torch.tensor([40.0])
    for given in ({"d": d}, {}):
        rested = Rested(made)
        own = rested.evaluated(args, **given)
        for got, expected in zip(rested.rested(args, **given), own, strict=True):
            same(got, expected)


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 4e-2), (torch.float16, 5e-3)])
def test_under_autocast(dtype: torch.dtype, close: float) -> None:
    made = network()
    args = inputs(made, 1)
    with torch.autocast("cpu", dtype):
        rested = Rested(made)
        own = rested.evaluated(args)
        for got, expected in zip(rested.rested(args), own, strict=True):
            same(got, expected, close)


def test_blocks_in_half_precision() -> None:
    made = network(use_fp16=True)
    rested = Rested(made)
    args = inputs(made, 1)
    own = rested.evaluated(args)
    assert {kept.dtype for kept in rested.live._keys.values()} == {torch.float16}
    for got, expected in zip(rested.rested(args), own, strict=True):
        same(got, expected, 5e-3)


def test_it_is_refused_where_the_condition_stays() -> None:
    assert no_layout_stream(network()) is None
    assert "force_zeros_cond" in str(no_layout_stream(network(force_zeros_cond=False)))
    several = network(latent_share_transformer={"pose": ["scale", "translation"]})
    assert "3 streams" in str(no_layout_stream(several))


def test_on_the_pipeline_in_half_precision() -> None:
    """Exact savings on: their cached context is what the layout attends to."""
    pipeline = build.HALF.build()
    savings = {"exact": {"context": True, "half": True}}

    def ran(config: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        with fast_sam3d.accelerated(pipeline, config | savings) as handle:
            result = build.HALF.raw(pipeline, stage1_only=True)
        return result, handle.report.solves[0]

    live, record = ran(LIVE)
    hold, _ = ran({"ss": {**LIVE["ss"], "predict": {"name": "hold"}}})
    assert record.layout_evaluations == len(record.steps) - len(record.evaluated) > 0
    assert record.fallbacks == 0
    tokens = 16**3 + 4
    assert record.layout_bytes == 2 * 2 * tokens * build.WIDTH * 2  # keys and values, branches, float16
    assert torch.equal(live["shape"], hold["shape"])
    assert not torch.equal(live["translation"], hold["translation"])
