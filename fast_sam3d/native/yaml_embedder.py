"""Settings of the condition embedders from their yaml files; see `yaml_networks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.embedder import EmbedderSettings, EncoderSettings, Inputs
from fast_sam3d.native.points import PointSettings
from fast_sam3d.native.vit import ViTConfig
from fast_sam3d.native.yaml_node import YamlNode

__all__ = ["built", "read_embedder"]

_EMBEDDER: Final = "sam3d_objects.model.backbone.dit.embedder"
_MOST_PARTS: Final = 8
INPUTS: Final = ("image", "rgb_image", "mask", "rgb_image_mask", "pointmap", "rgb_pointmap")
"""What `native.preprocess` gives."""
_HUB: Final = "facebookresearch/dinov2"
_SETTINGS = TypeVar("_SETTINGS")


def read_embedder(node: YamlNode) -> EmbedderSettings:
    """Settings of a condition embedder."""
    node.target(f"{_EMBEDDER}.embedder_fuser.EmbedderFuser")
    node.ignore("drop_modalities_weight", "dropout_prob", "freeze")
    node.only("use_pos_embedding", "learned", default="learned")
    node.only("projection_pre_norm", True, default=True)
    node.only("compression_projection_multiplier", 0, default=0)
    if not isinstance(pairs := node.take("embedder_list"), list) or len(pairs) > _MOST_PARTS:
        raise node.refusal("embedder_list", pairs, f"a list of at most {_MOST_PARTS} encoders")
    settings = built(
        EmbedderSettings, node,
        parts=tuple(_embedder_part(node, number, pair) for number, pair in enumerate(pairs)),
        multiplier=node.number("projection_net_hidden_dim_multiplier", 4.0),
        drop=_names(node, "force_drop_modalities"),
    )  # fmt: skip
    node.close()
    return settings


def _embedder_part(parent: YamlNode, number: int, pair: Any) -> tuple[EncoderSettings | PointSettings, Inputs]:
    place = f"embedder_list.{number}"
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], list):
        raise parent.refusal(place, pair, "pairs of an encoder and its inputs")
    if not all(isinstance(item, list) and len(item) == 2 and item[0] in INPUTS for item in pair[1]):
        raise parent.refusal(f"{place}.1", pair[1], f"pairs of an input ({', '.join(INPUTS)}) and its group")
    inputs = tuple((name, None if group is None else str(group)) for name, group in pair[1])
    node = parent.node(place, pair[0])
    encoder = f"{_EMBEDDER}.dino.Dino"
    points = f"{_EMBEDDER}.pointmap.PointPatchEmbed"
    part: EncoderSettings | PointSettings
    if node.target(encoder, points) == encoder:
        node.ignore("freeze_backbone", "source")
        node.only("repo_or_dir", _HUB, f"{_HUB}:main", default=_HUB)
        node.only("prune_network", False, default=False)
        part = built(
            EncoderSettings, node,
            vit=_vit(node),
            size=node.whole("input_size", 224),
            normalize=node.flag("normalize_images", True),
            prenorm=node.flag("prenorm_features", False),
        )  # fmt: skip
    else:
        node.only("remap_output", "linear", default="exp")
        node.only("dropout_prob", 0, default=0)
        node.only("force_dropout_always", False, default=False)
        part = built(
            PointSettings, node,
            channels=node.whole("embed_dim", 768),
            size=node.whole("input_size", 256),
            patch=node.whole("patch_size", 8),
        )  # fmt: skip
    node.close()
    return part, inputs


def _names(node: YamlNode, key: str) -> tuple[str, ...]:
    """A list of names; None is empty."""
    if not isinstance(names := node.take(key, None) or [], list):
        raise node.refusal(key, names, "a list of names")
    return tuple(map(str, names))


def _vit(node: YamlNode) -> ViTConfig:
    """An image encoder by its name on torch.hub. Its sizes can be replaced in `backbone_kwargs`, as tests do."""
    name = node.text("dino_model", "dinov2_vitb14")
    try:
        config = ViTConfig.named(name)
    except ValueError as error:
        raise CheckpointError(f"{node.path}: {error}") from error
    kwargs = node.take("backbone_kwargs", None)
    if not kwargs:
        return config
    other = node.node("backbone_kwargs", kwargs)
    other.ignore("pretrained", "weights")
    other.only("patch_size", config.patch, default=config.patch)
    other.only("ffn_layer", "mlp", default="mlp")
    config = built(
        ViTConfig, other,
        channels=other.whole("embed_dim", config.channels),
        blocks=other.whole("depth", config.blocks),
        heads=other.whole("num_heads", config.heads),
        mlp_ratio=other.number("mlp_ratio", config.mlp_ratio),
        patch=config.patch,
        grid=other.whole("img_size", config.grid * config.patch) // config.patch,
        registers=other.whole("num_register_tokens", config.registers, least=0),
        by_scale=config.by_scale,
    )  # fmt: skip
    other.close()
    return config


def built(make: Callable[..., _SETTINGS], node: YamlNode, **values: Any) -> _SETTINGS:
    """Settings of a class; its own errors name the file."""
    try:
        return make(**values)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{node.path} describes a network that cannot be built: {error}") from error
