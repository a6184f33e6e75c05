"""Writes the folders of examples/, in the layout of users' own inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.mini.data import views
from fast_sam3d.mini.data.still_lifes import EXAMPLES, FIRST_SEED, Example

if TYPE_CHECKING:  # imports torch, which would slow down --help
    from fast_sam3d.mini.data.pictures import Photo

__all__ = ["PHOTO", "cup_mask", "cutout", "file_names", "names", "photograph", "write", "write_photo"]

PHOTO = "photo"

# The cup and its handle in scikit-image's "coffee", traced by hand: (column, row). Without the saucer and the spoon,
# which covers a part of the cup, but with the spoon's mirror image in the cup.
CUP = (
    (290, 18), (276, 18), (262, 19), (250, 21), (240, 24), (225, 31), (210, 41), (200, 49), (190, 60), (182, 72),
    (177, 82), (174, 95), (173, 108), (173, 122), (173, 134), (175, 147), (178, 172), (182, 188), (186, 198),
    (190, 207), (200, 220), (208, 228), (217, 235), (213, 245), (205, 258), (199, 268), (196, 280), (196, 289),
    (199, 297), (208, 304), (220, 308), (228, 305), (236, 300), (245, 292), (252, 284), (257, 280), (272, 284),
    (288, 285), (304, 281), (316, 276), (327, 269), (332, 263), (338, 256), (346, 250), (356, 246), (361, 243),
    (367, 237), (372, 232), (373, 225), (377, 217), (380, 211), (385, 202), (390, 192), (395, 180), (400, 166),
    (404, 152), (407, 140), (408, 128), (408, 116), (407, 106), (404, 94), (400, 84), (396, 76), (390, 66),
    (380, 54), (370, 46), (360, 39), (350, 33), (340, 28), (330, 24), (320, 22), (310, 20), (300, 18),
)  # fmt: skip


def file_names() -> list[str]:
    """All possible file names of an example."""
    most = max(len(example.masks) for example in EXAMPLES)
    return ["image.png", "pointmap.npz", "truth.json", *(f"{index}.png" for index in range(most))]


def names() -> list[str]:
    """Names of all examples."""
    return [*(example.name for example in EXAMPLES), PHOTO]


def write(folder: Path, example: Example, photo: Photo) -> None:
    """Write image.png, its masks, pointmap.npz and truth.json into an existing folder."""
    from fast_sam3d.outputs.files import save_json

    _write_png(folder / "image.png", photo.rgb)
    for number, index in enumerate(example.masks):
        _write_png(folder / f"{number}.png", cutout(photo.rgb, photo.mask(index)))
    # Half precision: 1 mm at 2 m, a third of the file.
    np.savez_compressed(folder / "pointmap.npz", pointmap=photo.points.astype(np.float16))
    height, width = photo.label.shape
    focal = example.focal * max(height, width)
    save_json(folder / "truth.json", {
        "camera": {"focal_px": focal, "principal_px": [width / 2, height / 2], "size_px": [width, height]},
        "objects": {f"{number}.png": _truth(example, photo, index) for number, index in enumerate(example.masks)},
    })  # fmt: skip


def _truth(example: Example, photo: Photo, index: int) -> dict[str, Any]:
    import torch

    from fast_sam3d.mini.data.pictures import image_grid
    from fast_sam3d.model.pose import quaternion_from_matrix

    sampled, camera = photo.placed[index].sampled, photo.placed[index].camera
    seen = int(photo.mask(index).sum())
    alone, _ = views.trace(sampled.solid, camera, image_grid(*photo.label.shape))
    return {
        "family": sampled.family,
        "seed": FIRST_SEED + example.objects[index].seed,
        "symmetry_about_z": sampled.symmetry,
        "visible_share": round(seen / max(int(alone.sum()), 1), 4),
        "rotation": quaternion_from_matrix(torch.from_numpy(camera.R)[None].double())[0],
        "translation": camera.t,
        "scale": [camera.size] * 3,
    }


def write_photo(folder: Path, rgb: NDArray[np.uint8]) -> None:
    """Write image.png and the mask of the cup into an existing folder; rgb is that of `photograph`."""
    _write_png(folder / "image.png", rgb)
    _write_png(folder / "0.png", cutout(rgb, cup_mask(*rgb.shape[:2])))


def cutout(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[H, W, 4] uint8: the object, transparent black elsewhere, like the stock notebook's masks."""
    return np.dstack([rgb * mask[..., None], mask * np.uint8(255)]).astype(np.uint8)


def photograph() -> NDArray[np.uint8] | None:
    """scikit-image's "coffee" [400, 600, 3] uint8, or None if the installed package lacks it."""
    import skimage
    from PIL import Image

    # Not skimage.data.coffee(), which would download a missing file.
    path = Path(skimage.__file__).parent / "data" / "coffee.png"
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def cup_mask(height: int, width: int) -> NDArray[np.bool_]:
    """[H, W] bool, the inside of `CUP`."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).polygon(CUP, fill=1)
    return np.asarray(canvas).astype(bool)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path, optimize=True)
