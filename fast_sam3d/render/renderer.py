"""CPU renderer in numpy, for previews and image metrics: meshes by z-buffer, gaussians by splatting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.camera import NEAR, Camera
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import matrices_of_unit_quaternions
from fast_sam3d.render.zbuffer import batches, expand, nearest_triangle, pixel_range

Color = float | Sequence[float]
WHITE = 1.0
SUPERSAMPLING = 2
AMBIENT, DIFFUSE = 0.5, 0.5
SHARP_EDGE_COS = 0.85  # cosine between face and vertex normal below which an edge stays sharp (32 degrees)
LIGHT = (0.35, 0.5, -0.8)  # direction to the light, camera frame: from above left of the camera
FRAGMENTS_AT_ONCE = 1_500_000  # limits memory: about 100 bytes each
BLUR_PX2 = 0.3  # added to each splat's variance, so that none falls between pixels (3DGS rasteriser)
MIN_ALPHA = 1.0 / 255.0
MAX_ALPHA = 0.99


class MeshImage(NamedTuple):
    """rgb [H, W, 3] float32 in 0..1; depth [H, W] float32, inf for background; mask [H, W] bool."""

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


class GaussianImage(NamedTuple):
    """rgb [H, W, 3] float32 in 0..1 over the background; alpha [H, W] float32 in 0..1."""

    rgb: np.ndarray
    alpha: np.ndarray


class MeshRenderer:
    """A triangle mesh to render.

    Args:
        vertices: [V, 3]. faces: [F, 3]. colors: [V, 3] rgb in 0..1, or None for grey.
        once: for one camera: computes normals of visible faces only. False: computes all, once for all cameras.
    """

    def __init__(self, vertices: Any, faces: Any, colors: Any, once: bool = False) -> None:
        self._points, self._faces = as_numpy(vertices, np.float64), as_numpy(faces, np.int64).reshape(-1, 3)
        tint = np.full((len(self._points), 3), 0.7) if colors is None else as_numpy(colors, np.float64)[:, :3]
        self._tint = np.ascontiguousarray(tint)
        self._normals = None if once else _normals(self._points, self._faces)

    def __call__(
        self, camera: Camera, size: int | None = None, background: Color = WHITE, lit: bool = True
    ) -> MeshImage:
        """Render both sides with smooth Lambert shading and 2 x 2 samples per pixel.

        Args:
            camera: triangles with a vertex closer than `NEAR` are omitted, not clipped.
            size: longer side of the image in pixels; None: the camera's own.
            background: grey level or rgb in 0..1.
            lit: False: the colours themselves, without shading.
        """
        camera = camera if size is None else camera.resized(size)
        height, width = (side * SUPERSAMPLING for side in camera.size)
        fine = camera.resized(max(height, width))
        hit, face, centre, weight = _visible(self._points, self._faces, fine)
        rgb = np.empty((height * width, 3), np.float32)
        rgb[:] = background
        deep = np.full(height * width, np.inf, np.float32)
        total = weight.sum(axis=1, keepdims=True)
        weight /= total
        tint = np.einsum("nk,nkc->nc", weight, self._tint[self._faces[face]])
        if lit:
            centre_ray = (np.asarray(fine.principal) - centre) / fine.focal
            ray = np.concatenate([centre_ray, np.ones((len(hit), 1))], axis=1)
            light = camera.rotation @ (np.asarray(LIGHT) / np.linalg.norm(LIGHT))
            own, at_corners = self._normals_of(face)
            tint = tint * _shading(own, at_corners, weight, ray @ camera.rotation.T, light)[:, None]
        rgb[hit] = np.clip(tint, 0.0, 1.0)
        deep[hit] = 1.0 / total[:, 0]

        samples = [(row, column) for row in range(SUPERSAMPLING) for column in range(SUPERSAMPLING)]
        grids = rgb.reshape(height, width, 3), deep.reshape(height, width), (deep < np.inf).reshape(height, width)
        parts = [[grid[i::SUPERSAMPLING, j::SUPERSAMPLING] for i, j in samples] for grid in grids]
        mean = sum(parts[0][1:], parts[0][0]) / np.float32(len(samples))
        count = sum((part.astype(np.int64) for part in parts[2][1:]), parts[2][0].astype(np.int64))
        return MeshImage(mean, np.minimum.reduce(parts[1]), 2 * count >= len(samples))

    def _normals_of(self, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit normals [N, 3] of faces by index [N], and of their corners [N, 3, 3]."""
        if self._normals is not None:
            own, at_corners = self._normals
            return own[face], at_corners[face]
        # The faces around the corners, in their order: sums are the same to the last bit.
        corner = np.zeros(len(self._points), bool)
        corner[self._faces[face]] = True
        around = np.flatnonzero(corner[self._faces].any(axis=1))
        own, smooth = face_and_vertex_normals(self._points, self._faces[around])
        own = own[np.searchsorted(around, face)]
        return own, _at_corners(own, smooth[self._faces[face]])


