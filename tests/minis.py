"""The embedded pipeline at a tenth of its size with random weights, and a picture for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from fast_sam3d.model.config import EmbedderConfig, SSDecoderConfig, SSFlowConfig
from fast_sam3d.model.config_file import ModelConfig, SamplingConfig
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig, SLatFlowConfig

STEPS = 8
VOXELS = 60
WIDTH, HEADS = 24, 2

CONFIG = ModelConfig(
    ss_embedder=EmbedderConfig(model_channels=WIDTH, num_heads=HEADS, num_blocks=1),
    ss_flow=SSFlowConfig(model_channels=WIDTH, num_heads=HEADS, num_blocks=2, cond_channels=WIDTH),
    ss_decoder=SSDecoderConfig(model_channels=16, num_res_blocks=1, refine_channels=4),
    slat_embedder=None,
    slat_flow=SLatFlowConfig(model_channels=WIDTH, num_heads=HEADS, num_blocks=2, cond_channels=WIDTH, io_channels=8),
    slat_decoder_mesh=MeshDecoderConfig(model_channels=16, num_heads=HEADS, upsample_channels=(8, 8)),
    slat_decoder_gs=GaussianDecoderConfig(model_channels=16, num_heads=HEADS, num_gaussians=1),
    slat_decoder_gs_4=None,
    ss_sampling=SamplingConfig(inference_steps=STEPS),
    slat_sampling=SamplingConfig(inference_steps=STEPS, cfg_strength=1.0, rescale_t=1.0),
)


def random_mini(seed: int = 0) -> Pipeline:
    """A pipeline with no dead branch, and a few hundred voxels per object."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = Pipeline(CONFIG)
        enliven([pipeline.models, *pipeline.condition_embedders.values()])
        aim_at_few_voxels(pipeline, VOXELS)
    return pipeline


def enliven(networks: Iterable[nn.Module]) -> None:
    """Random numbers on all parameters, also on those that start at zero (gates, output layers): they would switch
    whole branches off."""
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                spread = 0.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.1
                parameter.add_(torch.randn(parameter.shape) * spread)


def aim_at_few_voxels(pipeline: Any, count: int) -> None:
    """Calm the mesh, and shift the structure decoder's last bias so that about `count` logits are positive."""
    logits: list[torch.Tensor] = []
    decoder = pipeline.models["ss_decoder"]
    last = [module for module in decoder.modules() if isinstance(module, nn.Conv3d)][-1]
    with torch.no_grad():
        # A calmer distance field: noise would give a mesh of half a million faces.
        mesh_layer = pipeline.models["slat_decoder_mesh"].out_layer
        mesh_layer.weight.mul_(0.1)
        mesh_layer.bias[0] = -0.5
        hook = decoder.register_forward_hook(lambda module, args, output: logits.append(output))
        last.bias += 100.0  # so that the run never ends for lack of voxels
        pipeline.run(rgba(), None, seed=0, stage1_only=True)
        hook.remove()
        last.bias -= logits[0].flatten().topk(count).values[-1]


def rgba() -> np.ndarray:
    """The picture below with its mask as alpha, [48, 64, 4] uint8."""
    image, mask = picture()
    return np.dstack([image, mask.astype(np.uint8) * 255])


def picture() -> tuple[np.ndarray, np.ndarray]:
    """[48, 64, 3] uint8 gradient with a disc, and the disc as a [48, 64] bool mask."""
    y, x = np.mgrid[:48, :64]
    mask = (x - 30) ** 2 + (y - 22) ** 2 < 200
    image = np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)
    image[mask] = (220, 60, 30)
    return image, mask
