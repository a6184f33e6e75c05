"""Where the savings of decoders are installed, and why not elsewhere, on stand-ins of their parts."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fast_sam3d.exact import Exact
from fast_sam3d.exact.places import _context_places, _extraction_places, _subdivision_places
from tests.exact.test_subdivision import Block


def places(find: Any, decoder: Any) -> list[tuple[Any, str]]:
    found = find(SimpleNamespace(mesh_decoder=lambda: decoder), Exact())
    return [(owner, name) for owner, name, _ in found]


class Decoder(nn.Module):
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def compiled(decoder: nn.Module) -> nn.Module:
    decoder._compiled_call_impl = print
    return decoder


def test_the_extractor_is_replaced_on_a_decoder_that_has_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    decoder = Decoder(mesh_extractor=print)
    assert places(_extraction_places, decoder) == [(decoder, "mesh_extractor")]
    assert places(_extraction_places, None) == [] and not caplog.text
    assert places(_extraction_places, compiled(decoder)) == []
    assert caplog.messages == ["mesh: exact.extraction stays off, because its decoder is compiled"]
    assert places(_extraction_places, Decoder()) == []
    assert "its decoder has no extractor under the known name" in caplog.messages[1]


@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("built_in", [(), ("unconditional",), ("context",)])
def test_savings_of_the_context_are_installed_where_asked_for_and_not_built_in(
    asked: tuple[bool, bool], built_in: tuple[str, ...]
) -> None:
    network, attention = nn.Module(), nn.Module()
    network.built_in_savings, attention.to_kv = frozenset(built_in), nn.Linear(1, 1)
    adapter: Any = SimpleNamespace(
        stages=["ss"], networks=lambda stage: [network], cross_attentions=lambda stage: [("a", attention)],
        compiled=lambda stage: False,
    )  # fmt: skip
    owners = {"unconditional": attention, "context": attention.to_kv}
    on = [name for name, wanted in zip(owners, asked, strict=True) if wanted and name not in built_in]
    found = [owner for owner, *_ in _context_places(adapter, Exact(*asked))]
    assert found == ([network] if on else []) + [owners[name] for name in on]


class Widening(nn.Module):
    conv1: Any = None

    def widen(self) -> None: ...


class Wide(nn.Module):
    def widen(self) -> None: ...


class Convolved(nn.Module):
    conv1, widen = None, None


def test_blocks_of_both_kinds_are_replaced_by_what_they_have(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    own, stock = Widening(), Block()
    decoder = Decoder(a=own, b=stock, c=Wide(), d=Convolved(), e=nn.Linear(1, 1))
    assert places(_subdivision_places, decoder) == [(own, "widen"), (stock, "forward")]
    assert places(_subdivision_places, Decoder(b=stock)) == [(stock, "forward")]
    assert places(_subdivision_places, None) == [] and not caplog.text
    assert places(_subdivision_places, compiled(decoder)) == []
    assert places(_subdivision_places, Decoder(c=Wide(), d=Convolved())) == []
    assert [message.split("because its ")[1] for message in caplog.messages] == [
        "decoder is compiled", "decoder has no subdividing blocks of a known kind"
    ]  # fmt: skip
