"""How close a reconstruction is to another one: to the truth, to the unaccelerated result, or to another seed's.

Definitions. Distances between shapes are taken in the truth's frame: the similarity that takes the longest side of the
truth's axis-aligned box to [-0.5, 0.5] (`unit_cube`, the default) is applied to both shapes. SAM 3D's protocol uses
[-1, 1] (`sam3d`): lengths are doubled, and a threshold there is half of it here.

============================  ========================================================================================
chamfer, chamfer_squared      10,000 points drawn by area on each surface, seeded; mean distance to the nearest point of
                              the other, both directions added; unsquared and squared
f1@tau                        of the same points: harmonic mean of the shares within tau, both directions; 0.05, 0.01.
                              Equal meshes score less than 1 at 0.01, as the points on them differ
volume_iou (vIoU)             64^3 cells over the truth's cube, insides filled; symmetric
voxel_iou                     of the voxels that the sparse structure gave, at the model's own resolution; symmetric
box_iou (3D-IoU)              axis-aligned boxes, in the camera frame, of the two posed meshes; symmetric
oriented_box_iou              the same of boxes along each object's own axes
add_s                         10,000 points on each posed surface, nearest distances, mean of both directions, over the
                              diagonal of the truth's own box
rotation_deg                  least angle over the truth's symmetries, 0..180
translation_error             distance over the same diagonal
scale_error                   mean over the axes of |scale / truth - 1|
psnr, ssim                    of the gaussians rendered on white from 4 fixed views of 128 x 128 pixels in the canonical
                              frame; no pose
latent_error                  relative Euclidean error of the sparse structure's shape latent
============================  ========================================================================================

Nothing is aligned before, unless ICP is asked for (`Protocol(icp=True)`; surface measures only).
"""

from fast_sam3d.metrics.appearance import PSNR_MAX, compare_views, psnr, render_views, ssim, view_cameras
from fast_sam3d.metrics.boxes import FRAMES, UnitBox, box, box_iou, layout_box_iou, oriented_box_iou, unit_box
from fast_sam3d.metrics.comparison import (
    NO_MESH,
    NOISE,
    PERFECT,
    PLAIN,
    TRUTH,
    Protocol,
    Reconstruction,
    compare,
    drift_share,
    three_ways,
)
from fast_sam3d.metrics.latent import latent_error
from fast_sam3d.metrics.neighbours import align, nearest_distances
from fast_sam3d.metrics.occupancy import volume_iou, voxel_iou
from fast_sam3d.metrics.pose import Symmetry, add_s, posed_diameter, rotation_error_deg, scale_error, translation_error
from fast_sam3d.metrics.spread import (
    RESAMPLES,
    by_group,
    mean_and_error,
    median_and_error,
    paired_difference,
    paired_ratio,
)
from fast_sam3d.metrics.surface import (
    F1_THRESHOLDS,
    SURFACE_POINTS,
    WORST_CHAMFER,
    chamfer,
    compare_meshes,
    f1,
    sample_surface,
    worst_chamfer,
)

__all__ = [
    "F1_THRESHOLDS",
    "FRAMES",
    "NOISE",
    "NO_MESH",
    "PERFECT",
    "PLAIN",
    "PSNR_MAX",
    "RESAMPLES",
    "SURFACE_POINTS",
    "TRUTH",
    "WORST_CHAMFER",
    "Protocol",
    "Reconstruction",
    "Symmetry",
    "UnitBox",
    "add_s",
    "align",
    "box",
    "box_iou",
    "by_group",
    "chamfer",
    "compare",
    "compare_meshes",
    "compare_views",
    "drift_share",
    "f1",
    "latent_error",
    "layout_box_iou",
    "mean_and_error",
    "median_and_error",
    "nearest_distances",
    "oriented_box_iou",
    "paired_difference",
    "paired_ratio",
    "posed_diameter",
    "psnr",
    "render_views",
    "rotation_error_deg",
    "sample_surface",
    "scale_error",
    "ssim",
    "three_ways",
    "translation_error",
    "unit_box",
    "view_cameras",
    "volume_iou",
    "voxel_iou",
    "worst_chamfer",
]
