"""The stock classes with random weights, by name, with the constructor values of the published configuration.

Source: sam3d_objects and its checkpoints/hf/*.yaml. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import nn

from fast_sam3d.checkpoints.stock import check_package, stock_environment
from fast_sam3d.errors import CheckpointError, FastSam3dError, one_line
from fast_sam3d.model.config import LAYOUT_CHANNELS, LAYOUT_STREAM, SHAPE_LEAF
from fast_sam3d.model.published import FILES, STEPS
from fast_sam3d.native.embedder import EmbedderSettings, EncoderSettings
from fast_sam3d.native.networks import EMBEDDERS, bare_pipeline
from fast_sam3d.native.settings import NativeSettings

__all__ = ["importable", "stock_networks"]

PIPELINE: Final = "sam3d_objects.pipeline.inference_pipeline_pointmap"
BACKBONE: Final = "sam3d_objects.model.backbone"
TDFY: Final = f"{BACKBONE}.tdfy_dit.models"
DINO: Final = Path(torch.hub.get_dir()) / "facebookresearch_dinov2_main"
"""Where torch.hub stores the code of the image encoders."""
SHARED: Final = ("model_channels", "num_blocks", "num_heads", "mlp_ratio", "resolution")
"""Settings that have the same name here and there."""


def importable() -> bool:
    """Whether the package is installed; it may still fail to import."""
    try:
        check_package()
    except CheckpointError:
        return False
    return True


def stock_networks(
    settings: NativeSettings, real: Collection[str], device: torch.device, dtype: torch.dtype
) -> SimpleNamespace:
    """A pipeline of the stock classes, whose own half type is float16, float32 on a CPU; see `native_networks`.

    The embedders are there if DINOv2's code is in the folder of torch.hub, as after a run of the stock pipeline.

    Raises:
        FastSam3dError: the classes cannot be imported or created.
    """
    models: dict[str, nn.Module] = {}
    try:
        from hydra.utils import instantiate

        with stock_environment():
            importlib.import_module(PIPELINE)  # chooses the kind of attention by the card
            for stage, name in FILES.items():
                with device if stage in real else torch.device("meta") as place:
                    models[name] = instantiate(_config(stage, settings, str(place)))
            if "condition" in real and DINO.exists():
                with device:
                    for name, own in zip(EMBEDDERS, (settings.ss_embedder, settings.slat_embedder), strict=True):
                        models[name] = instantiate(_embedder(own))
    except Exception as error:  # of any kind: it depends on a dozen packages
        raise FastSam3dError(f"the stock classes cannot be created here ({one_line(error)})") from error
    return bare_pipeline(models, dtype)


def _config(stage: str, settings: NativeSettings, device: str) -> dict[str, Any]:
    half = {"use_fp16": device != "cpu"}
    if stage == "ss":
        network = _called(
            f"{TDFY}.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper", **_transformer(settings.ss_flow),
            latent_mapping=_latents(settings), latent_share_transformer={LAYOUT_STREAM: list(LAYOUT_CHANNELS)},
            is_shortcut_model=True, use_fp16=False,
        )  # fmt: skip
        guided = _guided("ClassifierFreeGuidanceWithExternalUnconditionalProbability", network, 7.0)
        kind = f"{BACKBONE}.generator.shortcut.model.ShortCut"
        return _called(
            kind,
            reverse_fn=guided,
            no_shortcut=True,
            inference_steps=STEPS,
            rescale_t=3.0,
        )
    if stage == "slat":
        flow = settings.slat_flow
        network = _called(
            f"{TDFY}.structured_latent_flow.SLatFlowModelTdfyWrapper", **_transformer(flow), patch_size=2,
            num_io_res_blocks=flow.num_io_blocks, io_block_channels=[flow.io_channels], **half,
        )  # fmt: skip
        kind = f"{BACKBONE}.generator.flow_matching.model.FlowMatching"
        return _called(
            kind,
            reverse_fn=_guided("ClassifierFreeGuidance", network, 1.0),
            inference_steps=STEPS,
        )
    config = settings.slat_decoder_mesh if stage == "mesh" else settings.slat_decoder_gs
    trunk = {name: getattr(config, name) for name in (*SHARED, "latent_channels", "window_size")}
    trunk |= {"attn_mode": "swin", **half}
    kinds = f"{TDFY}.structured_latent_vae"
    if stage == "mesh":
        kind = f"{kinds}.decoder_mesh.SLatMeshDecoderTdfyWrapper"
        return _called(kind, **trunk, device=device, representation_config={"use_color": True})
    rates = {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1}
    representation = {
        "lr": rates, "perturb_offset": True, "voxel_size": 1.5, "num_gaussians": settings.slat_decoder_gs.num_gaussians,
        "2d_filter_kernel_size": 0.1, "3d_filter_kernel_size": 9e-4, "scaling_bias": 4e-3, "opacity_bias": 0.1,
        "scaling_activation": "softplus",
    }  # fmt: skip
    return _called(f"{kinds}.decoder_gs.SLatGaussianDecoderTdfyWrapper", **trunk, representation_config=representation)


def _embedder(settings: EmbedderSettings) -> dict[str, Any]:
    """The condition embedder of a sampler."""
    home, parts = f"{BACKBONE}.dit.embedder", list[Any]()
    for part, inputs in settings.parts:
        if isinstance(part, EncoderSettings):
            options = {"source": "local", "backbone_kwargs": {"pretrained": False}, "dino_model": "dinov2_vitl14_reg"}
            network = _called(
                f"{home}.dino.Dino", input_size=part.size, repo_or_dir=str(DINO), prenorm_features=part.prenorm,
                **options,
            )  # fmt: skip
        else:
            sizes = {"input_size": part.size, "patch_size": part.patch, "embed_dim": part.channels}
            network = _called(f"{home}.pointmap.PointPatchEmbed", remap_output="linear", **sizes)
        parts.append([network, [list(pair) for pair in inputs]])
    return _called(f"{home}.embedder_fuser.EmbedderFuser", embedder_list=parts)


def _called(kind: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": kind, **settings}


def _guided(kind: str, network: dict[str, Any], strength: float) -> dict[str, Any]:
    settings = {"strength": strength, "interval": [0, 500], "unconditional_handling": "add_flag"}
    return {**_called(f"{BACKBONE}.generator.classifier_free_guidance.{kind}", **settings), "backbone": network}


def _transformer(config: Any) -> dict[str, Any]:
    channels = {"in_channels": config.latent_channels, "out_channels": config.latent_channels}
    shared = {name: getattr(config, name) for name in (*SHARED, "cond_channels", "qk_rms_norm")}
    return {**channels, **shared, "pe_mode": "ape", "force_zeros_cond": True}


def _latents(settings: NativeSettings) -> dict[str, Any]:
    """The shape's latent with fixed positions, and those of the layout with learned ones."""
    width, kinds = {"model_channels": settings.ss_flow.model_channels}, f"{TDFY}.mm_latent"
    grid = {"resolution": settings.ss_flow.resolution, "patch_size": settings.ss_flow.patch_size}
    places = {SHAPE_LEAF: _called(f"{kinds}.ShapePositionEmbedder", **width, **grid)}
    learned = _called(f"{kinds}.LearntPositionEmbedder", **width, token_len=1)
    channels = {SHAPE_LEAF: settings.ss_flow.latent_channels, **LAYOUT_CHANNELS}
    return {
        name: _called(f"{kinds}.Latent", **width, in_channels=count, pos_embedder=places.get(name, learned))
        for name, count in channels.items()
    }