def nearest_faces(vertices: Any, faces: Any, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Index of the visible face at each pixel centre, [H, W] int64, -1 for none, and its depth, inf for none."""
    points, triangles = as_numpy(vertices, np.float64), as_numpy(faces, np.int64).reshape(-1, 3)
    hit, face, _, weight = _visible(points, triangles, camera)
    depth = np.full(camera.size, np.inf)
    depth.flat[hit] = 1.0 / weight.sum(axis=1)
    index = np.full(camera.size, -1, np.int64)
    index.flat[hit] = face
    return index, depth


def face_and_vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals of faces [F, 3], and area-weighted unit normals of vertices [V, 3]."""
    corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])  # length: twice the area
    index = faces.reshape(-1)
    smooth = np.stack([np.bincount(index, np.repeat(normal[:, k], 3), len(vertices)) for k in range(3)], axis=1)
    own, smooth = (n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30) for n in (normal, smooth))
    return own, smooth


def render_gaussians(
    gaussians: Any, camera: Camera, size: int | None = None, background: Color = WHITE
) -> GaussianImage:
    """Render gaussians as elliptical splats, sorted by centre depth and composited front to back.

    Args:
        gaussians: object with the attributes of `GaussianCloud`.
        camera: gaussians with centres closer than `NEAR` are omitted.
        size: longer side of the image in pixels; None: the camera's own.
        background: grey level or rgb in 0..1.

    Source: 3D Gaussian Splatting (arXiv 2308.04079), with the blur and alpha limits of its rasteriser; splats are cut
    at alpha 1/255, not at 3 sigma.
    """
    camera = camera if size is None else camera.resized(size)
    cloud = GaussianCloud.of(gaussians)
    height, width = camera.size
    pixels, depth = camera.project(cloud.get_xyz)
    opacity = np.minimum(cloud.get_opacity[:, 0].astype(np.float64), MAX_ALPHA)
    order = np.argsort(depth, kind="stable")
    order = order[(depth[order] > NEAR) & (opacity[order] > MIN_ALPHA)]
    pixels, opacity, rgb = pixels[order], opacity[order], cloud.rgb[order]
    conic, cut = _splat_conics(cloud, order, camera), 2.0 * np.log(opacity / MIN_ALPHA)
    # Half height of the ellipse {d : d' conic d <= cut}.
    reach = np.sqrt(cut * conic[:, 0] / (conic[:, 0] * conic[:, 2] - conic[:, 1] ** 2))

    transmittance = np.ones(height * width)
    colour = np.zeros((height * width, 3))
    first, last = pixel_range(pixels[:, 1] - reach, pixels[:, 1] + reach, height)
    extent = np.sqrt(cut * conic[:, 2] / (conic[:, 0] * conic[:, 2] - conic[:, 1] ** 2))
    area = (last - first).astype(np.float64) * np.minimum(2.0 * extent + 1.0, width)
    for batch in batches(area, FRAGMENTS_AT_ONCE):
        item, row = expand(first[batch], last[batch])
        item += batch.start
        dy = row + 0.5 - pixels[item, 1]
        a, b, c = conic[item, 0], conic[item, 1] * dy, conic[item, 2] * dy * dy
        half = np.sqrt(np.maximum(b * b - a * (c - cut[item]), 0.0)) / a
        middle = pixels[item, 0] - b / a
        span, column = expand(*pixel_range(middle - half, middle + half, width))
        pixel = row[span] * width + column
        alive = transmittance[pixel] > MIN_ALPHA  # nothing behind an opaque pixel is visible
        span, column, pixel = span[alive], column[alive], pixel[alive]
        dx = column + 0.5 - pixels[item[span], 0]
        power = 0.5 * (a[span] * dx * dx + 2.0 * b[span] * dx + c[span])
        _composite(pixel, item[span], opacity[item[span]] * np.exp(-power), rgb, transmittance, colour)
    picture = colour + transmittance[:, None] * np.broadcast_to(background, (3,))
    return GaussianImage(
        np.clip(picture, 0.0, 1.0).reshape(height, width, 3).astype(np.float32),
        (1.0 - transmittance).reshape(height, width).astype(np.float32),
    )


# ------------------------------------------------------------------------------------------------------- parts


