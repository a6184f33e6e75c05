"""The trunk of the published decoders: a windowed sparse transformer, whose torso may be in half precision."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from fast_sam3d.model.finite import is_finite
from fast_sam3d.model.half import half_weights
from fast_sam3d.model.slat_config import SLatTrunkConfig
from fast_sam3d.model.slat_decoder import SLatTrunk
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.sparse_transformer import require_voxels, voxel_positions

__all__ = ["Trunk", "TrunkConfig"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrunkConfig(SLatTrunkConfig):
    """Sizes of the trunk; the defaults are the published ones."""

    resolution: int = 64
    latent_channels: int = 8
    model_channels: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window_size: int = 8


class Trunk(SLatTrunk):
    """Windowed transformer over the voxels; norms have no weights, and nothing is normalised behind the last block.

    The state dict has the names of the published files. The torso's linear layers and convolutions may be in half
    precision; the input, the norms and the output are in float32. Source: the stock classes
    (sam3d_objects/model/backbone/tdfy_dit/models/structured_latent_vae/base.py).

    Args:
        config: sizes.
    """

    affine_norms = False
    half_parts: ClassVar[tuple[str, ...]] = ("blocks",)
    """The torso, see `fast_sam3d.model.half`."""

    def __init__(self, config: SLatTrunkConfig) -> None:
        super().__init__(config)
        self.redecoded = False
        """Whether the last result was not finite in half precision, and was decoded again in float32."""

    @property
    def torso_dtype(self) -> torch.dtype:
        """Type of the torso's weights, and of what passes between its layers."""
        return self.get_parameter("blocks.0.attn.to_qkv.weight").dtype

    def encode_tokens(self, slat: SparseTensor) -> SparseTensor:
        """[N, latent_channels] -> [N, model_channels] in the torso's type."""
        require_voxels(slat.grid.counts)
        h = self.input_layer(slat.feats.to(self.input_layer.weight.dtype))
        h = slat.replace(
            (h + voxel_positions(slat.coords, self.model_channels, h.device, sin_first=True)).to(self.torso_dtype)
        )
        for block in self.blocks:
            h = block(h)
        return h

    def decode_finite(self, slat: SparseTensor) -> SparseTensor:
        """`decode_once`; if its result is not finite in half precision, the result with a torso in float32.

        Sets `redecoded`. A latent that is not finite itself is decoded once.
        """
        self.redecoded = False
        out = self.decode_once(slat)
        if self.torso_dtype is torch.float32 or out.feats.is_meta or is_finite(out.feats) or not is_finite(slat.feats):
            return out
        half = str(self.torso_dtype).removeprefix("torch.")
        log.warning("%s: its result is not finite in %s: decoded again in float32", type(self).__name__, half)
        self.redecoded = True
        del out
        with self._in_float32():
            return self.decode_once(slat)

    def decode_once(self, slat: SparseTensor) -> SparseTensor:
        """The output of the last layer, float32."""
        raise NotImplementedError

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """The torso's weights are float32 in this block. From half to float32 and back they do not change."""
        halves = [self.get_parameter(name) for name in half_weights(self)]
        stored = [parameter.data for parameter in halves]
        try:
            for parameter in halves:
                parameter.data = parameter.data.float()
            yield
        finally:
            for parameter, data in zip(halves, stored, strict=True):
                parameter.data = data
