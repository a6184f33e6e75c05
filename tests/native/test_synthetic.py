"""Random weights at the sizes of a checkpoint."""

from __future__ import annotations

import torch

from fast_sam3d.bench.gpu.networks import SMALL
from fast_sam3d.native.networks import EMBEDDERS, image_encoders
from fast_sam3d.native.synthetic import synthetic_parts

CPU = torch.device("cpu")


def test_weights_are_equal_for_equal_seeds_and_each_time_they_are_loaded() -> None:
    first, again, other = (synthetic_parts(SMALL.settings, seed) for seed in (0, 0, 1))
    for name in ("ss_generator", "slat_decoder_mesh"):
        states = []
        for parts in (first, first, again, other):
            parts[name].load(CPU, None)
            states.append({key: value.clone() for key, value in parts[name].module.state_dict().items()})
            parts[name].release()
            assert all(parameter.is_meta for parameter in parts[name].module.parameters())
        assert all(torch.equal(states[0][key], state[key]) for state in states[1:3] for key in states[0])
        assert any(not torch.equal(states[0][key], states[3][key]) for key in states[0])


def test_embedders_share_one_image_encoder() -> None:
    parts = synthetic_parts(SMALL.settings)
    for name in EMBEDDERS:
        parts[name].load(CPU, torch.bfloat16)
    encoders = [encoder for name in EMBEDDERS for _, encoder in image_encoders(parts[name].module)]
    assert len(encoders) == 4 and len({id(encoder.backbone) for encoder in encoders}) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(encoders[0](torch.rand(1, 3, 28, 28)).isfinite().all())
    parts[EMBEDDERS[0]].release()
    assert not any(parameter.is_meta for parameter in encoders[0].backbone.parameters()), "the other needs it"
