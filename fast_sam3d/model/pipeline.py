"""The embedded pipeline: one picture with a mask to a mesh, gaussians and a pose.

Attributes, methods and result keys are those of the stock `InferencePipelinePointMap`, so that one adapter serves both.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError, FastSam3dError
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.model.batch import BatchedStructure, SolvedStructure, sample_structures
from fast_sam3d.model.depth import SilhouetteDepth
from fast_sam3d.model.flow import FlowMatching
from fast_sam3d.model.inputs import limit_size, match_size, merge_rgba
from fast_sam3d.model.layout_refinement import Solid, refine_pose
from fast_sam3d.model.networks import build_networks, weight_parts
from fast_sam3d.model.outputs import add_outputs
from fast_sam3d.model.pipeline_config import CONFIG_NAME, REPAIR, PipelineConfig, check_formats
from fast_sam3d.model.pose_decoder import PoseDecoder
from fast_sam3d.model.preprocess import CropPreprocessor, infer_focal
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.ss_vae import tokens_to_grid
from fast_sam3d.model.voxels import surface_voxels
from fast_sam3d.model.weights import HASHES_NAME, load_hashes, load_weights, save_hashes, save_weights
from fast_sam3d.model.window import Window

log = logging.getLogger(__name__)

CONDITION_INPUTS = ("image", "mask", "pointmap", "descriptor")
"""What the condition embedders take from the preprocessed inputs, in order."""


class MiniPipeline:
    """Picture, mask and optional pointmap to a 3D object.

    Not for use by several threads at once: as in the stock pipeline, a run sets its samplers' settings on the samplers.

    Args:
        config: sizes and settings.
        device: where the networks run.
        dtype: float32, or a half type in which autocast runs the networks.
    """

    layout_post_optimization_method = None

    def __init__(
        self, config: PipelineConfig, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.dtype = self.shape_model_dtype = dtype or torch.float32
        # The caller's random numbers must not depend on how many weights are initialised here.
        with torch.random.fork_rng(devices=[]):
            self.models, self.condition_embedders = build_networks(config)
        for network in (self.models, *self.condition_embedders.values()):
            network.eval().requires_grad_(False).to(self.device)
        self.ss_inference_steps, self.slat_inference_steps = _settings(config, "inference_steps")
        self.ss_cfg_strength, self.slat_cfg_strength = _settings(config, "cfg_strength")
        self.ss_cfg_interval, self.slat_cfg_interval = map(list, _settings(config, "cfg_interval"))
        self.ss_rescale_t, self.slat_rescale_t = _settings(config, "rescale_t")
        for stage in ("ss", "slat"):
            generator = self.generator(stage)
            generator.inference_steps = getattr(self, f"{stage}_inference_steps")
            generator.rescale_t = getattr(self, f"{stage}_rescale_t")
            generator.guidance.strength = getattr(self, f"{stage}_cfg_strength")
            generator.guidance.interval = getattr(self, f"{stage}_cfg_interval")
        self.ss_condition_input_mapping = self.slat_condition_input_mapping = CONDITION_INPUTS
        self.slat_mean = torch.tensor(config.slat_mean, device=self.device)
        self.slat_std = torch.tensor(config.slat_std, device=self.device)
        self.solved_ahead: list[SolvedStructure] = []
        self.decode_formats = list(config.decode_formats)
        self.downsample_ss_dist = config.downsample_ss_dist
        self.pose_decoder: Callable[..., dict[str, Tensor]] = PoseDecoder(config.layout_mean, config.layout_std)
        self.depth_model: Callable[..., dict[str, Tensor]] = SilhouetteDepth()
        self.ss_preprocessor = CropPreprocessor(config.ss_embedder.image_size)
        self.slat_preprocessor = CropPreprocessor((config.slat_embedder or config.ss_embedder).image_size)

    def generator(self, stage: str) -> FlowMatching:
        """The sampler of "ss" or "slat"."""
        generator = self.models[f"{stage}_generator"]
        if not isinstance(generator, FlowMatching):
            raise TypeError(f"{stage}_generator is a {type(generator).__name__}, not a FlowMatching")
        return generator

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> MiniPipeline:
        """Pipeline from a folder with `pipeline.yaml` and one `.safetensors` file per network.

        If `sha256.json` is there too, the weights must have the checksums that it lists.

        Raises:
            CheckpointError: a file is missing, damaged or of another network; it names the file and what to do.
        """
        config, hashes = PipelineConfig.load(folder), load_hashes(Path(folder))
        try:
            pipeline = cls(config, device, dtype)
        except (ArithmeticError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{Path(folder) / CONFIG_NAME} is not usable ({reason}): {REPAIR}") from error
        for name, module in weight_parts(pipeline.models, pipeline.condition_embedders).items():
            file = f"{name}.safetensors"
            if hashes and file not in hashes:
                raise CheckpointError(f"{Path(folder) / HASHES_NAME} does not list {file}: {REPAIR}")
            load_weights(module, Path(folder) / file, hashes.get(file))
        return pipeline

    def save_pretrained(self, folder: Path | str) -> None:
        """Write what `from_pretrained` reads; weights as float16."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        hashes = {}
        for name, module in weight_parts(self.models, self.condition_embedders).items():
            file = f"{name}.safetensors"
            hashes[file] = save_weights(module, folder / file)
        save_hashes(folder, hashes)
        self.config.save(folder)

    def merge_image_and_mask(self, image: Any, mask: Any = None) -> np.ndarray:
        """[H, W, 4] uint8 with the mask as alpha; see `inputs.merge_rgba`."""
        return merge_rgba(image, mask)

    def _guesses(self, pointmap: Any) -> bool:
        """Whether the silhouette is all that points would come from."""
        return pointmap is None and isinstance(self.depth_model, SilhouetteDepth)

    def compute_pointmap(self, image: np.ndarray, pointmap: Any = None) -> dict[str, Any]:
        """Points of every pixel.

        Args:
            image: [H, W, 4] uint8.
            pointmap: [H, W, 3] metres, PyTorch3D camera frame; None asks the depth model.

        Returns:
            pointmap [3, H, W] (NaN where unknown) and pts_color [3, H, W] in 0..1; intrinsics [3, 3] in units of width
            and height, None if they cannot be told; guessed, whether the silhouette is all that the points come from.
        """
        height, width = image.shape[:2]
        colours = _colours(image)
        guessed = self._guesses(pointmap)
        if pointmap is None:
            pointmap = self.depth_model(colours, torch.from_numpy(image[..., 3]) / 255)["pointmaps"]
        points = match_size(pointmap, height, width)
        focal = infer_focal(points) * max(height, width)
        intrinsics = None
        if focal:
            intrinsics = torch.tensor([[focal / width, 0, 0.5], [0, focal / height, 0.5], [0, 0, 1]])
        return {
            "pointmap": points.permute(2, 0, 1),
            "pts_color": colours,
            "intrinsics": intrinsics,
            "guessed": guessed,
        }

    def preprocess_image(
        self, image: np.ndarray, preprocessor: CropPreprocessor, pointmap: Tensor | None = None, guessed: bool = False
    ) -> dict[str, Tensor]:
        """Network inputs, each with a batch of 1, on the pipeline's device.

        Args:
            image: [H, W, 4] uint8.
            pointmap: [3, H, W]; None asks the depth model.
            guessed: see `compute_pointmap`.

        Returns:
            The `CONDITION_INPUTS`, pointmap_scale [1] and pointmap_shift [1, 3].
        """
        if pointmap is None:
            estimate = self.compute_pointmap(image)
            pointmap, guessed = estimate["pointmap"], estimate["guessed"]
        crop = preprocessor(image[..., :3], image[..., 3] > 0, pointmap.permute(1, 2, 0), guessed)
        item = {
            "image": crop.image,
            "mask": crop.mask,
            "pointmap": crop.pointmap,
            "descriptor": crop.descriptor,
            "pointmap_scale": crop.scene_scale,
            "pointmap_shift": crop.scene_shift,
        }
        return {name: value[None].to(self.device) for name, value in item.items()}

    def embed_condition(self, condition_embedder: nn.Module, *args: Tensor) -> tuple[Tensor, None, None]:
        """Context tokens [B, L, C], and nothing left of the arguments (the stock method's way to say so)."""
        return condition_embedder(*args), None, None

    def get_condition_input(
        self, condition_embedder: nn.Module, input_dict: dict[str, Tensor], input_mapping: Sequence[str]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        """Positional and keyword condition of a generator."""
        tokens, _, _ = self.embed_condition(condition_embedder, *(input_dict[name] for name in input_mapping))
        return (tokens,), {}

    @contextlib.contextmanager
    def sampling(self, generator: FlowMatching, steps: int | None, strength: float) -> Iterator[None]:
        """Set a sampler up for one run, as the stock pipeline does; its step count comes back even if the run fails."""
        previous = generator.inference_steps
        if steps is not None and steps < 1:
            raise ValueError(f"inference steps must be at least 1, got {steps}")
        generator.inference_steps = steps or previous
        generator.guidance.strength = strength
        # Not a disabled autocast: some devices have none at all.
        half = self.dtype != torch.float32
        precision = torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext()
        try:
            with torch.no_grad(), precision:
                yield
        finally:
            generator.inference_steps = previous

    def sample_sparse_structure(
        self, ss_input_dict: dict[str, Tensor], inference_steps: int | None = None, use_distillation: bool = False
    ) -> dict[str, Any]:
        """Sample the latents of shape and layout, and decode the shape to voxels.

        Args:
            ss_input_dict: see `preprocess_image`.
            inference_steps: None takes the sampler's own.
            use_distillation: no guidance, and the network is told its step size. The embedded weights are not
                distilled, so few steps lose quality all the same.

        Returns:
            The latent leaves, coords_original and coords [N, 4] int32 (batch, x, y, z), downsample_factor.

        Raises:
            FastSam3dError: no voxel came out.
        """
        generator = self.generator("ss")
        generator.no_shortcut = not use_distillation
        with self.sampling(generator, inference_steps, 0.0 if use_distillation else self.ss_cfg_strength):
            batch = ss_input_dict["image"].shape[0]
            shapes = {name: (batch, *shape) for name, shape in self.config.ss_flow.leaf_shapes.items()}
            args, kwargs = self.get_condition_input(
                self.condition_embedders["ss_condition_embedder"], ss_input_dict, self.ss_condition_input_mapping
            )
            ahead = (each.latents_for(generator, *args) for each in self.solved_ahead)
            solved = next((latents for latents in ahead if latents is not None), None)
            result: dict[str, Any] = dict(solved or generator(shapes, self.device, *args, **kwargs))
            logits = self.models["ss_decoder"](tokens_to_grid(result["shape"]))
        coords = torch.argwhere(logits[:, 0] > 0).int()
        if not len(coords):
            raise FastSam3dError("the model found no object in this picture: try another seed, mask or pointmap")
        result["coords_original"] = coords
        if self.downsample_ss_dist > 0:
            coords = surface_voxels(coords, self.config.ss_decoder.resolution, self.downsample_ss_dist)
        # Never coarsened: the stock pipeline halves grids above 42,000 voxels, more than this one's 32^3 can hold.
        return {**result, "coords": coords, "downsample_factor": 1}

    def sample_structures(
        self, objects: Sequence[tuple[Any, Any, Any]], seed: int, inference_steps: int | None = None
    ) -> list[BatchedStructure]:
        """Sample the sparse structures of several objects in one batch; see `batch.sample_structures`.

        Put into `solved_ahead`, they replace the solves of these objects' runs.
        """
        return sample_structures(self, objects, seed, inference_steps)

    def sample_slat(
        self,
        slat_input: dict[str, Tensor],
        coords: Tensor,
        inference_steps: int | None = None,
        use_distillation: bool = False,
    ) -> SparseTensor:
        """Sample the structured latent of some voxels.

        Args:
            slat_input: see `preprocess_image`.
            coords: [N, 4] int32 (batch, x, y, z).
            inference_steps: None takes the sampler's own.
            use_distillation: no guidance.

        Returns:
            N voxels with latent channels, in the scale that the decoders take.
        """
        generator = self.generator("slat")
        with self.sampling(generator, inference_steps, 0.0 if use_distillation else self.slat_cfg_strength):
            args, kwargs = self.get_condition_input(
                self.condition_embedders["slat_condition_embedder"], slat_input, self.slat_condition_input_mapping
            )
            shape = (slat_input["image"].shape[0], len(coords), self.config.slat_flow.latent_channels)
            feats = generator(shape, self.device, *args, coords.cpu().numpy(), **kwargs)[0]
        return SparseTensor(feats.float() * self.slat_std + self.slat_mean, coords.to(self.device))

    @torch.no_grad()
    def decode_slat(self, slat: SparseTensor, formats: Sequence[str]) -> dict[str, list]:
        """Decode the structured latent; formats is any subset of `FORMATS`, also the empty one."""
        check_formats(formats)
        names = {"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs", "gaussian_4": "slat_decoder_gs_4"}
        for name in formats:
            if names[name] not in self.models:
                raise ValueError(f"this checkpoint has no decoder for {name!r}")
        return {name: self.models[names[name]](slat) for name in names if name in formats}

    def postprocess_slat_output(
        self, outputs: dict[str, Any], with_mesh_postprocess: bool, with_texture_baking: bool, use_vertex_color: bool
    ) -> dict[str, Any]:
        """Add glb (a trimesh.Trimesh, +y up as the stock one, or None), gs and gs_4.

        The three options exist for the stock signature: vertices keep their colours whatever they say.
        """
        return add_outputs(outputs)

    def refine_layout(self, result: Mapping[str, Any], mask: NDArray[np.bool_], guessed: bool) -> dict[str, Any]:
        """Bring a decoded object's pose into line with its mask and pointmap; see `layout_refinement`.

        The stock pipeline's step of this kind is `run_post_optimization`.

        Args:
            result: of the run so far.
            mask: [H, W], the object's visible pixels. guessed: see `compute_pointmap`.

        Returns:
            layout_refinement, JSON-ready facts; rotation, translation and scale, if the refined pose covers the mask
            better.
        """
        solid = Solid.of(result, self.config.ss_decoder.resolution)
        outcome = refine_pose(solid, Pose.of(result), mask, result["pointmap"].cpu().numpy(), not guessed)
        refined: dict[str, Any] = {"layout_refinement": outcome.facts}
        if outcome.pose is not None:
            for name in ("rotation", "translation", "scale"):
                refined[name] = torch.from_numpy(getattr(outcome.pose, name)[None]).to(result[name])
        return refined

    def see(self, image: Any, mask: Any, pointmap: Any) -> tuple[np.ndarray, Window | None, dict[str, Any], np.ndarray]:
        """The picture [H, W, 4], the window of it that is looked at, the points there, and the picture there."""
        image = limit_size(self.merge_image_and_mask(image, mask))
        # Only a guess can be made in a window; a pointmap that is given has its own camera.
        window = Window.around(image[..., 3] > 0) if self._guesses(pointmap) else None
        seen = image if window is None else window.see(image)
        return image, window, self.compute_pointmap(seen, pointmap), seen

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
            seed: of the initial noise; None goes on with torch's default generator.
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
            with_layout_postprocess layout_refinement, what came of it.

        Raises:
            InputError: a picture, mask or pointmap that cannot be used.
            ValueError: an unknown format, a step count below 1, or estimate_plane, which the embedded model lacks.
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
            scene["pts_color"] = _colours(image)
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


def _colours(image: np.ndarray) -> Tensor:
    """[3, H, W] float32 in 0..1 of a picture [H, W, 4] uint8."""
    return torch.from_numpy(image[..., :3]).permute(2, 0, 1).float() / 255


def _settings(config: PipelineConfig, name: str) -> tuple[Any, Any]:
    """One setting of the two samplers."""
    return getattr(config.ss_sampling, name), getattr(config.slat_sampling, name)
