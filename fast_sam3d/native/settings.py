"""Settings of the native runtime: what the yaml files of a checkpoint say, and the published values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config import PUBLISHED_SS, SSFlowConfig
from fast_sam3d.model.config_file import CONFIG_NAME, FORMATS, SamplingConfig
from fast_sam3d.model.slat_config import PUBLISHED_SLAT, SLatFlowConfig
from fast_sam3d.native import embedder, yaml_networks
from fast_sam3d.native.embedder import EmbedderSettings
from fast_sam3d.native.gaussian_decoder import GaussianDecoderConfig
from fast_sam3d.native.mesh_decoder import MeshDecoderConfig
from fast_sam3d.native.moge import PUBLISHED_DEPTH
from fast_sam3d.native.names import NETWORKS
from fast_sam3d.native.preprocess import Preprocessor
from fast_sam3d.native.structure_decoder import StructureDecoderConfig
from fast_sam3d.native.yaml_node import YamlNode, read_yaml
from fast_sam3d.native.yaml_pictures import read_preprocessor

__all__ = ["FILES", "PUBLISHED", "NativeSettings"]

FILES: Final = tuple(dict.fromkeys(file for file, _ in NETWORKS.values()))
"""Networks with a yaml file and a weights file of their own; those of the generators also hold an embedder."""

_DTYPES: Final = ("float16", "bfloat16", "float32")
_GAUSSIANS_4: Final = "slat_decoder_gs_4"


@dataclass(frozen=True)
class NativeSettings:
    """Everything but the weights. The defaults are the published values.

    Args:
        ss_flow, slat_flow, ss_embedder, slat_embedder, ss_decoder, slat_decoder_mesh, slat_decoder_gs,
            slat_decoder_gs_4: the networks. slat_decoder_gs_4 None: there is no such decoder.
        ss_sampling, slat_sampling: settings of the two samplers.
        slat_mean, slat_std: per channel; the structured latent is the network's times std plus mean.
        preprocessor: of pictures, masks and points.
        half_torsos: networks of `FILES` with a torso in half precision, instead of running under autocast.
        dtype, shape_dtype: precision of the pipeline, and of the sparse structure's sampler; "float16", "bfloat16" or
            "float32".
        decode_formats: decoded by default.
        downsample_ss_dist: voxels whose neighbours within this distance are all active are dropped; 0 keeps all.
        depth_model: MoGe weights, a file or a name on the hub; None: a pointmap has to be given.
        weights: path of the weights of each network of `FILES`, relative to the checkpoint's folder.
    """

    ss_flow: SSFlowConfig = PUBLISHED_SS
    slat_flow: SLatFlowConfig = PUBLISHED_SLAT
    ss_embedder: EmbedderSettings = embedder.PUBLISHED_SS
    slat_embedder: EmbedderSettings = embedder.PUBLISHED_SLAT
    ss_decoder: StructureDecoderConfig = field(default_factory=StructureDecoderConfig)
    slat_decoder_mesh: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)
    slat_decoder_gs: GaussianDecoderConfig = field(default_factory=GaussianDecoderConfig)
    slat_decoder_gs_4: GaussianDecoderConfig | None = field(
        default_factory=lambda: GaussianDecoderConfig(num_gaussians=4)
    )
    ss_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    slat_sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(cfg_strength=1.0, rescale_t=1.0))
    slat_mean: tuple[float, ...] = (
        0.12211431, 0.37204156, -1.26521907, -2.05276058, -3.10432536, -0.11294304, -0.85146744, 0.45506954,
    )  # fmt: skip
    slat_std: tuple[float, ...] = (
        2.37326008, 2.13174402, 2.2413953, 2.30589401, 2.1191894, 1.8969511, 2.41684989, 2.08374642,
    )  # fmt: skip
    preprocessor: Preprocessor = field(default_factory=Preprocessor)
    half_torsos: frozenset[str] = frozenset({"slat_generator", "slat_decoder_mesh", "slat_decoder_gs", _GAUSSIANS_4})
    dtype: str = "float16"
    shape_dtype: str = "float16"
    decode_formats: tuple[str, ...] = ("gaussian", "mesh")
    downsample_ss_dist: int = 1
    depth_model: str | None = PUBLISHED_DEPTH
    weights: Mapping[str, str] = field(default_factory=lambda: {name: f"{name}.ckpt" for name in FILES})

    @classmethod
    def read(cls, folder: Path) -> NativeSettings:
        """Read the yaml files of a checkpoint folder.

        pipeline.yaml takes precedence over what the files of the networks say about sampling.

        Raises:
            CheckpointError: a file is missing or unreadable, or the first value or key that is not implemented: names
                the file, the key, its value, and the values that are.
        """
        node = YamlNode(folder / CONFIG_NAME, read_yaml(folder / CONFIG_NAME))
        node.target("sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap")
        node.ignore(
            "compile_model", "device", "layout_post_optimization_method", "pad_size", "rendering_engine",
            "ss_cfg_strength_pm", "ss_encoder_ckpt_path", "ss_encoder_config_path", "version", "workspace_dir",
        )  # fmt: skip
        for key in ("ss_condition_input_mapping", "slat_condition_input_mapping"):
            node.only(key, [], default=["image"])
        node.only("pose_decoder_name", "ScaleShiftInvariant", default="default")
        node.only("clip_pointmap_beyond_scale", None, default=None)
        present = [name for name in FILES if name != _GAUSSIANS_4 or node.take(f"{name}_config_path", None)]
        if _GAUSSIANS_4 not in present:
            node.ignore(f"{_GAUSSIANS_4}_ckpt_path")
        yamls = {name: folder / node.text(f"{name}_config_path") for name in present}
        weights = {name: node.text(f"{name}_ckpt_path") for name in present}
        dtype = str(node.only("dtype", *_DTYPES, default="bfloat16"))
        shape_dtype = node.only("shape_model_dtype", None, *_DTYPES, default=None)
        ss_sampling, slat_sampling = _sampling(node, "ss", 3.0, 7.0), _sampling(node, "slat", 3.0, 5.0)
        mean, std = node.numbers("slat_mean"), node.numbers("slat_std")
        preprocessor, depth_model = read_preprocessor(node), _depth_model(node)
        formats, distance = node.take("decode_formats", ["gaussian", "mesh"]), node.whole("downsample_ss_dist", 0, 0)
        if not isinstance(formats, list) or not set(map(str, formats)) <= set(FORMATS):
            raise node.refusal("decode_formats", formats, f"a list of {', '.join(FORMATS)}")
        node.close()

        ss_flow, ss_embedder = yaml_networks.read_ss_generator(yamls["ss_generator"])
        slat_flow, slat_half, slat_embedder = yaml_networks.read_slat_generator(yamls["slat_generator"])
        ss_decoder = yaml_networks.read_ss_decoder(yamls["ss_decoder"])
        mesh, mesh_half = yaml_networks.read_mesh_decoder(yamls["slat_decoder_mesh"])
        names = [name for name in present if name.startswith("slat_decoder_gs")]
        gaussians = {name: yaml_networks.read_gaussian_decoder(yamls[name]) for name in names}
        half = {"slat_generator": slat_half, "slat_decoder_mesh": mesh_half}
        half |= {name: found[1] for name, found in gaussians.items()}
        settings = cls(
            ss_flow, slat_flow, ss_embedder, slat_embedder, ss_decoder, mesh, gaussians["slat_decoder_gs"][0],
            gaussians[_GAUSSIANS_4][0] if _GAUSSIANS_4 in gaussians else None, ss_sampling, slat_sampling, mean, std,
            preprocessor, frozenset(name for name, on in half.items() if on), dtype, str(shape_dtype or dtype),
            tuple(map(str, formats)), distance, depth_model, weights,
        )  # fmt: skip
        settings._check(folder)
        return settings

    def _check(self, folder: Path) -> None:
        """Raises CheckpointError where the networks do not fit each other."""
        channels = self.slat_flow.latent_channels
        decoders = (self.slat_decoder_mesh, self.slat_decoder_gs, self.slat_decoder_gs_4)
        faults = {
            "slat_mean and slat_std differ in length from the structured latent's channels": not (
                len(self.slat_mean) == len(self.slat_std) == channels
            ),
            "slat_std has values that are not above 0": not all(value > 0 for value in self.slat_std),
            "the sparse structure's sampler and its decoder have different latents": (
                self.ss_flow.latent_channels != self.ss_decoder.latent_channels
            ),
            "the structured latent's sampler and its decoders have different latents or grids": any(
                (one.latent_channels, one.resolution) != (channels, self.slat_flow.resolution)
                for one in decoders
                if one is not None
            ),
        }
        for fault, found in faults.items():
            if found:
                raise CheckpointError(
                    f"the yaml files in {folder} do not belong together ({fault}): download them again"
                )


PUBLISHED: Final = NativeSettings()
"""The published values."""


def _sampling(node: YamlNode, stage: Literal["ss", "slat"], rescale: float, strength: float) -> SamplingConfig:
    """Settings of a sampler; the defaults are those of the stock constructor."""
    interval = node.numbers(f"{stage}_cfg_interval", (0.0, 500.0))
    if len(interval) != 2:
        raise node.refusal(f"{stage}_cfg_interval", list(interval), "a pair of times, such as [0, 500]")
    try:
        return SamplingConfig(
            node.whole(f"{stage}_inference_steps", 25), node.number(f"{stage}_cfg_strength", strength),
            (interval[0], interval[1]), node.number(f"{stage}_rescale_t", rescale),
        )  # fmt: skip
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{node.path} has unusable settings of {stage}_*: {error}") from error


def _depth_model(node: YamlNode) -> str | None:
    """What MoGe's `from_pretrained` is given."""
    if node.take("depth_model", None) is None:
        return None
    outer = node.child("depth_model")
    outer.target("sam3d_objects.pipeline.depth_models.moge.MoGe")
    outer.ignore("device")
    inner = outer.child("model")
    inner.target("moge.model.v1.MoGeModel.from_pretrained")
    name = inner.text("pretrained_model_name_or_path")
    for part in (inner, outer):
        part.close()
    return name
