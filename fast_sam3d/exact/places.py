"""The methods of a pipeline that the savings replace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from fast_sam3d.adapters import Sam3d
from fast_sam3d.adapters.sam3d import compiled
from fast_sam3d.exact import subdivision
from fast_sam3d.exact.attention import AttentionSeam, fits
from fast_sam3d.exact.context import CrossAttentionSeam, KeysSeam, WatchContext
from fast_sam3d.exact.extraction import ExtractionSeam, unfit
from fast_sam3d.exact.half import LinearSeam
from fast_sam3d.exact.passes import PassSeam
from fast_sam3d.exact.settings import Exact
from fast_sam3d.exact.subdivision import SubdivisionSeam, WideningSeam
from fast_sam3d.patch import Seam, seam_at
from fast_sam3d.sampling.guide import NetworkSeam

logger = logging.getLogger(__name__)

Place = tuple[object, str, Callable[[], Seam]]
"""An object, the name of its method, and a function that creates the seam there."""


def layers(adapter: Sam3d, exact: Exact) -> Iterator[tuple[object, str, Callable[[], Seam], Any]]:
    """The places of `exact`, each with the method of the layer there: the settings, or what acts around a network."""
    for owner, name, make in places(adapter, exact):
        watches = isinstance(make, partial) and make.func is NetworkSeam
        yield owner, name, make, WatchContext(exact) if watches else exact


def places(adapter: Sam3d, exact: Exact, everywhere: bool = False) -> Iterator[Place]:
    """The methods to replace for `exact`.

    Args:
        adapter: the pipeline.
        exact: the savings.
        everywhere: also where a saving does not fit now, without logging, to find what was patched before.
    """
    if exact.unconditional or exact.context:
        yield from _context_places(adapter, exact, everywhere)
    if exact.extraction:
        yield from _extraction_places(adapter, everywhere)
    if exact.attention:
        yield from _attention_places(adapter, everywhere)
    if exact.embedders or exact.images:
        yield from _encoder_places(adapter, everywhere)
    if exact.images:
        yield from _depth_places(adapter, everywhere)
    if exact.subdivision:
        yield from _subdivision_places(adapter, everywhere)
    if exact.half:
        yield from _linear_places(adapter, everywhere)


def _context_places(adapter: Sam3d, exact: Exact, everywhere: bool) -> Iterator[Place]:
    for stage in adapter.stages:
        backbone = adapter.network(stage)
        found = list(adapter.cross_attentions(stage))
        reason = None if everywhere else _unfit(adapter, stage, bool(found))
        if reason:
            logger.info("%s: exact.unconditional and exact.context stay off, because %s", stage, reason)
            continue
        yield backbone, "forward", partial(NetworkSeam, backbone)
        for name, attention in found:
            if exact.unconditional:
                yield attention, "forward", partial(CrossAttentionSeam, attention, name)
            keys = getattr(attention, "to_kv", None)
            if exact.context and callable(getattr(keys, "forward", None)):
                yield keys, "forward", partial(KeysSeam, keys)


def _extraction_places(adapter: Sam3d, everywhere: bool) -> Iterator[Place]:
    decoder = adapter.mesh_decoder()
    extractor = getattr(decoder, "mesh_extractor", None)
    if decoder is None or (_built_in(extractor, "extraction") and not everywhere):
        return
    reason = None if everywhere else unfit(extractor)
    if reason is None and not everywhere and compiled(decoder):
        reason = "its decoder is compiled"
    if reason:
        logger.info("mesh: exact.extraction stays off, because %s", reason)
    else:
        yield decoder, "mesh_extractor", partial(ExtractionSeam, decoder)


def _subdivision_places(adapter: Sam3d, everywhere: bool) -> Iterator[Place]:
    decoder = adapter.mesh_decoder()
    if not isinstance(decoder, nn.Module):
        return
    own = [part for part in decoder.modules() if subdivision.can_widen(part)]
    stock = [part for part in decoder.modules() if subdivision.fits(part)]
    reason = None
    if compiled(decoder):
        reason = "its decoder is compiled"
    elif not (own or stock):
        reason = "its decoder has no subdividing blocks of a known kind"
    if reason and not everywhere:
        logger.info("mesh: exact.subdivision stays off, because %s", reason)
        return
    yield from ((block, "widen", partial(WideningSeam, block)) for block in own)
    yield from ((block, "forward", partial(SubdivisionSeam, block)) for block in stock)


def _attention_places(adapter: Sam3d, everywhere: bool) -> Iterator[Place]:
    if everywhere:
        modules = [module for _, network, _ in adapter.sparse_networks() for module in network.modules()]
        for module in modules:
            if isinstance(seam_at(module, "forward"), AttentionSeam):
                yield module, "forward", partial(AttentionSeam, module)
        return
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
                make = partial(CrossAttentionSeam, module, name) if name else partial(AttentionSeam, module)
                yield module, "forward", make


def _encoder_places(adapter: Sam3d, everywhere: bool) -> Iterator[Place]:
    encoders = [(name, module) for name, module in adapter.encoders() if isinstance(module, nn.Module)]
    if adapter.embeds_in_one and not everywhere:
        logger.info("exact.embedders and exact.images stay off, because the embedders are compiled or wrapped")
        return
    for name, encoder in encoders:
        if getattr(encoder, "_compiled_call_impl", None) is None or everywhere:
            yield encoder, "forward", partial(PassSeam, encoder, "forward", "encoder", name)
        else:
            logger.info("%s: exact.embedders and exact.images stay off here, because it is compiled", name)


def _depth_places(adapter: Sam3d, everywhere: bool) -> Iterator[Place]:
    network = adapter.depth_network()
    if isinstance(network, nn.Module):
        yield network, "infer", partial(PassSeam, network, "infer", "depth", "depth_model.model")
    elif not everywhere and adapter.depth_model is not None and not _built_in(adapter.depth_model, "images"):
        logger.info("exact.images keeps no depth, because the depth model has no network under the known name")


def _linear_places(adapter: Sam3d, everywhere: bool) -> Iterator[Place]:
    for stage in adapter.stages:
        precision, backbone = adapter.precision(stage), adapter.network(stage)
        if not isinstance(backbone, nn.Module) or (precision is torch.float32 and not everywhere):
            continue
        # The projections of the context have a seam of their own.
        others = [getattr(attention, "to_kv", None) for _, attention in adapter.cross_attentions(stage)]
        linears = [
            part
            for part in backbone.modules()
            if isinstance(part, nn.Linear)
            and type(part).forward is nn.Linear.forward
            and not any(part is other for other in others)
        ]
        reason = None
        if adapter.compiled(stage):
            reason = "its network is compiled or wrapped"
        elif not any(linear.weight.dtype is not precision for linear in linears):
            reason = f"it has no linear layers whose weights would be cast to {precision}"
        if reason and not everywhere:
            logger.info("%s: exact.half stays off, because %s", stage, reason)
            continue
        for linear in linears:
            yield linear, "forward", partial(LinearSeam, linear)


def _built_in(part: Any, saving: str) -> bool:
    """Whether a class declares that a saving has nothing to add to it, as those of `fast_sam3d.model` do."""
    return saving in getattr(part, "built_in_savings", ())


def _unfit(adapter: Sam3d, stage: str, found: bool) -> str | None:
    """Why nothing can be saved in a stage's cross-attention, or None."""
    if not found:
        return "its network has no cross-attention under the known names"
    if adapter.compiled(stage):
        return "its network is compiled or wrapped"
    return None
