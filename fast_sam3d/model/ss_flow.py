"""Sparse-structure backbone: a transformer with separate weights for shape and layout tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fast_sam3d.model.config import LAYOUT_CHANNELS, LAYOUT_STREAM, SHAPE_LEAF, STREAMS, SSFlowConfig
from fast_sam3d.model.contexts import ConditionedNetwork
from fast_sam3d.model.latents import GridLatent, Latent
from fast_sam3d.model.layers import (
    ContextProjections,
    CrossAttention,
    FeedForward,
    HeadRMSNorm,
    LayerNorm32,
    TimestepEmbedder,
    attend,
    init_linears,
    merge_heads,
    split_heads,
)

Streams = dict[str, Tensor]


class JointSelfAttention(nn.Module):
    """Self-attention with projections per stream; protected streams attend to themselves only, the others to all.

    Args:
        channels: width of all streams.
        num_heads: attention heads.
        qk_rms_norm: RMS-normalise queries and keys.
        floor: see `HeadRMSNorm`.
    """

    def __init__(self, channels: int, num_heads: int, qk_rms_norm: bool, floor: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk_rms_norm = qk_rms_norm
        self.protect_modality_list = [SHAPE_LEAF]
        self.to_qkv = nn.ModuleDict({name: nn.Linear(channels, 3 * channels) for name in STREAMS})
        self.to_out = nn.ModuleDict({name: nn.Linear(channels, channels) for name in STREAMS})
        if qk_rms_norm:
            head_channels = channels // num_heads
            self.q_rms_norm = nn.ModuleDict({name: HeadRMSNorm(num_heads, head_channels, floor) for name in STREAMS})
            self.k_rms_norm = nn.ModuleDict({name: HeadRMSNorm(num_heads, head_channels, floor) for name in STREAMS})

    def forward(self, x: Streams) -> Streams:
        """x: per stream [B, N, C] -> same."""
        q, k, v = {}, {}, {}
        for name, tokens in x.items():
            q[name], k[name], v[name] = split_heads(self.to_qkv[name](tokens), 3, self.num_heads)
            if self.qk_rms_norm:
                q[name], k[name] = self.q_rms_norm[name](q[name]), self.k_rms_norm[name](k[name])
        out = {}
        for name in x:
            if name in self.protect_modality_list:
                keys, values = k[name], v[name]
            else:
                keys, values = torch.cat([*k.values()], dim=2), torch.cat([*v.values()], dim=2)
            attended = attend(q[name], keys, values)
            out[name] = self.to_out[name](merge_heads(attended))
        return out


class JointBlock(nn.Module):
    """adaLN -> joint self-attention -> cross-attention per stream -> adaLN -> MLP per stream.

    Both streams of a block share its modulation, as in the stock block (modulated.py).
    """

    adaLN_modulation: nn.Sequential

    def __init__(self, config: SSFlowConfig) -> None:
        super().__init__()
        c, heads = config.model_channels, config.num_heads
        self.share_mod = config.share_mod
        published = config.convention == "published"
        norm = LayerNorm32 if published else nn.LayerNorm
        self.norm1 = nn.ModuleDict({name: norm(c, eps=1e-6, elementwise_affine=False) for name in STREAMS})
        self.norm2 = nn.ModuleDict({name: norm(c, eps=1e-6) for name in STREAMS})
        self.norm3 = nn.ModuleDict({name: norm(c, eps=1e-6, elementwise_affine=False) for name in STREAMS})
        self.self_attn = JointSelfAttention(c, heads, config.qk_rms_norm, not published)
        self.cross_attn = nn.ModuleDict(
            {
                name: CrossAttention(c, config.cond_channels, heads, config.qk_rms_norm_cross, not published)
                for name in STREAMS
            }
        )
        ratio = {SHAPE_LEAF: config.mlp_ratio, LAYOUT_STREAM: config.layout_mlp_ratio or config.mlp_ratio}
        self.mlp = nn.ModuleDict({name: FeedForward(c, ratio[name]) for name in STREAMS})
        if config.share_mod:
            self.mod_offset = nn.Parameter(torch.zeros(6 * c))
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c, 6 * c))

    def forward(self, x: Streams, mod: Tensor, context: Tensor) -> Streams:
        """x: per stream [B, N, C]; mod: [1 or B, C], or [1 or B, 6 C] if shared; context: [B, L, cond_channels]."""
        mod = mod + self.mod_offset if self.share_mod else self.adaLN_modulation(mod)
        # float32, so that autocast does not round the residual stream to half precision.
        shift1, scale1, gate1, shift2, scale2, gate2 = mod.to(x[SHAPE_LEAF].dtype)[:, None].chunk(6, dim=-1)
        scale1, scale2 = 1 + scale1, 1 + scale2
        h = self.self_attn({n: torch.addcmul(shift1, self.norm1[n](tokens), scale1) for n, tokens in x.items()})
        out = {}
        for name, tokens in x.items():
            tokens = tokens + h[name] * gate1
            tokens = tokens + self.cross_attn[name](self.norm2[name](tokens), context)
            hidden = torch.addcmul(shift2, self.norm3[name](tokens), scale2)
            out[name] = tokens + self.mlp[name](hidden) * gate2
        return out


class SparseStructureFlow(ConditionedNetwork):
    """Velocity of the sparse-structure and layout latents.

    Two streams: "shape", and "6drotation_normalized" with the four layout leaves as one token each in the order of
    `LAYOUT_CHANNELS`. Shape does not attend to layout, so the shape's velocity does not depend on the pose.

    Args:
        config: sizes.
    """

    half_parts = ("",)
    """All linear layers may be stored in half precision, as the published pipeline runs them under autocast only."""
    adaLN_modulation: nn.Sequential

    def __init__(self, config: SSFlowConfig | None = None) -> None:
        super().__init__()
        config = config or SSFlowConfig()
        self.config = config
        c = config.model_channels
        self.share_mod = config.share_mod
        self.is_shortcut_model = config.is_shortcut_model
        if config.share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c, 6 * c))
        self.blocks = nn.ModuleList([JointBlock(config) for _ in range(config.num_blocks)])
        init_linears(self)
        for module in self.modules():
            if isinstance(module, JointBlock | SparseStructureFlow) and hasattr(module, "adaLN_modulation"):
                # Blocks start as the identity.
                for parameter in module.adaLN_modulation.parameters():
                    nn.init.zeros_(parameter)
        for block in self.blocks:
            for attention in block.cross_attn.values():  # type: ignore[operator]
                # Starts at zero, as it has no gate and an untrained cross-attention is only noise.
                nn.init.zeros_(attention.to_out.weight)
        self.t_embedder = TimestepEmbedder(c)
        if config.is_shortcut_model:
            self.d_embedder = TimestepEmbedder(c, zero_init=True)
        published = config.convention == "published"
        shape = GridLatent(config.resolution, config.latent_channels, c, config.patch_size, published)
        layout = {name: Latent(1, channels, c) for name, channels in LAYOUT_CHANNELS.items()}
        self.latent_mapping = nn.ModuleDict({SHAPE_LEAF: shape, **layout})

    @property
    def leaf_shapes(self) -> dict[str, tuple[int, int]]:
        """(tokens, channels) of every latent leaf, without the batch."""
        return {name: latent.latent_shape for name, latent in self._latents.items()}

    def cross_attentions(self) -> Iterator[tuple[str, ContextProjections]]:
        """(stream, module) of every cross-attention."""
        for block in self.blocks:
            yield from cast(JointBlock, block).cross_attn.items()  # type: ignore[misc]

    @property
    def _latents(self) -> dict[str, Latent]:
        return cast(dict[str, Latent], self.latent_mapping)

    def forward(
        self, x: Mapping[str, Tensor], t: Tensor, cond: Tensor, d: Tensor | None = None, cfg: bool = False
    ) -> dict[str, Tensor]:
        """Velocity of every leaf.

        Args:
            x: leaves, "shape" [B, resolution**3, latent_channels] and the four of `LAYOUT_CHANNELS` [B, 1, channels].
            t: [], [1] or [B], time in 0..1000.
            cond: [B, L, cond_channels] context tokens.
            d: [], [1] or [B], step size in 0..1000; None means 0.
            cfg: unconditional call of classifier-free guidance: the context is multiplied by 0.

        Returns:
            Leaves with the keys and shapes of x.

        Raises:
            ValueError: a leaf is missing or unknown.
        """
        if set(x) != set(self.latent_mapping):
            raise ValueError(f"latent leaves must be {sorted(self.latent_mapping)}, got {sorted(x)}")
        context = self.context(cond, cfg)
        tokens = {name: latent.to_input(x[name]) for name, latent in self._latents.items()}
        streams = {
            SHAPE_LEAF: tokens[SHAPE_LEAF],
            LAYOUT_STREAM: torch.cat([tokens[name] for name in LAYOUT_CHANNELS], dim=1),
        }
        mod = self.modulation(t, d)
        for block in self.blocks:
            streams = block(streams, mod, context)
        out = {SHAPE_LEAF: streams[SHAPE_LEAF]}
        out.update(zip(LAYOUT_CHANNELS, streams[LAYOUT_STREAM].split(1, dim=1), strict=True))
        return {name: latent.to_output(out[name]) for name, latent in self._latents.items()}

    def modulation(self, t: Tensor, d: Tensor | None) -> Tensor:
        """What `JointBlock` takes as `mod`; t and d as in `forward`."""
        mod = self.t_embedder(t)
        if self.is_shortcut_model:
            mod = mod + self.d_embedder(torch.zeros_like(t) if d is None else d)
        return self.adaLN_modulation(mod) if self.share_mod else mod
