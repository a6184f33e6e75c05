"""Measures between a reconstruction and a reference: the ground truth, the unaccelerated result, or another seed's.

Both shapes are normalised by the reference: the longest side of its axis-aligned box becomes [-0.5, 0.5] (`unit_cube`,
the default), or [-1, 1] as in SAM 3D's protocol (`sam3d`), where lengths double and the same threshold is stricter.

============================  ========================================================================================
chamfer, chamfer_squared      10,000 points sampled by area on each surface, seeded; mean (squared) distance to the
                              nearest point of the other, sum of both directions
f1@tau                        same points: harmonic mean of precision and recall within tau; 0.05 and 0.01. Equal meshes
                              score less than 1 at 0.01, because the sampled points differ
volume_iou (vIoU)             64^3 cells over the reference's cube, solid
voxel_iou                     voxels of the sparse structure, at the model's resolution
box_iou (3D-IoU)              axis-aligned boxes of the posed meshes, in the camera frame
oriented_box_iou              boxes along each object's own axes
add_s                         10,000 points on each posed surface, nearest distances, mean of both directions, over the
                              diagonal of the reference's own box
rotation_deg                  smallest angle over the reference's symmetries, 0..180
translation_error             distance over the same diagonal
scale_error                   mean over the axes of |scale / reference - 1|
psnr, ssim                    gaussians rendered on white from 4 fixed views of 128 x 128 pixels, canonical frame
latent_error                  relative Euclidean error of the sparse structure's shape latent
============================  ========================================================================================

Shapes are not aligned first, unless `Protocol(icp=True)` (surface measures only). Neighbours are found by scipy unless
`Protocol(backend=...)` names pytorch3d or kaolin.
"""

from fast_sam3d.metrics.appearance import psnr, ssim
from fast_sam3d.metrics.boxes import box_iou, layout_box_iou, oriented_box_iou, unit_box
from fast_sam3d.metrics.comparison import (
    BASELINE,
    NO_MESH,
    PERFECT,
    TRUTH,
    Protocol,
    Reconstruction,
    compare,
    quality_and_fidelity,
)  # fmt: skip
from fast_sam3d.metrics.latent import latent_error
from fast_sam3d.metrics.neighbours import align
from fast_sam3d.metrics.occupancy import volume_iou, voxel_iou
from fast_sam3d.metrics.pose import add_s, rotation_error_deg, scale_error, translation_error
from fast_sam3d.metrics.spread import by_group, mean_and_error, median_and_error, paired_difference, paired_ratio
from fast_sam3d.metrics.surface import WORST_CHAMFER, chamfer, compare_meshes, f1

__all__ = [
    "BASELINE", "NO_MESH", "PERFECT", "TRUTH", "WORST_CHAMFER", "Protocol", "Reconstruction", "add_s", "align",
    "box_iou", "by_group", "chamfer", "compare", "compare_meshes", "f1", "latent_error", "layout_box_iou",
    "mean_and_error", "median_and_error", "oriented_box_iou", "paired_difference", "paired_ratio", "psnr",
    "quality_and_fidelity", "rotation_error_deg", "scale_error", "ssim", "translation_error", "unit_box", "volume_iou",
    "voxel_iou",
]  # fmt: skip