def _visible(
    points: np.ndarray, faces: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels where a face is visible.

    Returns:
        [N] numbers of the pixels, row-major; [N] indices of the faces; [N, 2] pixel centres; [N, 3] weights of the
        faces' corners, which sum to the inverse depth, for perspective-correct interpolation.
    """
    height, width = camera.size
    pixels, depth = camera.project(points)
    ahead = depth > NEAR
    kept = np.arange(len(faces)) if ahead.all() else np.flatnonzero(ahead[faces].all(axis=1))
    inverse_depth = 1.0 / np.where(depth > NEAR, depth, 1.0)
    winner = nearest_triangle(pixels, inverse_depth, faces[kept], height, width, FRAGMENTS_AT_ONCE)
    hit = np.flatnonzero(winner >= 0)
    face = kept[winner[hit]]
    centre = np.stack([hit % width, hit // width], axis=1) + 0.5
    return hit, face, centre, _barycentric(pixels[faces[face]], centre) * inverse_depth[faces[face]]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N] z component of the cross product of vectors [N, 2]."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _barycentric(corner: np.ndarray, point: np.ndarray) -> np.ndarray:
    """[N, 3] weights of triangles [N, 3, 2] at points [N, 2], clipped to the triangle."""
    to = corner - point[:, None]
    weight = np.stack([_cross(to[:, i], to[:, (i + 1) % 3]) for i in (1, 2, 0)], axis=1)
    total = weight.sum(axis=1, keepdims=True)
    weight = np.clip(weight / np.where(np.abs(total) > 1e-12, total, 1.0), 0.0, 1.0)
    return weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals of faces [F, 3] and of their corners [F, 3, 3]."""
    own, smooth = face_and_vertex_normals(vertices, faces)
    return own, _at_corners(own, smooth[faces])


def _at_corners(own: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """[N, 3, 3] the vertex normals [N, 3, 3] of faces, or their own [N, 3] where the two differ much (sharp edges)."""
    close = np.einsum("fkc,fc->fk", smooth, own)[..., None] > SHARP_EDGE_COS
    return np.where(close, smooth, own[:, None])


def _shading(
    own: np.ndarray, at_corner: np.ndarray, weight: np.ndarray, ray: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """[N] brightness from face normals [N, 3], corner normals [N, 3, 3], weights and rays [N, 3], and light [3]."""
    normal = np.einsum("nk,nkc->nc", weight, at_corner)
    length = np.sqrt(np.einsum("nc,nc->n", normal, normal))
    facing = np.where(np.einsum("nc,nc->n", own, ray) > 0, -1.0, 1.0)  # back faces are lit like front faces
    return AMBIENT + DIFFUSE * np.clip(normal @ light * facing / np.maximum(length, 1e-12), 0.0, 1.0)


def _splat_conics(cloud: GaussianCloud, order: np.ndarray, camera: Camera) -> np.ndarray:
    """[n, 3] inverse image covariances (xx, xy, yy) in pixels^-2, of gaussians `order` (EWA, local affine)."""
    turn = matrices_of_unit_quaternions(cloud.get_rotation[order].astype(np.float64))
    axes = camera.rotation.T @ (turn * cloud.get_scaling[order].astype(np.float64)[:, None, :])  # columns, camera frame
    local = cloud.get_xyz[order].astype(np.float64) @ camera.rotation + camera.translation
    ratio = camera.focal / local[:, 2]
    # Rows of the projection's Jacobian, u = cx - f x / z: -(f / z) (1, 0, -x / z), the same for v with y. The
    # sign cancels in the covariance.
    slope = np.clip(local[:, :2] / local[:, 2:], -1e3, 1e3)
    image = ratio[:, None, None] * (axes[:, :2] - slope[:, :, None] * axes[:, 2:])
    covariance = image @ image.transpose(0, 2, 1)
    xx, xy, yy = covariance[:, 0, 0] + BLUR_PX2, covariance[:, 0, 1], covariance[:, 1, 1] + BLUR_PX2
    return np.stack([yy, -xy, xx], axis=1) / (xx * yy - xy * xy)[:, None]


def _composite(
    pixel: np.ndarray,
    item: np.ndarray,
    alpha: np.ndarray,
    rgb: np.ndarray,
    transmittance: np.ndarray,
    colour: np.ndarray,
) -> None:
    """Composite fragments, front to back, into `colour` [P, 3] and `transmittance` [P], in place."""
    from scipy.sparse import coo_array

    if len(pixel) == 0:
        return
    count = len(transmittance)
    log_pass = np.log1p(-alpha)
    # coo -> csr is a stable counting sort: the cheapest way to group by pixel.
    table = coo_array((log_pass, (pixel, item)), shape=(count, len(rgb))).tocsr()
    log_pass, item, ends = table.data, table.indices, table.indptr
    pixel = np.repeat(np.arange(count), np.diff(ends))
    through = np.cumsum(log_pass)
    before = np.concatenate([[0.0], through])[ends[:-1]]  # sum over all earlier pixels
    weight = transmittance[pixel] * np.exp(through - log_pass - before[pixel]) * -np.expm1(log_pass)
    for channel in range(3):
        colour[:, channel] += np.bincount(pixel, weight * rgb[item, channel], count)
    transmittance *= np.exp(np.concatenate([[0.0], through])[ends[1:]] - before)
