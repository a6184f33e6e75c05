"""The stock pipeline with small random weights: its own constructor and classes, no checkpoint."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.beds import STEPS, Bed
from tests.minis import aim_at_few_voxels, enliven
from tests.stock.stand_ins import half_on_cpu, importable, on_cpu

VOXELS = 160
CORNER = 8  # the object lies in a corner of the grid of 64, so that the mesh grid can be small
WIDTH, PIXELS = 16, 28

MODEL = "sam3d_objects.model.backbone"
TDFY = f"{MODEL}.tdfy_dit.models"


class PictureTokens(nn.Module):
    """Replaces an image embedder: [1, C, H, W] -> [1, 16, width]."""

    def __init__(self, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.layer = nn.Conv2d(channels, embed_dim, PIXELS // 4, PIXELS // 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image).flatten(2).transpose(1, 2)


class Corner(nn.Module):
    """Takes 1000 from all logits outside a corner of the grid."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, logits: Tensor) -> Tensor:
        inside = torch.zeros_like(logits)
        inside[..., : self.size, : self.size, : self.size] = 1
        return logits - 1000 * (1 - inside)


class FixedDepth:
    """Replaces the depth model: a tilted plane seen by a known camera."""

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        _, height, width = image.shape
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        return {"pointmaps": torch.stack([x, y, 2 + 0.3 * x], dim=-1), "intrinsics": torch.eye(3)}


def resized(image: Tensor) -> Tensor:
    """[C, H, W] -> [C, 28, 28]."""
    return F.interpolate(image[None], (PIXELS, PIXELS), mode="bilinear", antialias=True)[0]


def embedder() -> dict[str, Any]:
    def part(channels: int, inputs: list[list[str]]) -> list[Any]:
        kind = "tests.stock.build.PictureTokens"
        return [{"_target_": kind, "channels": channels, "embed_dim": WIDTH}, inputs]

    return {
        "_target_": f"{MODEL}.dit.embedder.embedder_fuser.EmbedderFuser",
        "embedder_list": [
            part(3, [["image", "cropped"], ["rgb_image", "full"]]),
            part(1, [["mask", "cropped"], ["rgb_image_mask", "full"]]),
        ],
    }


def guided(backbone: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "_target_": f"{MODEL}.generator.classifier_free_guidance.ClassifierFreeGuidance",
        "unconditional_handling": "add_flag",
        "backbone": {
            **backbone,
            "model_channels": WIDTH,
            "cond_channels": WIDTH,
            "in_channels": 8,
            "out_channels": 8,
            "num_blocks": 1,
            "num_heads": 1,
            "mlp_ratio": 2,
            "qk_rms_norm": True,
            "force_zeros_cond": True,
            **settings,
        },
    }


def latent(channels: int, places: dict[str, Any]) -> dict[str, Any]:
    kind = places.pop("kind")
    return {
        "_target_": f"{TDFY}.mm_latent.Latent",
        "in_channels": channels,
        "model_channels": WIDTH,
        "pos_embedder": {"_target_": f"{TDFY}.mm_latent.{kind}", "model_channels": WIDTH, **places},
    }


def ss_generator() -> dict[str, Any]:
    layout = {"6drotation_normalized": 6, "scale": 3, "translation": 3, "translation_scale": 1}
    backbone = {
        "_target_": f"{TDFY}.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper",
        "latent_mapping": {
            "shape": latent(8, {"kind": "ShapePositionEmbedder", "resolution": 16, "patch_size": 1}),
            **{name: latent(size, {"kind": "LearntPositionEmbedder", "token_len": 1}) for name, size in layout.items()},
        },
        "latent_share_transformer": {"6drotation_normalized": list(layout)},
        "is_shortcut_model": True,
    }
    return {"_target_": f"{MODEL}.generator.shortcut.model.ShortCut", "reverse_fn": guided(backbone)}


def slat_generator(half: bool) -> dict[str, Any]:
    backbone = {
        "_target_": f"{TDFY}.structured_latent_flow.SLatFlowModelTdfyWrapper",
        "resolution": 64,
        "io_block_channels": [8],
    }
    return {
        "_target_": f"{MODEL}.generator.flow_matching.model.FlowMatching",
        "reverse_fn": guided(backbone, use_fp16=half),
    }


def decoder(kind: str, channels: int, representation: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "_target_": f"{TDFY}.structured_latent_vae.{kind}",
        "model_channels": channels,
        "latent_channels": 8,
        "num_blocks": 1,
        "num_heads": 1,
        "mlp_ratio": 1,
        "representation_config": representation,
        **settings,
    }


