"""Sizes of the networks from their yaml files, in the settings of the native classes.

Classes are recognised by name, and nothing is imported or built. What has no effect on inference, such as the settings
of training, is ignored; everything else must be what the native classes do (sam3d_objects/model/backbone).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fast_sam3d.model.config import LAYOUT_CHANNELS, LAYOUT_STREAM, PUBLISHED_SS, SHAPE_LEAF, SSFlowConfig
from fast_sam3d.model.slat_config import PUBLISHED_SLAT, SLatFlowConfig
from fast_sam3d.native.embedder import EmbedderSettings
from fast_sam3d.native.gaussian_decoder import GaussianDecoderConfig
from fast_sam3d.native.mesh_decoder import MeshDecoderConfig
from fast_sam3d.native.structure_decoder import StructureDecoderConfig
from fast_sam3d.native.yaml_embedder import built, read_embedder
from fast_sam3d.native.yaml_node import YamlNode, read_yaml

__all__ = ["read_gaussian_decoder", "read_mesh_decoder", "read_slat_generator", "read_ss_decoder", "read_ss_generator"]

_BACKBONE: Final = "sam3d_objects.model.backbone"
_MODELS: Final = f"{_BACKBONE}.tdfy_dit.models"
_GUIDANCE: Final = f"{_BACKBONE}.generator.classifier_free_guidance"


def read_ss_generator(path: Path) -> tuple[SSFlowConfig, EmbedderSettings]:
    """Sizes of the sparse-structure flow and of its condition embedder. Raises CheckpointError."""
    generator, embedder = _generator(path)
    generator.target(f"{_BACKBONE}.generator.shortcut.model.ShortCut")
    _flow(generator)
    generator.only("no_shortcut", True, False, default=False)
    generator.ignore(
        "batch_mode", "cfg_modalities", "fm_eps_max", "fm_in_shortcut_target_prob",
        "ratio_cfg_samples_in_self_consistency_target", "self_consistency_cfg_strength", "self_consistency_prob",
        "shortcut_loss_weight",
    )  # fmt: skip
    guidance = generator.child("reverse_fn")
    guidance.target(
        f"{_GUIDANCE}.ClassifierFreeGuidanceWithExternalUnconditionalProbability", f"{_GUIDANCE}.ClassifierFreeGuidance"
    )
    network = _guided(guidance)
    network.target(f"{_MODELS}.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper")
    network.ignore("freeze_d_time_embedder", "freeze_shared_parameters", "shape_attend_pose")
    network.only("use_fp16", False, default=False)
    width, resolution = network.whole("model_channels"), _latents(network)
    network.only("resolution", resolution, default=resolution)
    flow = built(
        partial(replace, PUBLISHED_SS), network,
        **_transformer(network, width),
        resolution=resolution,
        latent_channels=_channels(network),
        patch_size=network.only("patch_size", 1, default=1),
        is_shortcut_model=network.only("is_shortcut_model", True, default=False),
    )  # fmt: skip
    for node in (network, guidance, generator):
        node.close()
    return flow, read_embedder(embedder)


def read_slat_generator(path: Path) -> tuple[SLatFlowConfig, bool, EmbedderSettings]:
    """Sizes of the structured-latent flow, whether its torso is in half precision, and its condition embedder."""
    generator, embedder = _generator(path)
    generator.target(f"{_BACKBONE}.generator.flow_matching.model.FlowMatching")
    _flow(generator)
    guidance = generator.child("reverse_fn")
    guidance.target(f"{_GUIDANCE}.ClassifierFreeGuidance")
    network = _guided(guidance)
    network.target(f"{_MODELS}.structured_latent_flow.SLatFlowModelTdfyWrapper")
    half = network.flag("use_fp16", False)
    network.only("patch_size", 2, default=2)
    network.only("use_skip_connection", True, default=True)
    network.only("is_shortcut_model", False, default=False)
    io_channels = network.numbers("io_block_channels")
    if len(io_channels) != 1 or not io_channels[0].is_integer():
        raise network.refusal("io_block_channels", list(io_channels), "one width, such as [128]")
    flow = built(
        partial(replace, PUBLISHED_SLAT), network,
        **_transformer(network, network.whole("model_channels")),
        resolution=network.whole("resolution"),
        latent_channels=_channels(network),
        io_channels=int(io_channels[0]),
        num_io_blocks=network.only("num_io_res_blocks", 2, default=2),
    )  # fmt: skip
    for node in (network, guidance, generator):
        node.close()
    return flow, half, read_embedder(embedder)


def read_ss_decoder(path: Path) -> StructureDecoderConfig:
    """Sizes of the sparse-structure decoder."""
    node = YamlNode(path, read_yaml(path))
    node.target(f"{_MODELS}.sparse_structure_vae.SparseStructureDecoderTdfyWrapper")
    node.ignore("pretrained_ckpt_path")
    node.only("norm_type", "layer", default="layer")
    node.only("use_fp16", False, default=False)
    node.only("reshape_input_to_cube", False, default=False)
    channels = node.numbers("channels")
    if not channels or not all(c.is_integer() and c > 0 for c in channels):
        raise node.refusal("channels", list(channels), "whole numbers above 0")
    config = built(
        StructureDecoderConfig, node,
        out_channels=node.only("out_channels", 1),
        latent_channels=node.whole("latent_channels"),
        channels=tuple(map(int, channels)),
        num_res_blocks=node.whole("num_res_blocks"),
        num_res_blocks_middle=node.whole("num_res_blocks_middle", 2),
    )  # fmt: skip
    node.close()
    return config


def read_mesh_decoder(path: Path) -> tuple[MeshDecoderConfig, bool]:
    """Sizes of the mesh decoder, and whether its torso is in half precision."""
    node = YamlNode(path, read_yaml(path))
    node.target(f"{_MODELS}.structured_latent_vae.decoder_mesh.SLatMeshDecoderTdfyWrapper")
    node.ignore("device")
    representation = node.child("representation_config")
    representation.only("use_color", True, default=False)
    representation.close()
    config = built(MeshDecoderConfig, node, **_trunk(node))
    half = node.flag("use_fp16", False)
    node.close()
    return config, half


def read_gaussian_decoder(path: Path) -> tuple[GaussianDecoderConfig, bool]:
    """Sizes and constants of a gaussian decoder, and whether its torso is in half precision."""
    node = YamlNode(path, read_yaml(path))
    node.target(f"{_MODELS}.structured_latent_vae.decoder_gs.SLatGaussianDecoderTdfyWrapper")
    representation = node.child("representation_config")
    representation.ignore("2d_filter_kernel_size")
    representation.only("scaling_activation", "softplus")
    rates = representation.child("lr")
    config = built(
        GaussianDecoderConfig, node,
        **_trunk(node),
        num_gaussians=representation.whole("num_gaussians"),
        rates=tuple(map(rates.number, ("_xyz", "_features_dc", "_scaling", "_rotation", "_opacity"))),
        voxel_size=representation.number("voxel_size"),
        perturb_offset=representation.flag("perturb_offset"),
        kernel_size=representation.number("3d_filter_kernel_size"),
        scaling_bias=representation.number("scaling_bias"),
        opacity_bias=representation.number("opacity_bias"),
    )  # fmt: skip
    half = node.flag("use_fp16", False)
    for part in (rates, representation, node):
        part.close()
    return config, half


def _generator(path: Path) -> tuple[YamlNode, YamlNode]:
    """The settings of a generator and of its embedder; the rest of the file is for training."""
    module = YamlNode(path, read_yaml(path)).child("module")
    return module.child("generator").child("backbone"), module.child("condition_embedder").child("backbone")


def _flow(node: YamlNode) -> None:
    """Settings that both generators have; steps and time grid are those of pipeline.yaml."""
    node.ignore("inference_steps", "loss_fn", "loss_weights", "rescale_t", "sigma_min", "training_time_sampler_fn")
    node.only("time_scale", 1000.0, default=1000.0)
    node.only("reversed_timestamp", False, default=False)
    node.only("solver_method", "euler", default="euler")
    node.only("solver_kwargs", {}, default={})


def _guided(node: YamlNode) -> YamlNode:
    """The network under guidance, whose strength and interval are those of pipeline.yaml."""
    node.ignore("interval", "p_unconditional", "strength")
    node.only("unconditional_handling", "add_flag", default="zeros")
    node.only("use_unconditional_from_flow_matching", False, default=False)
    network = node.child("backbone")
    network.only("condition_embedder", None, default=None)
    network.only("force_zeros_cond", True, default=False)
    return network


def _transformer(node: YamlNode, width: int) -> dict[str, Any]:
    """Settings of the transformers of both flows."""
    node.ignore("use_checkpoint")
    node.only("pe_mode", "ape", default="ape")
    return {
        "model_channels": width,
        "num_blocks": node.whole("num_blocks"),
        "num_heads": _heads(node, width),
        "mlp_ratio": node.number("mlp_ratio", 4.0),
        "cond_channels": node.whole("cond_channels"),
        "share_mod": node.only("share_mod", False, default=False),
        "qk_rms_norm": node.only("qk_rms_norm", True, default=False),
        "qk_rms_norm_cross": node.only("qk_rms_norm_cross", False, default=False),
    }


def _trunk(node: YamlNode) -> dict[str, Any]:
    """Settings of the transformers of the decoders."""
    node.ignore("pretrained_ckpt_path", "use_checkpoint")
    node.only("attn_mode", "swin", default="swin")
    node.only("pe_mode", "ape", default="ape")
    node.only("qk_rms_norm", False, default=False)
    width = node.whole("model_channels")
    return {
        "resolution": node.whole("resolution"),
        "latent_channels": node.whole("latent_channels"),
        "model_channels": width,
        "num_blocks": node.whole("num_blocks"),
        "num_heads": _heads(node, width),
        "mlp_ratio": node.number("mlp_ratio", 4.0),
        "window_size": node.whole("window_size", 8),
    }


def _heads(node: YamlNode, width: int) -> int:
    """Attention heads, which stock settings give by their number or by their width."""
    width_of_one = node.whole("num_head_channels", 64)
    heads = node.take("num_heads", None)
    return width // width_of_one if heads is None else node.whole("num_heads")


def _channels(node: YamlNode) -> int:
    """Channels of the latent, the same at both ends."""
    channels = node.whole("in_channels")
    node.only("out_channels", channels)
    return channels


def _latents(network: YamlNode) -> int:
    """Check the leaves of the sparse structure's latent. Returns the edge of the shape's grid."""
    network.only(
        "latent_share_transformer", {LAYOUT_STREAM: [LAYOUT_STREAM, "translation", "scale", "translation_scale"]}
    )
    width, shape_channels, resolution = network.whole("model_channels"), network.whole("in_channels"), 0
    leaves = network.child("latent_mapping")
    for name, channels in {SHAPE_LEAF: shape_channels, **LAYOUT_CHANNELS}.items():
        leaf = leaves.child(name)
        leaf.target(f"{_MODELS}.mm_latent.Latent")
        leaf.only("in_channels", channels)
        leaf.only("model_channels", width)
        place = leaf.child("pos_embedder")
        place.only("model_channels", width)
        if name == SHAPE_LEAF:
            place.target(f"{_MODELS}.mm_latent.ShapePositionEmbedder")
            place.only("patch_size", 1)
            resolution = place.whole("resolution")
        else:
            place.target(f"{_MODELS}.mm_latent.LearntPositionEmbedder")
            place.only("token_len", 1)
        place.close()
        leaf.close()
    leaves.close()
    return resolution
