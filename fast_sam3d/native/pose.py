"""Pose of the layout leaves that the sparse-structure flow predicts, in the convention "ScaleShiftInvariant".

Row vectors as in PyTorch3D: p_camera = (p_object * scale) @ R + translation. Formulas and the constants are facts of
sam3d_objects/pipeline/inference_utils.py (`pose_decoder`) and data/dataset/tdfy/pose_target.py (`ScaleShiftInvariant`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PoseDecoder", "matrix_from_6d", "quaternion_from_matrix"]

# inference_utils.py, ROTATION_6D_MEAN and ROTATION_6D_STD: not in any file of weights.
ROTATION_MEAN: Final = (
    -0.06366084883674913, 0.008438224692279752, 0.00017084786438302483,
    0.0007126610473540038, -0.0030916726538816417, 0.5166093753457688,
)  # fmt: skip
ROTATION_STD: Final = (
    0.6656971967514863, 0.6787012271867754, 0.30345010594844524,
    0.4394504420678794, 0.39817973931717104, 0.6176286868761914,
)  # fmt: skip


class PoseDecoder:
    """As the stock pipeline's `pose_decoder`; works on the leaves' device, in float32, without a copy to the host."""

    def __call__(
        self, leaves: Mapping[str, Tensor], scene_scale: Tensor | None = None, scene_shift: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Poses of a batch.

        Args:
            leaves: 6drotation_normalized [B, 1, 6], scale and translation [B, 1, 3]; translation_scale is not used.
            scene_scale: [B, 3], of the normalised pointmap; None: 1.
            scene_shift: [B, 3]; None: 0.

        Returns:
            translation [B, 3] and scale [B, 3] (three equal values) in the pointmap's unit, rotation [B, 4] wxyz with
            w >= 0. The scale does not yet know of a merged sparse structure: multiply it by `downsample_factor`.
        """
        six = leaves["6drotation_normalized"][:, 0].float()
        turn = matrix_from_6d(six * six.new_tensor(ROTATION_STD) + six.new_tensor(ROTATION_MEAN))
        scale, translation = (leaves[name][:, 0].float() for name in ("scale", "translation"))
        scale = scale.exp()
        if scene_scale is not None:
            scale, translation = scale * scene_scale, translation * scene_scale
        if scene_shift is not None:
            translation = translation + scene_shift
        return {
            "translation": translation,
            "rotation": quaternion_from_matrix(turn),
            "scale": scale.mean(-1, keepdim=True).expand(-1, 3),
        }


def matrix_from_6d(six: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of their first two columns [..., 6], orthonormalised (Zhou et al., 1812.07035)."""
    first, second = six[..., :3], six[..., 3:]
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def quaternion_from_matrix(matrix: Tensor) -> Tensor:
    """Quaternions [..., 4], wxyz with w >= 0, of rotation matrices [..., 3, 3], in the matrices' dtype and device.

    4 q qᵀ is linear in the matrix; its row with the largest diagonal entry, normalised, is q.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    rows = [
        1 + a + e + i, h - f, c - g, d - b,
        h - f, 1 + a - e - i, b + d, c + g,
        c - g, b + d, 1 - a + e - i, f + h,
        d - b, c + g, f + h, 1 - a - e + i,
    ]  # fmt: skip
    outer = torch.stack(rows, -1).unflatten(-1, (4, 4))
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = F.normalize(outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4))[..., 0, :], dim=-1)
    return torch.where(q[..., :1] < 0, -q, q)
