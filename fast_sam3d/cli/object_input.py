"""What the commands for one object do before they load a pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import ObjectInput, load_object

if TYPE_CHECKING:
    from fast_sam3d.checkpoints.load import Checkpoint

__all__ = ["object_identity", "read_object", "reduced"]


def read_object(config: Config) -> ObjectInput:
    """The object that the input flags name. Raises InputError."""
    asked = config.input
    if asked.image_path is None:
        raise InputError("name the picture with --image_path: a folder with image.png and its masks, or a file")
    return load_object(asked.image_path, asked.mask_index, asked.mask_path, asked.pointmap)


def object_identity(config: Config, given: ObjectInput, checkpoint: Checkpoint) -> dict[str, Any]:
    """Digests of the input, and the settings that make a difference to the results."""
    from fast_sam3d.scene.inputs import digest
    from fast_sam3d.scene.worker import config_identity

    settings = config_identity(config, checkpoint)
    for name in ("smaller", "batch"):  # of scenes alone
        del settings[name]
    points = None if given.pointmap is None else digest(given.pointmap)
    return {
        "input": {"image": digest(given.image), "mask": digest(given.mask), "pointmap": points},
        "settings": settings,
    }


def reduced(given: ObjectInput) -> ObjectInput:
    """The object at the size to which the embedded pipeline reduces it, so that the full one leaves the memory.

    Unchanged where the reduced mask would cover the whole picture, which is refused.
    """
    from fast_sam3d.model.inputs import match_size, reduce_picture

    image, mask = reduce_picture(given.image, given.mask)
    if mask is given.mask or mask.all():
        return given
    points = None if given.pointmap is None else match_size(given.pointmap, *mask.shape).numpy()
    return replace(given, image=image, mask=mask, pointmap=points)
