"""The native pipeline at tiny sizes with random weights, and a fake depth model; no files and no stock classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fast_sam3d.model.config import SSFlowConfig
from fast_sam3d.model.config_file import SamplingConfig
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.native.embedder import EmbedderSettings, EncoderSettings
from fast_sam3d.native.gaussian_decoder import GaussianDecoderConfig
from fast_sam3d.native.mesh_decoder import MeshDecoderConfig
from fast_sam3d.native.networks import build_networks
from fast_sam3d.native.pipeline import NativePipeline
from fast_sam3d.native.points import PointSettings
from fast_sam3d.native.preprocess import Preprocessor
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.structure_decoder import StructureDecoderConfig
from fast_sam3d.native.vit import ViTConfig
from tests.beds import STEPS, Bed
from tests.minis import aim_at_few_voxels
from tests.native.fake_parts import FakePart

VOXELS = 150
WIDTH, HEADS, PIXELS = 32, 2, 28
SIDE = 16  # voxels


def _embedder(prenorm: bool, points: bool) -> EmbedderSettings:
    vit = ViTConfig(channels=WIDTH, blocks=1, heads=HEADS, mlp_ratio=2.0, grid=PIXELS // 14)
    pictures = EncoderSettings(vit, PIXELS, prenorm=prenorm)
    parts: list[Any] = [
        (pictures, (("image", "cropped"), ("rgb_image", "full"))),
        (pictures, (("mask", "cropped"), ("rgb_image_mask", "full"))),
    ]
    if points:
        parts.append((PointSettings(16, 16, 8), (("pointmap", "cropped"), ("rgb_pointmap", "full"))))
    return EmbedderSettings(tuple(parts), multiplier=1.0)


FLOW: dict[str, Any] = {
    "model_channels": WIDTH,
    "num_blocks": 2,
    "num_heads": HEADS,
    "mlp_ratio": 2.0,
    "cond_channels": WIDTH,
    "share_mod": False,
    "convention": "published",
}
TRUNK: dict[str, Any] = {"resolution": SIDE, "num_blocks": 2, "num_heads": HEADS, "mlp_ratio": 1.0}
SETTINGS = NativeSettings(
    ss_flow=SSFlowConfig(resolution=SIDE // 2, patch_size=1, **FLOW),
    slat_flow=SLatFlowConfig(resolution=SIDE, io_channels=8, **FLOW),
    ss_embedder=_embedder(prenorm=False, points=True),
    slat_embedder=_embedder(prenorm=True, points=False),
    ss_decoder=StructureDecoderConfig(channels=(16, 8), num_res_blocks=1, num_res_blocks_middle=1),
    slat_decoder_mesh=MeshDecoderConfig(model_channels=256, **TRUNK),
    slat_decoder_gs=GaussianDecoderConfig(model_channels=WIDTH, num_gaussians=2, **TRUNK),
    slat_decoder_gs_4=GaussianDecoderConfig(model_channels=WIDTH, num_gaussians=1, **TRUNK),
    ss_sampling=SamplingConfig(STEPS),
    slat_sampling=SamplingConfig(STEPS, 1.0, (0.0, 500.0), 1.0),
    preprocessor=Preprocessor(PIXELS),
    depth_model=None,
)
"""The published settings at tiny sizes."""


class FakeDepth:
    """Replaces the depth model: a tilted plane, in MoGe's frame, unknown (infinite) along the top of the picture."""

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        _, height, width = image.shape
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        points = torch.stack([x, y, 2 + 0.3 * x + 0.2 * image.mean(0)], dim=-1)
        points[: height // 8] = torch.inf
        return {"pointmaps": points, "intrinsics": torch.eye(3)}


def random_parts(seed: int = 0, settings: NativeSettings = SETTINGS) -> dict[str, FakePart]:
    """Every network with random weights and no dead branch, loaded."""
    networks = build_networks(settings)
    generator = torch.Generator().manual_seed(seed)
    for network in networks.values():
        network.to_empty(device="cpu").requires_grad_(False)
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                fan = value.shape[-2] * len(value) if value.dim() == 3 else value[0].numel()
                value.copy_(noise / max(fan, 1) ** 0.5)
            else:
                value.copy_(noise * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return {
        name: FakePart(name, network, {key: value.clone() for key, value in network.state_dict().items()})
        for name, network in networks.items()
    }


def random_native(seed: int = 0) -> NativePipeline:
    """A pipeline with no dead branch, and about `VOXELS` voxels per object."""
    pipeline = NativePipeline(SETTINGS, random_parts(seed), depth_model=FakeDepth())
    with torch.random.fork_rng(devices=[]):
        aim_at_few_voxels(pipeline, VOXELS)
    return pipeline


NATIVE = Bed("native", random_native, rounds=False)
