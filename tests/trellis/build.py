"""TRELLIS's pipelines with small random weights: their own constructors and classes, no checkpoint."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from tests.minis import enliven
from tests.stock.build import gaussians
from tests.trellis.stand_ins import importable, on_cpu
from tests.trellis_like.networks import TextEncoder
from tests.trellis_like.pipelines import PUBLISHED, aim, picture, tokens

CHANNELS, WIDTH, PATCH = 8, 16, 74
EDGE = 4  # of the latent; its voxels are four times as fine


class Patches(nn.Module):
    """In place of DINOv2: [B, 3, 518, 518] -> {"x_prenorm": [B, 50, C]}."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def forward(self, image: Tensor, is_training: bool = False) -> Any:
        parts = self.patches(image).flatten(2).transpose(1, 2)
        return {"x_prenorm": torch.cat([self.cls_token.expand(len(parts), -1, -1), parts], dim=1)}


def networks(edge: int, elastic: bool, half: bool = False) -> dict[str, nn.Module]:
    """Those of a published pipeline, but for the decoder of radiance fields, which needs a GPU.

    Args:
        edge: of the latent of the sparse structure.
        elastic: the classes of TRELLIS-image-large, which have another base.
        half: float16 in the torsos, as published.
    """
    from trellis import models
    from trellis.models.structured_latent_vae import decoder_mesh
    from trellis.modules.sparse import SparseTensor

    SparseTensor(torch.zeros(1, 1), torch.zeros(1, 4).int())  # imports spconv at first use
    prefix, voxels = "Elastic" if elastic else "", 4 * edge
    flow = {
        "in_channels": CHANNELS, "out_channels": CHANNELS, "model_channels": WIDTH, "cond_channels": WIDTH,
        "num_blocks": 2, "num_heads": 2, "mlp_ratio": 2, "qk_rms_norm": True, "use_fp16": half,
    }  # fmt: skip
    sizes = {
        "resolution": voxels, "latent_channels": CHANNELS, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 1,
        "use_fp16": half,
    }  # fmt: skip
    structure = {"num_res_blocks": 1, "num_res_blocks_middle": 1, "channels": [8, 8, 8]}
    kinds = {name: getattr(models, f"{prefix}SLat{name}") for name in ("FlowModel", "MeshDecoder", "GaussianDecoder")}
    cpu = partial(decoder_mesh.SparseFeatures2Mesh, device="cpu")
    with mock.patch.object(decoder_mesh, "SparseFeatures2Mesh", cpu):
        # 32 groups of channels after two divisions by 2 and 4.
        mesh = kinds["MeshDecoder"](model_channels=256, representation_config={"use_color": True}, **sizes)
    representation = gaussians(1, half)["representation_config"]
    return {
        "sparse_structure_flow_model": models.SparseStructureFlowModel(resolution=edge, patch_size=1, **flow),
        "sparse_structure_decoder": models.SparseStructureDecoder(1, CHANNELS, **structure),
        "slat_flow_model": kinds["FlowModel"](resolution=voxels, io_block_channels=[8], **flow),
        "slat_decoder_mesh": mesh,
        "slat_decoder_gs": kinds["GaussianDecoder"](
            model_channels=WIDTH, representation_config=representation, **sizes
        ),
    }


def random_image(seed: int = 0, edge: int = EDGE, voxels: int = 100, half: bool = False) -> Any:
    """A `TrellisImageTo3DPipeline` with no dead branch.

    Args:
        seed: of the weights.
        edge, half: see `networks`.
        voxels: about how many per object.
    """
    with importable(), on_cpu(), torch.random.fork_rng(devices=[]):
        from trellis.pipelines.trellis_image_to_3d import TrellisImageTo3DPipeline

        torch.manual_seed(seed)
        with mock.patch("torch.hub.load", return_value=Patches()):
            pipeline = TrellisImageTo3DPipeline(networks(edge, True, half), *_samplers(), "dinov2")
        enliven(pipeline.models.values())
        _finish(pipeline, pipeline.get_cond([pipeline.preprocess_image(picture())]), voxels)
    return pipeline


def random_text(seed: int = 0, edge: int = EDGE, voxels: int = 100) -> Any:
    """A `TrellisTextTo3DPipeline`; as `random_image`."""
    with importable(), on_cpu(), torch.random.fork_rng(devices=[]):
        from trellis.pipelines import trellis_text_to_3d

        torch.manual_seed(seed)
        encoder = TextEncoder()
        kind = {
            "CLIPTextModel": SimpleNamespace(from_pretrained=lambda name: encoder),
            "AutoTokenizer": SimpleNamespace(from_pretrained=lambda name: tokens),
        }
        with mock.patch.multiple(trellis_text_to_3d, **kind):
            pipeline = trellis_text_to_3d.TrellisTextTo3DPipeline(networks(edge, False), *_samplers(), "clip")
        enliven([*pipeline.models.values(), encoder])
        pipeline.text_cond_model["null_cond"] = pipeline.encode_text([""])
        _finish(pipeline, pipeline.get_cond(["a red chair"]), voxels)
    return pipeline


def _samplers() -> tuple[Any, Any, dict[str, list[float]]]:
    from trellis.pipelines.samplers import FlowEulerGuidanceIntervalSampler

    spread = np.linspace(0.5, 2, CHANNELS).tolist()
    samplers = [FlowEulerGuidanceIntervalSampler(sigma_min=1e-5) for _ in range(2)]
    return samplers[0], samplers[1], {"mean": spread[::-1], "std": spread}


@torch.no_grad()
def _finish(pipeline: Any, cond: dict[str, Tensor], voxels: int) -> None:
    for model in pipeline.models.values():
        model.requires_grad_(False)
    pipeline.sparse_structure_sampler_params = {**PUBLISHED, "rescale_t": 3.0}
    pipeline.slat_sampler_params = {**PUBLISHED, "cfg_strength": 1.0, "rescale_t": 1.0}
    # A calmer distance field: noise would give a mesh of half a million faces.
    mesh = pipeline.models["slat_decoder_mesh"].out_layer
    mesh.weight.mul_(0.1)
    mesh.bias[0] = -0.5
    aim(pipeline.models["sparse_structure_decoder"], lambda: pipeline.sample_sparse_structure(cond), voxels)
