"""The methods of a pipeline that the savings replace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from fast_sam3d.adapters import Adapter
from fast_sam3d.adapters.base import compiled
from fast_sam3d.exact import subdivision
from fast_sam3d.exact.attention import AttentionSeam, fits
from fast_sam3d.exact.context import CrossAttentionSeam, KeysSeam, watch_context
from fast_sam3d.exact.extraction import ExtractionSeam
from fast_sam3d.exact.half import LinearSeam
from fast_sam3d.exact.passes import PassSeam
from fast_sam3d.exact.settings import Exact
from fast_sam3d.exact.subdivision import SubdivisionSeam, WideningSeam
from fast_sam3d.patch import Seam
from fast_sam3d.sampling.guide import NetworkSeam

logger = logging.getLogger(__name__)

Place = tuple[object, str, Callable[[Any], Seam]]
"""An object, the name of its method, and a function that creates the seam on the object."""


def layers(adapter: Adapter, exact: Exact) -> Iterator[tuple[object, str, Callable[[Any], Seam], Any]]:
    """The places of `exact`, each with the method of the layer there: the settings, or what acts around a network.

    Where a saving does not fit, the reason is logged.
    """
    finders: dict[Callable[[Adapter, Exact], Iterator[Place]], bool] = {
        _context_places: exact.unconditional or exact.context,
        _extraction_places: exact.extraction,
        _attention_places: exact.attention,
        _encoder_places: exact.embedders or exact.images,
        _depth_places: exact.images,
        _subdivision_places: exact.subdivision,
        _linear_places: exact.half,
    }
    for places, wanted in finders.items():
        for owner, name, make in places(adapter, exact) if wanted else ():
            yield owner, name, make, watch_context if make is NetworkSeam else exact


def _context_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    for stage in adapter.stages:
        networks, found = adapter.networks(stage), list(adapter.cross_attentions(stage))
        unconditional, context = (
            getattr(exact, name) and not any(_built_in(network, name) for network in networks)
            for name in ("unconditional", "context")
        )
        if not (unconditional or context):
            continue
        reason = "its network is compiled or wrapped" if adapter.compiled(stage) else None
        if not found:
            reason = "its network has no cross-attention under the known names"
        if reason:
            logger.info("%s: exact.unconditional and exact.context stay off, because %s", stage, reason)
            continue
        yield from ((network, "forward", NetworkSeam) for network in networks)
        for name, attention in found:
            if unconditional:
                yield attention, "forward", partial(CrossAttentionSeam, name=name)
            keys = getattr(attention, "to_kv", None)
            if context and callable(getattr(keys, "forward", None)):
                yield keys, "forward", KeysSeam


def _extraction_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    decoder = adapter.mesh_decoder()
    extractor = getattr(decoder, "mesh_extractor", None)
    if decoder is None or _built_in(extractor, "extraction"):
        return
    if compiled(decoder):
        logger.info("mesh: exact.extraction stays off, because its decoder is compiled")
    elif extractor is None:
        logger.info("mesh: exact.extraction stays off, because its decoder has no extractor under the known name")
    else:
        yield decoder, "mesh_extractor", ExtractionSeam


def _subdivision_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    decoder = adapter.mesh_decoder()
    if not isinstance(decoder, nn.Module) or _built_in(decoder, "subdivision"):
        return
    own = [part for part in decoder.modules() if subdivision.can_widen(part)]
    stock = [part for part in decoder.modules() if subdivision.fits(part)]
    if compiled(decoder):
        logger.info("mesh: exact.subdivision stays off, because its decoder is compiled")
    elif not (own or stock):
        logger.info("mesh: exact.subdivision stays off, because its decoder has no subdividing blocks of a known kind")
    else:
        yield from ((block, "widen", WideningSeam) for block in own)
        yield from ((block, "forward", SubdivisionSeam) for block in stock)


def _attention_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    crossing = {id(attention): name for name, attention in adapter.cross_attentions("slat")}
    for row, network, is_compiled in adapter.sparse_networks():
        found = [module for module in network.modules() if fits(module)]
        if not found and not _built_in(network, "attention"):
            logger.info("%s: exact.attention stays off, because no part of it attends through `masked_sdpa`", row)
        elif found and is_compiled:
            logger.info("%s: exact.attention stays off, because it is compiled or wrapped", row)
        else:
            for module in found:
                name = crossing.get(id(module))
                yield module, "forward", partial(CrossAttentionSeam, name=name) if name else AttentionSeam


def _encoder_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    if adapter.embeds_in_one:
        logger.info("exact.embedders and exact.images stay off, because the embedders are compiled or wrapped")
        return
    for name, encoder in adapter.encoders():
        if getattr(encoder, "_compiled_call_impl", None) is not None:
            logger.info("%s: exact.embedders and exact.images stay off here, because it is compiled", name)
        elif isinstance(encoder, nn.Module):
            yield encoder, "forward", partial(PassSeam, name="forward", kind="encoder", place=name)


def _depth_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    network = adapter.depth_network()
    if isinstance(network, nn.Module):
        yield network, "infer", partial(PassSeam, name="infer", kind="depth", place="depth_model.model")
    elif adapter.depth_model is not None and not _built_in(adapter.depth_model, "images"):
        logger.info("exact.images keeps no depth, because the depth model has no network under the known name")


def _linear_places(adapter: Adapter, exact: Exact) -> Iterator[Place]:
    for stage in adapter.stages:
        precision, backbone = adapter.precision(stage), adapter.network(stage)  # one network where there is autocast
        if not isinstance(backbone, nn.Module) or precision is torch.float32:
            continue
        # The projections of the context have a separate seam.
        others = {id(getattr(attention, "to_kv", None)) for _, attention in adapter.cross_attentions(stage)}
        linears = [
            part
            for part in backbone.modules()
            if isinstance(part, nn.Linear) and type(part).forward is nn.Linear.forward and id(part) not in others
        ]
        if adapter.compiled(stage):
            logger.info("%s: exact.half stays off, because its network is compiled or wrapped", stage)
        elif all(linear.weight.dtype is precision for linear in linears):
            logger.info(
                "%s: exact.half stays off, because it has no linear layers whose weights would be cast to %s",
                stage, precision,
            )  # fmt: skip
        else:
            yield from ((linear, "forward", LinearSeam) for linear in linears)


def _built_in(part: Any, saving: str) -> bool:
    """Whether a class declares that a saving has nothing to add to it, as those of `fast_sam3d.model` do."""
    return saving in getattr(part, "built_in_savings", ())
