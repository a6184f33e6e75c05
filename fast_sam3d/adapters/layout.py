"""The layout's own path through a network of the sparse structure, for `fast_sam3d.sampling.live`.

Names and arithmetic match sam3d_objects/model/backbone/tdfy_dit/models/mot_sparse_structure_flow.py
(`SparseStructureFlowTdfyWrapper`) with its modules/transformer/modulated.py and modules/attention/modules.py, and the
classes of fast_sam3d/model/ss_flow.py, which have the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fast_sam3d.adapters.samplers import SHAPE
from fast_sam3d.sampling.live import LayoutBlock, LayoutStream

__all__ = ["layout_stream", "no_layout_stream"]

_STOCK = "sam3d_objects.model.backbone.tdfy_dit"
_OWN = "fast_sam3d.model.ss_flow"
_CLASSES = {
    "network": {
        f"{_STOCK}.models.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper",
        f"{_OWN}.SparseStructureFlow",
    },
    "block": {f"{_STOCK}.modules.transformer.modulated.MOTModulatedTransformerCrossBlock", f"{_OWN}.JointBlock"},
    "norm": {f"{_STOCK}.modules.attention.modules.MultiHeadRMSNorm", "fast_sam3d.model.layers.HeadRMSNorm"},
    "self-attention": {f"{_STOCK}.modules.attention.modules.MOTMultiHeadSelfAttention", f"{_OWN}.JointSelfAttention"},
}
"""Classes whose code is known, by what they are."""


def no_layout_stream(network: Any) -> str | None:
    """Why the layout's tokens cannot run through a network alone, or None."""
    blocks = list(getattr(network, "blocks", ()))
    parts = [("network", network)]
    for block in blocks:
        attention: Any = getattr(block, "self_attn", None)
        parts += [("block", block), ("self-attention", attention)]
        if getattr(attention, "qk_rms_norm", False):
            parts += [
                ("norm", norm) for norms in (attention.q_rms_norm, attention.k_rms_norm) for norm in norms.values()
            ]
    for what, part in parts:
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        if kind not in _CLASSES[what]:
            return f"its {what} is a {kind}, which is unknown"
    if not network.force_zeros_cond:
        return "its unconditional call keeps the condition (force_zeros_cond is false)"
    for block in blocks:
        attention = block.self_attn
        if list(attention.protect_modality_list) != [SHAPE]:
            protected = ", ".join(attention.protect_modality_list) or "nothing"
            return f"its attention protects {protected}, and not the shape alone"
        if len(streams := [name for name in attention.to_qkv.keys() if name != SHAPE]) != 1:  # noqa: SIM118
            return f"it has {len(streams)} streams beside the shape, and not one"
    if not blocks:
        return "it has no blocks"
    leaves = _leaves(network, _stream(network))
    if set(leaves) != set(network.latent_mapping) - {SHAPE}:
        return f"its stream {_stream(network)!r} does not hold all layout leaves"
    return None


def layout_stream(network: Any) -> LayoutStream:
    """The layout's path through a network that `no_layout_stream` has nothing against."""
    name = _stream(network)
    leaves = _leaves(network, name)
    latents = [network.latent_mapping[leaf] for leaf in leaves]
    counts = [latent.pos_emb.shape[0] for latent in latents]
    dtype = getattr(network, "dtype", None)  # of the stock blocks, which may be stored in half precision
    return LayoutStream(
        blocks=[_block(block, name) for block in network.blocks],
        heads=network.blocks[0].self_attn.num_heads,
        heads_first=type(network).__module__ == _OWN,
        leaves=leaves,
        tokens=sum(counts),
        to_tokens=partial(_to_tokens, leaves, latents, dtype),
        to_leaves=partial(_to_leaves, leaves, latents, counts, dtype),
        modulation=partial(_modulation, network),
    )


def _stream(network: Any) -> str:
    return next(name for name in network.blocks[0].self_attn.to_qkv.keys() if name != SHAPE)  # noqa: SIM118


def _leaves(network: Any, stream: str) -> list[str]:
    merged = getattr(network, "latent_share_transformer", None)
    if merged is None:  # one of fast_sam3d.model: all of them, in this order
        return [name for name in network.latent_mapping.keys() if name != SHAPE]  # noqa: SIM118
    return list(merged.get(stream, [stream]))


def _block(block: Any, stream: str) -> LayoutBlock:
    attention = block.self_attn
    normed = attention.qk_rms_norm
    return LayoutBlock(
        norm1=block.norm1[stream],
        norm2=block.norm2[stream],
        norm3=block.norm3[stream],
        to_qkv=attention.to_qkv[stream],
        to_out=attention.to_out[stream],
        qk_norm=_norm(attention.q_rms_norm[stream], attention.k_rms_norm[stream]) if normed else None,
        cross=block.cross_attn[stream],
        mlp=block.mlp[stream],
        shape_qkv=attention.to_qkv[SHAPE],
        shape_k_norm=attention.k_rms_norm[SHAPE] if normed else None,
    )


def _norm(q: Any, k: Any) -> Any:
    """Both norms as one function of [B, N, 2, H, D], so that it is one series of kernels."""
    floor = None if getattr(q, "floor", False) else 1e-24  # a length of 1e-12, as of `torch.nn.functional.normalize`
    return partial(_normed, torch.stack([q.gamma, k.gamma]), floor)


def _normed(gamma: Tensor, floor: float | None, x: Tensor) -> Tensor:
    return (nn.functional.rms_norm(x.float(), x.shape[-1:], eps=floor) * gamma).to(x.dtype)


def _to_tokens(
    leaves: Sequence[str], latents: Sequence[Any], dtype: torch.dtype | None, x: Mapping[str, Tensor]
) -> Tensor:
    tokens = torch.cat([latent.to_input(x[leaf]) for leaf, latent in zip(leaves, latents, strict=True)], dim=1)
    return tokens if dtype is None else tokens.to(dtype)


def _to_leaves(
    leaves: Sequence[str], latents: Sequence[Any], counts: Sequence[int], dtype: torch.dtype | None, tokens: Tensor
) -> dict[str, Tensor]:
    if dtype is not None:  # the stock network returns to the type of its input, in which the output layers are
        tokens = tokens.to(latents[0].out_layer.weight.dtype)
    parts = tokens.split(list(counts), dim=1)
    return {leaf: latent.to_output(part) for leaf, latent, part in zip(leaves, latents, parts, strict=True)}


def _modulation(network: Any, t: Tensor, d: Tensor | None) -> Tensor:
    """[blocks, T, 1, 6, C] of all blocks."""
    if hasattr(network, "modulation"):
        mod = network.modulation(t, d)
    else:
        mod = network.t_embedder(t)
        if d is not None:
            mod = mod + network.d_embedder(d)
        mod = (network.adaLN_modulation(mod) if network.share_mod else mod).type(network.dtype)
    if network.share_mod:
        rows = [mod + block.mod_offset if hasattr(block, "mod_offset") else mod for block in network.blocks]
    else:
        active = nn.functional.silu(mod)  # the first layer of each block's
        rows = [block.adaLN_modulation[1](active) for block in network.blocks]
    return torch.stack(rows).unflatten(-1, (6, -1)).unsqueeze(2)
