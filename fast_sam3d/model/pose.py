"""Conversion between poses and the layout leaves of the SS generator.

Row vectors as in PyTorch3D: p_cam = (p_obj * size) @ R + t, camera +x left, +y up, +z forward. The leaves are relative
to the pointmap: `scene_shift` is the coordinate-wise median of the object's visible points, `scene_scale` the median
distance of those points to it. The translation is in units of the object's size, in which the cube bounds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fast_sam3d.model.config import LAYOUT_CHANNELS

LEAST_SCALE = 1e-3  # metres
CLAMP = 4.0  # scene scales


def normalise_pointmap(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a pointmap to be independent of distance and size.

    Args:
        points: [..., 3] float32, camera frame; non-finite entries are unknown.
        valid: [...] bool, the object's visible pixels.

    Returns:
        Normalised points in [-CLAMP, CLAMP], 0 where unknown; scene_scale, 0-dim; scene_shift [3].

    Raises:
        ValueError: no finite point on the object.
    """
    known = torch.isfinite(points).all(-1)
    on_object = points[valid & known]
    if not len(on_object):
        raise ValueError("the pointmap has no finite point inside the mask; give another pointmap or none")
    shift = on_object.median(0).values
    scale = (on_object - shift).norm(dim=-1).median().clamp_min(LEAST_SCALE)
    normal = ((points - shift) / scale).clamp(-CLAMP, CLAMP)
    return torch.where(known[..., None], normal, torch.zeros_like(normal)), scale, shift


def rotation_from_6d(six: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] from their first two rows [..., 6], orthonormalised (Zhou et al., 1812.07035)."""
    a, b = six[..., :3], six[..., 3:]
    x = torch.nn.functional.normalize(a, dim=-1)
    y = torch.nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -2)


def quaternion_from_matrix(matrix: Tensor) -> Tensor:
    """Quaternions [..., 4], wxyz with w >= 0, of rotation matrices [..., 3, 3] (pytorch3d's quaternion_to_matrix)."""
    from scipy.spatial.transform import Rotation

    flat = matrix.detach().cpu().double().reshape(-1, 3, 3).numpy()
    xyzw = torch.from_numpy(Rotation.from_matrix(flat).as_quat(canonical=True))
    return xyzw[:, [3, 0, 1, 2]].to(matrix).reshape(*matrix.shape[:-2], 4)


def encode_pose(R: Tensor, t: Tensor, size: Tensor, scene_scale: Tensor, scene_shift: Tensor) -> dict[str, Tensor]:
    """Layout leaves of poses, before standardisation.

    Args:
        R: [B, 3, 3]. t: [B, 3], metres. size: [B], metres per canonical unit. scene_scale: [B]. scene_shift: [B, 3].

    Returns:
        Each leaf of `LAYOUT_CHANNELS` as [B, 1, channels].
    """
    log_size = (size / scene_scale).log()[:, None, None]
    return {
        "6drotation_normalized": R[:, :2].reshape(-1, 1, 6),
        "scale": log_size.expand(-1, 1, 3).contiguous(),
        "translation": ((t - scene_shift) / size[:, None])[:, None],
        "translation_scale": log_size.clone(),
    }


def decode_pose(leaves: dict[str, Tensor], scene_scale: Tensor, scene_shift: Tensor) -> dict[str, Tensor]:
    """Poses of layout leaves; the inverse of `encode_pose`.

    The two estimates of the size, `scale` and `translation_scale`, are averaged.

    Returns:
        rotation [B, 4] wxyz, translation [B, 3] metres, scale [B, 3] metres per canonical unit.
    """
    log_size = (leaves["scale"].float().mean((1, 2)) + leaves["translation_scale"].float().mean((1, 2))) / 2
    size = scene_scale.reshape(-1) * log_size.exp()
    return {
        "rotation": quaternion_from_matrix(rotation_from_6d(leaves["6drotation_normalized"][:, 0].float())),
        "translation": scene_shift.reshape(-1, 3) + leaves["translation"][:, 0].float() * size[:, None],
        "scale": size[:, None].expand(-1, 3).contiguous(),
    }


class PoseDecoder:
    """Pose of the standardised layout leaves that the network predicts.

    Args:
        mean, std: per leaf and channel, of the leaves of `encode_pose`.
    """

    def __init__(self, mean: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]]) -> None:
        self.mean = {name: torch.tensor(values, device="cpu") for name, values in mean.items()}
        self.std = {name: torch.tensor(values, device="cpu") for name, values in std.items()}

    def __call__(self, result: Mapping[str, Tensor], scene_scale: Tensor, scene_shift: Tensor) -> dict[str, Tensor]:
        """rotation [B, 4] wxyz, translation [B, 3], scale [B, 3]; see `decode_pose`."""
        leaves = {
            name: result[name].float().cpu() * self.std[name] + self.mean[name]
            for name in LAYOUT_CHANNELS
        }  # fmt: skip
        return decode_pose(leaves, scene_scale.cpu(), scene_shift.cpu())
