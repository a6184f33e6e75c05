"""The native pipeline: SAM 3D Objects with the user's own weights, on PyTorch alone.

Attributes, methods, arguments of `run` and result keys are those of the stock `InferencePipelinePointMap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fast_sam3d.errors import not_finite
from fast_sam3d.model.config_file import check_formats
from fast_sam3d.model.finite import is_finite
from fast_sam3d.native.stages import NativeStages, reduced
from fast_sam3d.refinement.pose import mask_at
from fast_sam3d.serial import one_at_a_time

__all__ = ["NativePipeline"]


class NativePipeline(NativeStages):
    """Picture, mask and optional pointmap to a 3D object.

    A run sets its samplers' settings on the samplers, and seeds torch's generator, so threads run one after another.
    """

    @one_at_a_time()
    def run(
        self,
        image: Any,
        mask: Any = None,
        seed: int | None = None,
        stage1_only: bool = False,
        with_mesh_postprocess: bool = True,
        with_texture_baking: bool = True,
        with_layout_postprocess: bool = False,
        use_vertex_color: bool = False,
        stage1_inference_steps: int | None = None,
        stage2_inference_steps: int | None = None,
        use_stage1_distillation: bool = False,
        use_stage2_distillation: bool = False,
        pointmap: Any = None,
        decode_formats: Sequence[str] | None = None,
        estimate_plane: bool = False,
    ) -> dict[str, Any]:
        """Reconstruct the masked object.

        Args:
            image: PIL image or uint8 array, RGB or RGBA.
            mask: PIL image or array, the object where above 0; None takes the alpha channel.
            seed: of the initial noise; None uses torch's global random generator.
            stage1_only: stop after voxels and pose.
            stage1_inference_steps, stage2_inference_steps: None takes the configured ones.
            use_stage1_distillation, use_stage2_distillation: no guidance, and the first sampler is given its step size.
            pointmap: [H, W, 3] metres, PyTorch3D camera frame, NaN where unknown; None asks the depth model.
            decode_formats: of "mesh", "gaussian" and "gaussian_4"; None takes the configured ones.
            with_layout_postprocess: refine the pose of a decoded object; see `refine_layout`. Not with stage1_only.
            with_mesh_postprocess, with_texture_baking: not implemented; a line is logged.
            use_vertex_color: no effect, glb always has vertex colours.

        Returns:
            rotation [1, 4] wxyz, translation [1, 3], scale [1, 3], the latent leaves, coords, coords_original,
            downsample_factor, pointmap and pointmap_colors [H, W, 3], of large pictures reduced; with stage1_only voxel
            [N, 3] (lower corners in the canonical cube), else what the formats ask for: mesh, gaussian, gaussian_4,
            glb, gs, gs_4; with with_layout_postprocess the summary layout_refinement.

        Raises:
            InputError: a picture, mask or pointmap that cannot be used, or no pointmap and no depth model.
            FastSam3dError: no voxel is occupied, or latents that are not finite.
            ValueError: an unknown format, a step count below 1, or estimate_plane, which is not supported.
        """
        if estimate_plane:
            raise ValueError("the native runtime estimates no planes: leave estimate_plane out")
        formats = self.decode_formats if decode_formats is None else decode_formats
        check_formats(formats)
        image = self.merge_image_and_mask(image, mask)
        slat_input = self.preprocess_image(image, self.slat_preprocessor)  # also checks the mask, before any network
        scene = self.compute_pointmap(image, pointmap)
        ss_input = self.preprocess_image(image, self.ss_preprocessor, scene["pointmap"])
        if seed is not None:
            torch.manual_seed(seed)
        result = self.sample_sparse_structure(ss_input, stage1_inference_steps, use_stage1_distillation)
        if not is_finite(result["shape"]):
            raise not_finite("sparse structure")
        result |= self.pose_decoder(
            result, scene_scale=ss_input["pointmap_scale"], scene_shift=ss_input["pointmap_shift"]
        )
        result["scale"] = result["scale"] * result["downsample_factor"]
        if not all(is_finite(result[name]) for name in ("rotation", "translation", "scale")):
            raise not_finite("pose")
        points = {
            "pointmap": reduced(scene["pointmap"]).permute(1, 2, 0),
            "pointmap_colors": reduced(scene["pts_color"]).permute(1, 2, 0),
        }
        if stage1_only:
            result["voxel"] = result["coords"][:, 1:] / self.resolution - 0.5
            return {**result, **points}
        slat = self.sample_slat(slat_input, result["coords"], stage2_inference_steps, use_stage2_distillation)
        outputs = self.decode_slat(slat, formats)
        outputs = self.postprocess_slat_output(outputs, with_mesh_postprocess, with_texture_baking, use_vertex_color)
        result = {**result, **outputs, **points}
        if with_layout_postprocess:
            seen = mask_at(image[..., 3] > 0, *result["pointmap"].shape[:2])
            result.update(self.refine_layout(result, seen, guessed=False))
        return result
