"""The stages of a run on the native networks, with the attributes, methods and results of the stock pipeline.

Facts from sam3d_objects/pipeline/inference_pipeline.py (`InferencePipeline`) and inference_pipeline_pointmap.py
(`InferencePipelinePointMap`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_sam3d.errors import InputError, not_finite
from fast_sam3d.model.common import DECODERS, CommonStages, picture_colours
from fast_sam3d.model.config_file import check_formats
from fast_sam3d.model.finite import is_finite
from fast_sam3d.model.inputs import check_points, merge_rgba
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.native.parts import Part
from fast_sam3d.native.plans import STAGES
from fast_sam3d.native.pose import PoseDecoder
from fast_sam3d.native.preprocess import Preprocessor, camera_points, fit_points
from fast_sam3d.native.replay import Replay
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.settings import NativeSettings

__all__ = ["NativeStages", "reduced"]

log = logging.getLogger(__name__)

_TOGETHER: Final = {"ss_generator": STAGES["ss"][1:]}
"""Parts that another one's stage may run as well."""


class NativeStages(CommonStages):
    """Networks, settings and the stages of a run; `pipeline.NativePipeline` chains them.

    Args:
        settings: of the checkpoint.
        parts: the networks by their stock names; without "depth_model" every run needs a pointmap.
        device: where the networks run.
        half: type of half precision, as published; None: float32.
        residency: loads the weights of each stage.
        depth_model: called with a picture [3, H, W] in 0..1; `pointmaps` of its result are [H, W, 3] with x to the
            right and y down, not finite where unknown, `intrinsics` [3, 3] the camera. None: there is none.
    """

    def __init__(
        self,
        settings: NativeSettings,
        parts: Mapping[str, Part],
        device: torch.device | str = "cpu",
        half: torch.dtype | None = None,
        residency: Residency | None = None,
        depth_model: Callable[[Tensor], Mapping[str, Any]] | None = None,
    ) -> None:
        self.settings, self.residency = settings, residency
        self.replay: Replay | None = None
        self.device = torch.device(device)
        self.dtype = self.shape_model_dtype = torch.float32 if half is None else half
        if settings.shape_dtype == "float32":
            self.shape_model_dtype = torch.float32
        modules = {name: part.module for name, part in parts.items() if name != "depth_model"}
        embedders = {name: module for name, module in modules.items() if name.endswith("embedder")}
        self.models = nn.ModuleDict({name: module for name, module in modules.items() if name not in embedders})
        self.condition_embedders = embedders
        for module in (self.models, *embedders.values()):
            module.eval().requires_grad_(False)
        self.set_sampling(settings.ss_sampling, settings.slat_sampling)
        self.ss_condition_input_mapping: Sequence[str] = []
        self.slat_condition_input_mapping: Sequence[str] = []
        self.slat_mean = torch.tensor(settings.slat_mean, device=self.device)
        self.slat_std = torch.tensor(settings.slat_std, device=self.device)
        self.solved_ahead = []
        self.decode_formats = list(settings.decode_formats)
        self.downsample_ss_dist = settings.downsample_ss_dist
        self.resolution = settings.slat_flow.resolution
        self.leaf_shapes = settings.ss_flow.leaf_shapes
        self.pose_decoder: Callable[..., dict[str, Tensor]] = PoseDecoder()
        self.depth_model = self._own_depth_model = depth_model
        self.ss_preprocessor = self.slat_preprocessor = settings.preprocessor

    def using(self, *names: str, stage: str = "") -> AbstractContextManager[None]:
        """A block that runs the networks of these names: their weights are on the device."""
        return nullcontext() if self.residency is None else self.residency.using(*names, stage=stage)

    @contextmanager
    def remembering(self, replay: Replay) -> Iterator[None]:
        """In this block, runs are of one object, whose results are kept in `replay` and taken from there."""
        self.replay, before = replay, self.replay
        try:
            yield
        finally:
            self.replay = before

    def compute(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what runs a network, with its weights on the device; or return the result that a replay knows."""

        def run() -> Any:
            with self.using(part, *_TOGETHER.get(part, ()), stage=part):
                return call(*args, **kwargs)

        if self.replay is None:
            return run()
        known = part in self.replay
        result = self.replay.result(part, run)
        if not (known and part == "ss_decoder"):
            return result
        # Methods around the decoder look at its logits.
        decoder: Any = self.models[part]
        decoder.known = result
        try:
            return call(*args, **kwargs)
        finally:
            decoder.known = None

    def merge_image_and_mask(self, image: Any, mask: Any = None) -> NDArray[np.uint8]:
        """One RGBA array from a picture and a mask; see `model.inputs.merge_rgba`.

        An alpha channel, or a uint8 mask with values above 1, keeps its values, soft borders included, as in stock.
        """
        merged = merge_rgba(image, mask)
        given: Any = mask
        if mask is None:
            given = image.convert("RGBA").getchannel("A") if hasattr(image, "getbands") else np.asarray(image)[..., 3]
        alpha = np.asarray(given).reshape(merged.shape[:2])
        if alpha.dtype == np.uint8 and alpha.max() > 1:
            merged[..., 3] = alpha
        return merged

    def compute_pointmap(self, image: NDArray[np.uint8], pointmap: Any = None) -> dict[str, Any]:
        """Pointmap of a picture.

        Args:
            image: [H, W, 4] uint8.
            pointmap: [h, w, 3] metres, PyTorch3D camera frame, NaN where unknown, of the picture's shape or resampled
                to it; None asks the depth model.

        Returns:
            pointmap [3, H, W] float32, NaN where unknown; pts_color [3, H, W] in 0..1; intrinsics, the depth model's
            camera, or None where the pointmap is given.

        Raises:
            InputError: there is no depth model, or a pointmap that cannot be used.
        """
        height, width = image.shape[:2]
        colours = picture_colours(image)
        intrinsics = None
        if pointmap is None:
            if self.depth_model is None:
                raise InputError("this checkpoint has no depth model: give a pointmap")
            with torch.no_grad(), self.precision(self.dtype):
                own = self.depth_model is self._own_depth_model  # another one's weights are not ours to load
                output = self.compute("depth_model" if own else "", self.depth_model, colours)
            points, intrinsics = camera_points(output["pointmaps"].float().cpu()), output.get("intrinsics")
        else:
            points = fit_points(check_points(pointmap, height, width), height, width)
        return {"pointmap": points.permute(2, 0, 1), "pts_color": colours, "intrinsics": intrinsics}

    def preprocess_image(
        self, image: NDArray[np.uint8], preprocessor: Preprocessor, pointmap: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Network inputs, each with a batch of 1, on the pipeline's device; see `Preprocessor`."""
        return preprocessor(image, pointmap, self.device)

    def embed_condition(self, condition_embedder: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, None, None]:
        """Context tokens [B, L, C]; the two None stand for the stock method's unused arguments."""
        return condition_embedder(*args, **kwargs), None, None

    def get_condition_input(
        self, condition_embedder: nn.Module, input_dict: dict[str, Tensor], input_mapping: Sequence[str]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        """Positional and keyword condition of a generator: inputs in the mapping by position, all others by name."""
        named = {name: value for name, value in input_dict.items() if name not in input_mapping}
        tokens, _, _ = self.embed_condition(condition_embedder, *(input_dict[name] for name in input_mapping), **named)
        return (tokens,), {}

    def postprocess_slat_output(
        self, outputs: dict[str, Any], with_mesh_postprocess: bool, with_texture_baking: bool, use_vertex_color: bool
    ) -> dict[str, Any]:
        """Add glb, gs and gs_4; see `CommonStages`. The mesh has vertex colours, whatever the options say."""
        if "mesh" in outputs and (with_mesh_postprocess or with_texture_baking):
            log.info("the native runtime neither simplifies meshes nor bakes textures: glb has vertex colours")
        return super().postprocess_slat_output(outputs, with_mesh_postprocess, with_texture_baking, use_vertex_color)

    def decode_slat(self, slat: SparseTensor, formats: Sequence[str]) -> dict[str, list]:
        """Decode the structured latent to any subset of `FORMATS`: format to one item per object.

        Raises:
            FastSam3dError: the latent or a result is not finite.
        """
        if not is_finite(slat.feats):
            raise not_finite("structured latent")
        check_formats(formats)
        if self.replay is not None:
            self.replay.reach("decoders")
        with self.using(*(DECODERS[name] for name in formats), stage="decoders"):
            decoded = super().decode_slat(slat, formats)
        for name, items in decoded.items():
            if not all(is_finite(item.vertices if name == "mesh" else item.get_xyz) for item in items):
                raise not_finite(f"decoded {name}")
        return decoded


def reduced(image: Tensor) -> Tensor:
    """A map [C, H, W] of a large picture at half or a quarter of its size, as results hold it; [C, H', W'].

    Above 1,200 pixels half, above 1,900 a quarter. Unknown (NaN) points spread to their neighbours.
    """
    side = max(image.shape[1:])
    factor = 0.25 if side > 1900 else 0.5 if side > 1200 else 1.0
    return F.interpolate(image[None], scale_factor=(factor, factor), mode="bilinear", antialias=True)[0]
