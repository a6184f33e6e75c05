"""The settings of a checkpoint in the published form, at sizes for tests: pipeline.yaml and one yaml per network.

Names, nesting and all values but sizes are those of the published files.
"""

from __future__ import annotations

from typing import Any

from tests.beds import STEPS

WIDTH = 32
PIXELS = 56  # 4 x 4 patches of 14
GRID = 32  # voxels per side: two levels of the structure decoder, in place of three
PACKAGE = "sam3d_objects"
EMBEDDER = f"{PACKAGE}.model.backbone.dit.embedder"
MODELS = f"{PACKAGE}.model.backbone.tdfy_dit.models"
GENERATOR = f"{PACKAGE}.model.backbone.generator"
TDFY = f"{PACKAGE}.data.dataset.tdfy"
DECODERS = ("ss_decoder", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4")
NETWORKS = ("ss_generator", "slat_generator", *DECODERS)

SLAT_MEAN = [0.12211431, 0.37204156, -1.26521907, -2.05276058, -3.10432536, -0.11294304, -0.85146744, 0.45506954]
SLAT_STD = [2.37326008, 2.13174402, 2.2413953, 2.30589401, 2.1191894, 1.8969511, 2.41684989, 2.08374642]


def dino(crop: str, full: str, **options: Any) -> list[Any]:
    """`backbone_kwargs` is not in the published files: it makes the backbone small."""
    small = {"img_size": PIXELS, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    settings = {"dino_model": "dinov2_vitl14_reg", "input_size": PIXELS, "normalize_images": True, **options}
    return [
        {"_target_": f"{EMBEDDER}.dino.Dino", **settings, "backbone_kwargs": small},
        [[crop, "cropped"], [full, "full"]],
    ]


def embedder(stage: str) -> dict[str, Any]:
    settings = {
        "_target_": f"{EMBEDDER}.embedder_fuser.EmbedderFuser",
        "projection_net_hidden_dim_multiplier": 4.0,
        "use_pos_embedding": "learned",
    }
    if stage == "slat":
        pictures = [
            dino(*names, prenorm_features=True) for names in (("image", "rgb_image"), ("mask", "rgb_image_mask"))
        ]
        return {**settings, "embedder_list": pictures}
    points = {"embed_dim": 16, "input_size": 32, "patch_size": 8, "remap_output": "linear"}
    return {
        **settings,
        "drop_modalities_weight": [[["pointmap", "rgb_pointmap"], 1.0]],
        "dropout_prob": 0.1,
        "embedder_list": [
            dino("image", "rgb_image"),
            dino("mask", "rgb_image_mask"),
            [
                {"_target_": f"{EMBEDDER}.pointmap.PointPatchEmbed", **points},
                [["pointmap", "cropped"], ["rgb_pointmap", "full"]],
            ],
        ],
        "force_drop_modalities": None,
        "freeze": True,
    }


def latent(channels: int, kind: str = "LearntPositionEmbedder", **place: int) -> dict[str, Any]:
    return {
        "_target_": f"{MODELS}.mm_latent.Latent",
        "in_channels": channels,
        "model_channels": WIDTH,
        "pos_embedder": {
            "_target_": f"{MODELS}.mm_latent.{kind}",
            "model_channels": WIDTH,
            **(place or {"token_len": 1}),
        },
    }


BACKBONE: dict[str, Any] = {
    "cond_channels": WIDTH,
    "condition_embedder": None,
    "force_zeros_cond": True,
    "in_channels": 8,
    "mlp_ratio": 4,
    "model_channels": WIDTH,
    "num_blocks": 2,
    "num_heads": 2,
    "out_channels": 8,
    "pe_mode": "ape",
    "qk_rms_norm": True,
}
FLOW: dict[str, Any] = {
    "sigma_min": 0.0,
    "time_scale": 1000.0,
    "training_time_sampler_fn": {
        "_partial_": True,
        "_target_": f"{GENERATOR}.flow_matching.model.lognorm_sampler",
        "mean": -1.0,
        "std": 1.0,
    },
}


def ss_generator() -> dict[str, Any]:
    layout = {"6drotation_normalized": 6, "scale": 3, "translation": 3, "translation_scale": 1}
    shape = latent(8, "ShapePositionEmbedder", patch_size=1, resolution=16)
    backbone = {
        "_target_": f"{MODELS}.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper",
        **BACKBONE,
        "freeze_d_time_embedder": True,
        "freeze_shared_parameters": True,
        "is_shortcut_model": True,
        "latent_mapping": {**{name: latent(size) for name, size in layout.items()}, "shape": shape},
        "latent_share_transformer": {
            "6drotation_normalized": ["6drotation_normalized", "translation", "scale", "translation_scale"]
        },
        "patch_size": 1,
        "resolution": 16,
        "use_checkpoint": False,
        "use_fp16": False,
    }
    kind = "ClassifierFreeGuidanceWithExternalUnconditionalProbability"
    return {
        "_target_": f"{GENERATOR}.shortcut.model.ShortCut",
        "batch_mode": True,
        "cfg_modalities": ["shape"],
        "inference_steps": 2,
        "loss_weights": {
            "_target_": f"{PACKAGE}.config.utils.make_dict",
            "6drotation_normalized": 0.1,
            "scale": 0.1,
            "shape": 0,
            "translation": 1.0,
            "translation_scale": 0.0,
        },
        "ratio_cfg_samples_in_self_consistency_target": 0.25,
        "rescale_t": 1,
        "reverse_fn": {
            "_target_": f"{GENERATOR}.classifier_free_guidance.{kind}",
            "backbone": backbone,
            "interval": [0, 500],
            "p_unconditional": 0.1,
            "strength": 2.0,
            "unconditional_handling": "add_flag",
        },
        "self_consistency_cfg_strength": 2.0,
        "self_consistency_prob": 0.25,
        "shortcut_loss_weight": 1.0,
        **FLOW,
    }


def slat_generator(half: bool) -> dict[str, Any]:
    backbone = {
        "_target_": f"{MODELS}.structured_latent_flow.SLatFlowModelTdfyWrapper",
        **BACKBONE,
        "io_block_channels": [16],
        "num_io_res_blocks": 2,
        "patch_size": 2,
        "resolution": GRID,
        "use_fp16": half,
    }
    return {
        "_target_": f"{GENERATOR}.flow_matching.model.FlowMatching",
        "inference_steps": 12,
        "reverse_fn": {
            "_target_": f"{GENERATOR}.classifier_free_guidance.ClassifierFreeGuidance",
            "backbone": backbone,
            "p_unconditional": 0.0,
            "strength": 0.0,
            "unconditional_handling": "add_flag",
        },
        **FLOW,
    }


def decoder(kind: str, channels: int, representation: dict[str, Any], half: bool) -> dict[str, Any]:
    return {
        "_target_": f"{MODELS}.structured_latent_vae.{kind}",
        "resolution": GRID,
        "model_channels": channels,
        "latent_channels": 8,
        "num_blocks": 2,
        "num_heads": 4,
        "mlp_ratio": 2,
        "attn_mode": "swin",
        "window_size": 8,
        "representation_config": representation,
        "use_fp16": half,
    }


def gaussians(count: int, half: bool) -> dict[str, Any]:
    representation = {
        "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": count,
        "2d_filter_kernel_size": 0.1,
        "3d_filter_kernel_size": 0.0009,
        "scaling_bias": 0.004,
        "opacity_bias": 0.1,
        "scaling_activation": "softplus",
    }
    return decoder("decoder_gs.SLatGaussianDecoderTdfyWrapper", WIDTH, representation, half)


def with_embedder(stage: str, backbone: dict[str, Any]) -> dict[str, Any]:
    return {"module": {"condition_embedder": {"backbone": embedder(stage)}, "generator": {"backbone": backbone}}}


def networks(half: bool = True) -> dict[str, dict[str, Any]]:
    """The yaml of every network; half: `use_fp16` of the sparse networks, true in the published files."""
    return {
        "ss_generator": with_embedder("ss", ss_generator()),
        "slat_generator": with_embedder("slat", slat_generator(half)),
        "ss_decoder": {
            "_target_": f"{MODELS}.sparse_structure_vae.SparseStructureDecoderTdfyWrapper",
            "out_channels": 1,
            "latent_channels": 8,
            "num_res_blocks": 2,
            "num_res_blocks_middle": 2,
            "channels": [16, 8],
            "reshape_input_to_cube": False,
        },
        # 32 groups of channels after two divisions by 2 and 4.
        "slat_decoder_mesh": decoder("decoder_mesh.SLatMeshDecoderTdfyWrapper", 256, {"use_color": True}, half),
        "slat_decoder_gs": gaussians(4, half),
        "slat_decoder_gs_4": gaussians(2, half),
    }


def resized(**options: Any) -> dict[str, Any]:
    pad = {"_partial_": True, "_target_": f"{TDFY}.img_processing.pad_to_square_centered"}
    resize = {"_target_": "torchvision.transforms.Resize", "size": PIXELS, **options}
    return {"_target_": "torchvision.transforms.Compose", "transforms": [pad, resize]}


def preprocessor(stage: str) -> dict[str, Any]:
    module = f"{TDFY}.img_and_mask_transforms"
    crop = {
        "_partial_": True,
        "_target_": f"{module}.crop_around_mask_with_padding",
        "box_size_factor": 1.2,
        "padding_factor": 0.0,
    }
    settings = {
        "_target_": f"{TDFY}.preprocessor.PreProcessor",
        "img_transform": resized(),
        "mask_transform": resized(interpolation=0),
    }
    if stage == "slat":
        return {**settings, "img_mask_joint_transform": [crop]}
    return {
        **settings,
        "img_mask_joint_transform": [],
        "img_mask_pointmap_joint_transform": [
            {"_partial_": True, "_target_": f"{module}.resize_all_to_same_size"},
            crop,
        ],
        "normalize_pointmap": True,
        "pointmap_normalizer": {
            "_target_": f"{module}.ObjectCentricSSI",
            "allow_scale_and_shift_override": True,
            "use_scene_scale": True,
        },
        "pointmap_transform": resized(interpolation=0),
    }


def pipeline() -> dict[str, Any]:
    """pipeline.yaml; its steps are not in the published file, which relies on 25 as the constructor's default."""
    files = {
        f"{name}_{kind}_path": f"{name}.{end}"
        for name in NETWORKS
        for kind, end in (("config", "yaml"), ("ckpt", "ckpt"))
    }
    return {
        "_target_": f"{PACKAGE}.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap",
        **files,
        "pad_size": 1.0,
        "dtype": "float16",
        "version": "3dfy_v9",
        "ss_inference_steps": STEPS,
        "slat_inference_steps": STEPS,
        "slat_cfg_strength": 1,
        "slat_rescale_t": 1,
        "downsample_ss_dist": 1,
        "compile_model": True,
        "ss_condition_input_mapping": [],
        "ss_preprocessor": preprocessor("ss"),
        "pose_decoder_name": "ScaleShiftInvariant",
        "depth_model": {
            "_target_": f"{PACKAGE}.pipeline.depth_models.moge.MoGe",
            "model": {
                "_target_": "moge.model.v1.MoGeModel.from_pretrained",
                "pretrained_model_name_or_path": "Ruicheng/moge-vitl",
            },
        },
        "slat_condition_input_mapping": [],
        "slat_preprocessor": preprocessor("slat"),
        "slat_mean": SLAT_MEAN,
        "slat_std": SLAT_STD,
    }