def gaussians(count: int, half: bool) -> dict[str, Any]:
    rates = {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1}
    representation = {
        "lr": rates,
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": count,
        "2d_filter_kernel_size": 0.1,
        "3d_filter_kernel_size": 9e-4,
        "scaling_bias": 4e-3,
        "opacity_bias": 0.1,
        "scaling_activation": "softplus",
    }
    kind = "decoder_gs.SLatGaussianDecoderTdfyWrapper"
    return decoder(kind, WIDTH, representation, resolution=64, use_fp16=half)


def generator(backbone: dict[str, Any]) -> dict[str, Any]:
    return {"module": {"generator": {"backbone": backbone}, "condition_embedder": {"backbone": embedder()}}}


def configs(half: bool = False) -> dict[str, Any]:
    """The yaml files of a checkpoint, by the names that the constructor gives them; half: the published precision."""
    mesh: dict[str, Any] = {"resolution": CORNER, "device": "cpu", "use_fp16": half}
    return {
        "ss_generator": generator(ss_generator()),
        "slat_generator": generator(slat_generator(half)),
        "ss_decoder": {
            "_target_": f"{TDFY}.sparse_structure_vae.SparseStructureDecoderTdfyWrapper",
            "out_channels": 1,
            "latent_channels": 8,
            "num_res_blocks": 1,
            "num_res_blocks_middle": 1,
            "channels": [8, 4, 4],
        },
        # 32 groups of channels after two divisions by 2 and 4.
        "slat_decoder_mesh": decoder("decoder_mesh.SLatMeshDecoderTdfyWrapper", 256, {"use_color": True}, **mesh),
        "slat_decoder_gs": gaussians(2, half),
        "slat_decoder_gs_4": gaussians(1, half),
    }


def random_stock(seed: int = 0, half: bool = False) -> Any:
    """A pipeline with no dead branch; its objects have `VOXELS` voxels in a corner of the grid.

    Args:
        seed: of the weights.
        half: float16 autocast around the samplers, and float16 weights where the published settings have them: all
            sparse networks. The baseline is float32.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with importable(), tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        from loguru import logger

        logger.disable("sam3d_objects")
        from sam3d_objects.data.dataset.tdfy.preprocessor import PreProcessor
        from sam3d_objects.pipeline.inference_pipeline_pointmap import InferencePipelinePointMap

        class Random(InferencePipelinePointMap):  # type: ignore[misc]
            def instantiate_and_load_from_pretrained(self, config: Any, *args: Any, **kwargs: Any) -> Any:
                return instantiate(config).eval().requires_grad_(False)

        files: dict[str, Any] = {}
        for name, config in configs(half).items():
            OmegaConf.save(OmegaConf.create(config), Path(folder) / f"{name}.yaml")
            files |= {f"{name}_config_path": f"{name}.yaml", f"{name}_ckpt_path": "none"}
        torch.manual_seed(seed)
        preprocessor = PreProcessor(img_transform=resized, mask_transform=resized, pointmap_transform=resized)
        pipeline = Random(
            depth_model=FixedDepth(),
            **files,
            workspace_dir=folder,
            dtype="float16" if half else "float32",
            device="cpu",
            ss_preprocessor=preprocessor,
            slat_preprocessor=preprocessor,
            ss_condition_input_mapping=[],
            slat_condition_input_mapping=[],
            pose_decoder_name="ScaleShiftInvariant",
            ss_inference_steps=STEPS,
            slat_inference_steps=STEPS,
            slat_rescale_t=1,
            slat_cfg_strength=1,
            rendering_engine="pytorch3d",
        )
        enliven([pipeline.models, *pipeline.condition_embedders.values()])
        pipeline.models["ss_decoder"].out_layer.append(Corner(CORNER))
        with half_on_cpu():
            aim_at_few_voxels(pipeline, VOXELS)
    return pipeline


@contextmanager
def without_numpy() -> Iterator[None]:
    """torch.compile does not trace the logarithm that numpy takes of a number, inside the pipeline's device."""
    from sam3d_objects.model.backbone.tdfy_dit.models import timestep_embedder

    with mock.patch.object(timestep_embedder, "np", math):
        yield


@contextmanager
def half_grid(pipeline: Any) -> Iterator[None]:
    """Meshes reach to 20 of 64 voxels in this block: voxels that are merged by 2 move towards the grid's middle."""
    from sam3d_objects.model.backbone.tdfy_dit.representations.mesh import SparseFeatures2Mesh

    larger = SparseFeatures2Mesh(device="cpu", res=80)
    with mock.patch.object(pipeline.models["slat_decoder_mesh"], "mesh_extractor", larger):
        yield


STOCK = Bed("stock", random_stock, on_cpu, without_numpy, half_grid)
HALF = Bed("stock in float16", partial(random_stock, half=True), half_on_cpu, whole_grid=half_grid)
