"""Training targets of the gaussians from distance samples, without rendering."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.model.slat_config import CELLS_PER_AXIS, CELLS_PER_VOXEL

ANCHORS = {
    1: ((0.0, 0.0, 0.0),),
    # A tetrahedron: along any axis its corners project to a square, so they cover any flat surface.
    4: ((-0.25, -0.25, -0.25), (-0.25, 0.25, 0.25), (0.25, -0.25, 0.25), (0.25, 0.25, -0.25)),
    8: tuple((x, y, z) for x in (-0.25, 0.25) for y in (-0.25, 0.25) for z in (-0.25, 0.25)),
}
"""Initial positions of a voxel's gaussians, in voxels from its centre, by their number."""

FLATNESS = 0.2
"""Ratio of the standard deviations along the normal and within the surface."""

NEWTON_STEPS = 3


def surface_targets(
    sdf: Tensor, rgb: Tensor, num_gaussians: int, resolution: int, reach: float = 1.0
) -> dict[str, Tensor]:
    """Project fixed anchors of each voxel onto its zero set.

    Each gaussian has a fixed anchor, so the target is a smooth function of the samples, suitable for regression.

    Args:
        sdf: [N, 64] signed distance in voxels, row-major (x, y, z), clipped to -1..1.
        rgb: [N, 64, 3] in 0..1.
        num_gaussians: per voxel, a key of ANCHORS.
        resolution: edge of the occupancy grid.
        reach: maximum distance of a point from the voxel's centre along an axis, in voxels.

    Returns:
        offset [N, n, 3] from the voxel's centre in voxels; normal [N, n, 3] unit, outward; rgb [N, n, 3];
        rotation [N, n, 4] wxyz from z to the normal; log_scaling [N, n, 3] in object units, the last along
        the normal; valid [N, n] bool, false if there is no surface within reach.
    """
    if sdf.ndim != 2 or sdf.shape[1] != CELLS_PER_VOXEL or rgb.shape != (*sdf.shape, 3):
        raise ValueError(f"sdf must be [N, 64] and rgb [N, 64, 3], got {list(sdf.shape)} and {list(rgb.shape)}")
    if num_gaussians not in ANCHORS:
        raise ValueError(f"num_gaussians must be one of {list(ANCHORS)}, got {num_gaussians}")
    edge = CELLS_PER_AXIS
    block = sdf.float().view(-1, edge, edge, edge)
    # With the cell spacing of 1/4 voxel, gradients of the distance have length 1.
    gradient = torch.stack(torch.gradient(block, spacing=1 / edge, dim=(1, 2, 3)), dim=1)
    colour = rgb.float().view(-1, edge, edge, edge, 3).permute(0, 4, 1, 2, 3)
    field = torch.cat([block[:, None], gradient, colour], dim=1)

    point = torch.tensor(ANCHORS[num_gaussians], device=sdf.device).expand(sdf.shape[0], -1, -1)
    for _ in range(NEWTON_STEPS):
        value, slope, _ = _sample(field, point)
        step = value * slope / slope.square().sum(-1, keepdim=True).clamp_min(0.25)
        point = (point - step).clamp(-reach, reach)
    value, slope, rgb_at = _sample(field, point)
    normal = F.normalize(slope, dim=-1)
    spacing = num_gaussians**-0.5
    sigma = torch.tensor([0.5 * spacing, 0.5 * spacing, 0.5 * spacing * FLATNESS], device=sdf.device)
    return {
        "offset": point,
        "normal": normal,
        "rgb": rgb_at.clamp(0, 1),
        "rotation": rotation_to_normal(normal),
        "log_scaling": (sigma / resolution).log().expand_as(point),
        "valid": (value.abs() < 0.1).squeeze(-1) & (slope.norm(dim=-1) > 0.3),
    }


def _sample(field: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Trilinear samples of [N, 7, 4, 4, 4] at [N, n, 3] voxels from the centre: distance, gradient, colour."""
    half = 0.5 * (CELLS_PER_AXIS - 1) / CELLS_PER_AXIS
    inner = point.clamp(-half, half)
    # grid_sample expects (z, y, x) order, and -1..1 between the outermost samples.
    grid = (inner / half).flip(-1)[:, :, None, None]
    read = F.grid_sample(field, grid, align_corners=True, padding_mode="border")[..., 0, 0].transpose(1, 2)
    value, slope, colour = read.split([1, 3, 3], dim=-1)
    # Outside of the samples, extrapolate linearly from the border.
    return value + (slope * (point - inner)).sum(-1, keepdim=True), slope, colour


def rotation_to_normal(normal: Tensor) -> Tensor:
    """Quaternion wxyz of the shortest rotation from +z to `normal` [..., 3] (unit)."""
    x, y, z = normal.unbind(-1)
    # At -z: half a turn about x.
    quaternion = torch.stack([1 + z, -y, x, torch.zeros_like(z)], dim=-1)
    flipped = torch.tensor([0.0, 1.0, 0.0, 0.0], device=normal.device).expand_as(quaternion)
    return F.normalize(torch.where((z < -1 + 1e-6)[..., None], flipped, quaternion), dim=-1)


def gaussian_loss(prediction: dict[str, Tensor], target: dict[str, Tensor], coords: Tensor, resolution: int) -> Tensor:
    """Regression loss of `GaussianDecoder.decode_attributes` against `surface_targets`.

    Args:
        prediction: attributes of N voxels.
        target: targets of the same voxels.
        coords: [N, 4] int, (batch, x, y, z).
        resolution: edge of the occupancy grid.

    Returns:
        Scalar: distance from the target point in voxels, colour, log-scale, the angle between the gaussian's z axis
        and the normal, and opacity (0.95 with a surface, 0.05 without).
    """
    valid = target["valid"].float()[..., None]
    weight = valid / valid.sum().clamp_min(1.0)
    centre = (coords[:, None, 1:].to(valid.device).float() + 0.5) / resolution - 0.5
    offset = (prediction["xyz"] - centre) * resolution
    axis = z_axis(F.normalize(prediction["rotation"], dim=-1))
    position = (weight * F.smooth_l1_loss(offset, target["offset"], reduction="none", beta=0.1)).sum()
    colour = (weight * F.smooth_l1_loss(prediction["rgb"], target["rgb"], reduction="none", beta=0.1)).sum()
    scale = (weight * (prediction["log_scaling"] - target["log_scaling"]).square()).sum()
    # Squared, because the sign of the axis is arbitrary.
    tilt = (weight * (1 - (axis * target["normal"]).sum(-1, keepdim=True).square())).sum()
    opacity = F.binary_cross_entropy_with_logits(prediction["opacity_logit"], 0.05 + 0.9 * valid)
    return position + colour + 0.1 * scale + 0.5 * tilt + 0.1 * opacity


def z_axis(rotation: Tensor) -> Tensor:
    """Image of +z under unit quaternions wxyz [..., 4] -> [..., 3]."""
    w, x, y, z = rotation.unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=-1)
