"""Differences of two fingerprints, as the user reads them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.fingerprint import _some, difference, fingerprint
from tests.fakes import FakePipeline

SAMPLER: dict[str, Any] = {
    "steps": 25, "rescale_t": 3.0, "guidance": {"shape": 7.0, "layout": 2.0}, "interval": [0.0, 500.0],
    "shortcut": True,
}  # fmt: skip
OWN: dict[str, Any] = {
    "weights": {stage: {"layers": "abc", "values": [0.5, -2e-7, 100.0]} for stage in ("ss", "slat")},
    "ss": SAMPLER,
    "slat": {**SAMPLER, "guidance": 1.0, "interval": None},
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    tree = copy.deepcopy(OWN)
    part: Any = tree
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return tree


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (OWN, None),
        (changed("weights", "slat", "layers", to="abd"), "another slat network (other layers)"),
        (changed("weights", "ss", to={}), "another ss network (other layers)"),
        (changed("weights", to=[1]), "another ss network (other layers)"),
        (changed("weights", "ss", "values", 0, to=0.5 * 1.004), None),
        (changed("weights", "ss", "values", 0, to=0.5 * 1.006), "another checkpoint (the weights of the ss network"),
        (changed("weights", "ss", "values", 2, to=100.4), None),
        (changed("weights", "ss", "values", 1, to=7e-7), None),
        (changed("weights", "ss", "values", 1, to=2e-6), "another checkpoint"),
        (changed("weights", "ss", "values", to=[0.5, -2e-7]), "another checkpoint"),
        (changed("weights", "ss", "values", to=None), "another checkpoint"),
        (changed("weights", "ss", "values", 0, to="0.5"), "another checkpoint"),
        (changed("weights", "ss", "values", 0, to=10**400), "another checkpoint"),
        (changed("ss", "steps", to=12), "ss 12 steps, and the pipeline has 25"),
        (changed("ss", "steps", to=25.0), None),
        (changed("ss", "rescale_t", to=3.0 + 2e-6), None),
        (changed("ss", "rescale_t", to=3.00001), "ss rescale_t 3.00001, and the pipeline has 3"),
        (changed("slat", "guidance", to=1.1), "slat guidance 1.1, and the pipeline has 1"),
        (changed("slat", "guidance", to=True), "slat guidance True, and the pipeline has 1"),
        (changed("ss", "guidance", "layout", to=3.0), "ss guidance {'shape': 7.0, 'layout': 3.0}, and"),
        (changed("ss", "guidance", to={"shape": 7.0}), "ss guidance {'shape': 7.0}, and"),
        (changed("ss", "guidance", to={"shape": 7.0, "layout": 2.0, "x": 1.0}), "ss guidance"),
        (changed("ss", "guidance", to=7.0), "ss guidance 7, and"),
        (changed("ss", "interval", to=(0, 500)), None),
        (changed("ss", "interval", to=[0, 500, 1]), "ss guidance on the interval [0, 500, 1], and"),
        (changed("ss", "interval", to=[0, 501]), "ss guidance on the interval [0, 501], and"),
        (changed("slat", "interval", to=[0, 500]), "slat guidance on the interval [0, 500], and the pipeline has None"),
        (changed("ss", "shortcut", to=False), "ss shortcut False, and the pipeline has True"),
        (changed("ss", "shortcut", to=1), "ss shortcut 1, and the pipeline has True"),
        (changed("slat", to="text"), "slat None steps, and the pipeline has 25"),
    ],
)
def test_the_first_difference_is_named(measured: dict[str, Any], says: str | None) -> None:
    found = difference(measured, OWN)
    assert found is None if says is None else found is not None and found.startswith(says)


def test_a_fingerprint_states_what_the_samplers_do() -> None:
    pipeline = FakePipeline()
    found = fingerprint(adapt(pipeline), {"slat": 12})
    guided = {"interval": [0.0, 500.0], "shortcut": False}
    assert found["ss"] == {"steps": 25, "rescale_t": 3.0, "guidance": 7.0, **guided}
    assert found["slat"] == {"steps": 12, "rescale_t": 1.0, "guidance": 1.0, **guided}
    assert json.loads(json.dumps(found)) == found and difference(found, found) is None
    pipeline.models["ss_generator"].no_shortcut = False
    pipeline.ss_cfg_strength = 3.0
    assert fingerprint(adapt(pipeline))["ss"] == {**found["ss"], "guidance": 3.0, "shortcut": True}


@pytest.mark.parametrize(("rows", "columns"), [(64, 32), (1, 1), (3, 1000), (1000, 3)])
def test_values_are_taken_from_all_over_a_matrix(rows: int, columns: int) -> None:
    values = [int(value) for value in _some(torch.arange(float(rows * columns)).reshape(rows, columns))]
    places = [(value // columns, value % columns) for value in values]
    assert [row for row, _ in places] == [rows * (2 * k + 1) // 8 for k in range(4)]
    if columns > 8:
        assert len({column for _, column in places}) == 4


def test_layers_are_names_and_shapes_of_matrices_and_not_their_values() -> None:
    pipeline = FakePipeline()
    network = pipeline.models["ss_generator"].reverse_fn.backbone

    def layers(**parts: nn.Module) -> str:
        for name, part in parts.items():
            setattr(network, name, part)
        found = fingerprint(adapt(pipeline))["weights"]["ss"]["layers"]
        for name in parts:
            delattr(network, name)
        return str(found)

    seen = [layers(), layers(a=nn.Linear(2, 3)), layers(b=nn.Linear(2, 3)), layers(a=nn.Linear(3, 2))]
    assert len(set(seen)) == 4
    assert layers(a=nn.Linear(2, 3, bias=False)) == seen[1], "whatever its values and its bias"
