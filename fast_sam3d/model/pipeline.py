"""The embedded pipeline: one picture with a mask to a mesh, gaussians and a pose.

Attributes, methods and result keys are those of the stock `InferencePipelinePointMap`, so that one adapter serves both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.batch import BatchedStructure, sample_structures
from fast_sam3d.model.common import picture_colours
from fast_sam3d.model.config_file import CONFIG_NAME, REPAIR, ModelConfig, check_formats
from fast_sam3d.model.networks import check_networks, load_networks, save_networks
from fast_sam3d.model.stages import Stages
from fast_sam3d.serial import one_at_a_time

log = logging.getLogger(__name__)


class Pipeline(Stages):
    """Picture, mask and optional pointmap to a 3D object.

    A run sets its samplers' settings on the samplers, and seeds torch's generator, so threads run one after another.
    """

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Pipeline:
        """Pipeline from a folder with `pipeline.yaml` and one `.safetensors` file per network.

        If `sha256.json` exists, the weights must match the checksums that it lists.

        Raises:
            CheckpointError: a file is missing, damaged or of another network; it names the file and what to do.
        """
        folder, config = Path(folder), ModelConfig.load(folder)
        try:
            check_networks(config, folder)
            pipeline = cls(config, device, dtype)
        except CheckpointError:
            raise
        except (ArithmeticError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{folder / CONFIG_NAME} is not usable ({reason}): {REPAIR}") from error
        load_networks(pipeline.models, pipeline.condition_embedders, folder)
        import trimesh  # noqa: F401  (here, so that the first run's times contain no import)

        return pipeline

    def save_pretrained(self, folder: Path | str) -> None:
        """Write what `from_pretrained` reads; weights as float16."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_networks(self.models, self.condition_embedders, folder)
        self.config.save(folder)

    @one_at_a_time()
    def sample_structures(
        self, objects: Sequence[tuple[Any, Any, Any]], seed: int, inference_steps: int | None = None
    ) -> list[BatchedStructure]:
        """Sample the sparse structures of several objects in one batch; see `batch.sample_structures`.

        Put into `solved_ahead`, they replace the solves of these objects' runs.
        """
        return sample_structures(self, objects, seed, inference_steps)

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
            use_stage1_distillation, use_stage2_distillation: see the two sampling methods.
            pointmap: [H, W, 3] metres, PyTorch3D camera frame, NaN where unknown.
            decode_formats: subset of `FORMATS`; None takes the configured one.
            with_layout_postprocess: refine the pose of a decoded object; see `refine_layout`. Not with stage1_only.
            with_mesh_postprocess, with_texture_baking, use_vertex_color: no effect here.

        Returns:
            rotation [1, 4] wxyz, translation [1, 3], scale [1, 3], the latent leaves, coords, coords_original,
            downsample_factor, pointmap and pointmap_colors [H, W, 3]; with stage1_only voxel [N, 3] (centres in the
            canonical cube), else what the formats ask for: mesh, gaussian, gaussian_4, glb, gs, gs_4; with
            with_layout_postprocess the summary layout_refinement.

        Raises:
            InputError: a picture, mask or pointmap that cannot be used.
            ValueError: an unknown format, a step count below 1, or estimate_plane, which is not supported.
        """
        if estimate_plane:
            raise ValueError("the embedded model estimates no planes: leave estimate_plane out")
        formats = self.decode_formats if decode_formats is None else decode_formats
        check_formats(formats)
        image, window, scene, seen = self.see(image, mask, pointmap)
        if window is not None:
            log.info("the object is small in the picture: depth and pose are guessed in a window %.1f times as small",
                     window.zoom)  # fmt: skip
        ss_input = self.preprocess_image(seen, self.ss_preprocessor, scene["pointmap"], scene["guessed"])
        slat_input = self.preprocess_image(seen, self.slat_preprocessor, scene["pointmap"], scene["guessed"])
        if seed is not None:
            torch.manual_seed(seed)
        result = self.sample_sparse_structure(ss_input, stage1_inference_steps, use_stage1_distillation)
        pose = self.pose_decoder(result, scene_scale=ss_input["pointmap_scale"], scene_shift=ss_input["pointmap_shift"])
        if window is not None:
            scene["pointmap"] = window.points_in_picture(scene["pointmap"], image[..., 3] > 0, pose)
            scene["pts_color"] = picture_colours(image)
            pose = window.pose_in_picture(pose)
        result.update(pose)
        result["scale"] = result["scale"] * result["downsample_factor"]
        points = {
            "pointmap": scene["pointmap"].permute(1, 2, 0),
            "pointmap_colors": scene["pts_color"].permute(1, 2, 0),
        }
        if stage1_only:
            # Centres, where the stock pipeline gives corners.
            result["voxel"] = (result["coords"][:, 1:] + 0.5) / self.config.ss_decoder.resolution - 0.5
            return {**result, **points}
        slat = self.sample_slat(slat_input, result["coords"], stage2_inference_steps, use_stage2_distillation)
        outputs = self.decode_slat(slat, formats)
        outputs = self.postprocess_slat_output(outputs, with_mesh_postprocess, with_texture_baking, use_vertex_color)
        result = {**result, **outputs, **points}
        if with_layout_postprocess:
            result.update(self.refine_layout(result, image[..., 3] > 0, scene["guessed"]))
        return result
