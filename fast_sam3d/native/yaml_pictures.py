"""Preprocessing of pictures from pipeline.yaml, whose transforms must be those of `native.preprocess`.

Facts from sam3d_objects/data/dataset/tdfy (preprocessor.py, img_and_mask_transforms.py, img_processing.py).
"""

from __future__ import annotations

from typing import Final

from fast_sam3d.native.preprocess import Preprocessor
from fast_sam3d.native.yaml_node import YamlNode

__all__ = ["read_preprocessor"]

_TDFY: Final = "sam3d_objects.data.dataset.tdfy"
_CROP: Final = f"{_TDFY}.img_and_mask_transforms.crop_around_mask_with_padding"
_SAME_SIZE: Final = f"{_TDFY}.img_and_mask_transforms.resize_all_to_same_size"
_SQUARE: Final = f"{_TDFY}.img_processing.pad_to_square_centered"
_LEAST_BOX, _LARGEST_BOX = 0.1, 8.0
"""The crop is padded to its box, however large that is."""
_NEAREST, _BILINEAR = (0, "nearest"), (2, "bilinear")


def read_preprocessor(pipeline: YamlNode) -> Preprocessor:
    """The preprocessing of both stages. Raises CheckpointError where it is not that of `Preprocessor`."""
    node = pipeline.child("ss_preprocessor")
    node.target(f"{_TDFY}.preprocessor.PreProcessor")
    node.only("img_mask_joint_transform", [], default=[])
    node.only("normalize_pointmap", True, default=False)
    factor = _crop(node, "img_mask_pointmap_joint_transform", points=True)
    size = _pictures(node)
    _resize(node, "pointmap_transform", _NEAREST, size)
    normalizer = node.child("pointmap_normalizer")
    normalizer.target(f"{_TDFY}.img_and_mask_transforms.ObjectCentricSSI")
    normalizer.ignore("quantile_drop_threshold")
    normalizer.only("allow_scale_and_shift_override", True, default=False)
    normalizer.only("use_scene_scale", True, default=True)
    normalizer.only("clip_beyond_scale", None, default=None)
    normalizer.only("scale_factor", 1.0, default=1.0)
    normalizer.only("raise_on_no_valid_points", False, default=False)
    second = pipeline.child("slat_preprocessor")
    second.target(f"{_TDFY}.preprocessor.PreProcessor")
    # Without a pointmap, of which the second stage is given none.
    second.ignore(
        "img_mask_pointmap_joint_transform", "normalize_pointmap", "pointmap_normalizer", "pointmap_transform"
    )
    if (other := _crop(second, "img_mask_joint_transform", points=False)) != factor:
        raise second.refusal("img_mask_joint_transform.box_size_factor", other, f"{factor}, as in the first stage")
    _pictures(second, size)
    for part in (normalizer, node, second):
        part.close()
    return Preprocessor(size, factor)


def _pictures(node: YamlNode, size: int | None = None) -> int:
    """Resizing of pictures and masks, to one size. Returns it."""
    node.only("rgb_img_mask_joint_transform", None, [], default=None)
    node.only("rgb_pointmap_normalizer", None, default=None)
    size = _resize(node, "img_transform", _BILINEAR, size)
    return _resize(node, "mask_transform", _NEAREST, size)


def _resize(node: YamlNode, key: str, interpolation: tuple[int, str], size: int | None) -> int:
    """A padding to a square, then a resizing to `size`, or to any. Returns the size."""
    compose = node.child(key)
    compose.target("torchvision.transforms.Compose")
    steps = compose.children("transforms")
    if len(steps) != 2:
        raise compose.refusal("transforms", compose.take("transforms"), "a padding to a square, then a resizing")
    pad, resize = steps
    pad.target(_SQUARE)
    pad.only("_partial_", True)
    pad.only("value", 0, default=0)
    resize.target("torchvision.transforms.Resize")
    resize.only("interpolation", *interpolation, default=_BILINEAR[0])
    resize.only("antialias", True, default=True)
    resize.only("max_size", None, default=None)
    found = resize.whole("size")
    if size not in (None, found):
        raise resize.refusal("size", found, f"one size for all pictures, {size}")
    for part in (compose, pad, resize):
        part.close()
    return found


def _crop(node: YamlNode, key: str, points: bool) -> float:
    """The crop around the mask, after equal sizes if there are points. Returns the factor of its box."""
    steps = node.children(key)
    if len(steps) != 1 + points:
        raise node.refusal(key, node.take(key), "the transforms of the published file")
    if points:
        steps[0].target(_SAME_SIZE)
        steps[0].only("_partial_", True)
        steps[0].only("target_size", None, default=None)
    crop = steps[-1]
    crop.target(_CROP)
    crop.only("_partial_", True)
    crop.only("padding_factor", 0, default=0.1)
    factor = crop.number("box_size_factor", 1.6)
    if not _LEAST_BOX <= factor <= _LARGEST_BOX:
        raise crop.refusal("box_size_factor", factor, f"a number from {_LEAST_BOX} to {_LARGEST_BOX}")
    for part in steps:
        part.close()
    return factor
