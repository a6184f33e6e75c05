"""Virtual camera for objects that are small in their picture: turned towards the object and zoomed in.

The networks are trained on objects that span a quarter of the picture or more. A given depth compensates for a smaller
span; a guess from the silhouette cannot. So depth is guessed, and the pose predicted, in the virtual camera's picture.
It shares the picture's camera centre, so the two pictures are related by a homography, and points by a rotation. The
change of the assumed focal length follows the rule of training poses (`mini.data.samples.seen_at_assumed_size`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from fast_sam3d.model.depth import ASSUMED_FOCAL
from fast_sam3d.model.pose import quaternion_from_matrix

LEAST_SHARE = 0.25
"""Share of the longer image side below which an object is small; 95 % of the training objects span more."""

SHARE = 0.5
"""Share of the window that the object spans; half of the training objects span more."""

SIDE_PIXELS = (128, 1024)
"""Minimum and maximum; the networks' crop has 64."""


@dataclass(frozen=True, eq=False)
class Window:
    """A square virtual picture. Focal lengths are `ASSUMED_FOCAL` times a picture's longer side.

    Args:
        turn: [3, 3], rows are the window's left, up and forward axes in the picture's camera frame;
            p_picture = p_window @ turn.
        zoom: picture's longer side over the window's side, > 1.
        side: pixels.
        size: height and width of the picture in pixels.
    """

    turn: NDArray[np.float64]
    zoom: float
    side: int
    size: tuple[int, int]

    @classmethod
    def around(cls, mask: NDArray[np.bool_]) -> Window | None:
        """The window around a small object; None for a larger one.

        Args:
            mask: [H, W], the object's visible pixels, at least one.
        """
        longer = max(mask.shape)
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) - np.array(mask.shape[::-1]) / 2
        if (box[1] - box[0]).max() >= LEAST_SHARE * longer:
            return None
        u, v = box.mean(0) / longer
        turn = _turn_towards(np.array([-u / ASSUMED_FOCAL, -v / ASSUMED_FOCAL, 1.0]))
        rows, columns = mask.nonzero()
        corners = np.concatenate([np.stack([columns + i, rows + j], 1) for i in (0, 1) for j in (0, 1)])
        seen = _image(_rays((corners - np.array(mask.shape[::-1]) / 2) / longer) @ turn.T)
        zoom = SHARE / float(np.ptp(seen, axis=0).max())
        return cls(turn, zoom, int(np.clip(round(longer / zoom), *SIDE_PIXELS)), mask.shape)

    def see(self, rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Point samples [side, side, 4] of a picture [H, W, 4] in the window.

        Outside of the picture, border colours are repeated with alpha 0.
        """
        line = ((np.arange(self.side) + 0.5) / self.side - 0.5) / self.zoom
        v, u = np.meshgrid(line, line, indexing="ij")
        height, width = self.size
        at = _image(_rays(np.stack([u, v], -1)) @ self.turn) * max(self.size)
        column, row = (np.floor(at[..., i] + n / 2).astype(int) for i, n in enumerate((width, height)))
        seen = rgba[row.clip(0, height - 1), column.clip(0, width - 1)]
        seen[(row < 0) | (row >= height) | (column < 0) | (column >= width), 3] = 0
        return seen

    def pose_in_picture(self, pose: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert a pose from the window to the picture's camera.

        The object's centre keeps its ray and its span; with the longer focal length it is farther away by the zoom, and
        keeps its size.

        Args:
            pose: rotation [1, 4] wxyz, translation [1, 3], scale [1, 3]; see `pose.decode_pose`.
        """
        w, x, y, z = pose["rotation"][0].cpu().double().tolist()
        rotation = Rotation.from_quat([x, y, z, w]).as_matrix() @ self.turn
        return {
            **pose,
            "rotation": quaternion_from_matrix(torch.from_numpy(rotation)[None]).to(pose["rotation"]),
            "translation": torch.from_numpy(self._farther(pose)[None] @ self.turn).to(pose["translation"]),
        }

    def points_in_picture(self, points: Tensor, mask: NDArray[np.bool_], pose: dict[str, Tensor]) -> Tensor:
        """Convert the guess [3, side, side] to a pointmap [3, H, W] of the picture, NaN off the object.

        Points keep their depth relative to the object's centre, and lie on their pixels' rays.

        Args:
            mask: [H, W], the object's visible pixels. pose: in the window.
        """
        rows, columns = mask.nonzero()
        centres = np.stack([columns, rows], 1) + 0.5 - np.array(mask.shape[::-1]) / 2
        rays = _rays(centres / max(self.size)) @ self.turn.T
        rays /= rays[:, 2:]
        column, row = np.floor((_image(rays) * self.zoom + 0.5) * self.side).astype(int).T.clip(0, self.side - 1)
        depth = points[2].double().cpu().numpy()[row, column]
        depth = depth + self._farther(pose)[2] - float(pose["translation"][0, 2])
        result = np.full((*mask.shape, 3), np.nan, np.float32)
        result[rows, columns] = (rays * depth[:, None]) @ self.turn
        return torch.from_numpy(result).permute(2, 0, 1)

    def _farther(self, pose: dict[str, Tensor]) -> NDArray[np.float64]:
        """The translation [3] in the window's frame at its true focal length."""
        return pose["translation"][0].double().cpu().numpy() * (1.0, 1.0, self.zoom)


def _rays(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions [..., 3] of image coordinates [..., 2], units of the longer side, origin in the centre."""
    return np.concatenate([-at / ASSUMED_FOCAL, np.ones_like(at[..., :1])], -1)


def _image(rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Image coordinates [..., 2] of directions [..., 3] with z > 0."""
    return -ASSUMED_FOCAL * rays[..., :2] / rays[..., 2:]


def _turn_towards(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest rotation [3, 3] with a given last row, a direction [3] with z > 0."""
    forward = direction / np.linalg.norm(direction)
    axis = np.cross([0.0, 0.0, 1.0], forward)
    sine = np.linalg.norm(axis)
    if sine < 1e-12:
        return np.eye(3)
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, forward[2])).as_matrix().T
