"""Settings of the whole pipeline, and their YAML file."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from fast_sam3d.documents import read_yaml
from fast_sam3d.errors import CheckpointError, suggest
from fast_sam3d.model.config import (
    LARGEST,
    LARGEST_REAL,
    LAYOUT_CHANNELS,
    EmbedderConfig,
    SSDecoderConfig,
    SSFlowConfig,
    most,
)
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig, SLatFlowConfig
from fast_sam3d.outputs.files import atomic_write

FORMATS: Final = ("mesh", "gaussian", "gaussian_4")
"""What the structured latent can be decoded to."""

CONFIG_NAME: Final = "pipeline.yaml"

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class SamplingConfig:
    """One sampler's settings.

    Args:
        inference_steps: steps of the time grid.
        cfg_strength: guidance strength; 0 for none.
        cfg_interval: network times (0..1000) between which guidance is applied, both included.
        rescale_t: see `flow.time_grid`.
    """

    inference_steps: int = 25
    cfg_strength: float = 7.0
    cfg_interval: tuple[float, float] = (0.0, 500.0)
    rescale_t: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.inference_steps <= most("inference_steps"):
            limit = most("inference_steps")
            raise ValueError(f"inference_steps must be a number from 1 to {limit}, got {self.inference_steps}")
        if not self.cfg_strength >= 0:  # also refuses NaN
            raise ValueError(f"cfg_strength must be 0 or more, got {self.cfg_strength}")
        if not 0 <= self.cfg_interval[0] <= self.cfg_interval[1] <= 1000:
            raise ValueError(f"cfg_interval must lie in 0..1000, got {self.cfg_interval}")
        if not self.rescale_t > 0:
            raise ValueError(f"rescale_t must be positive, got {self.rescale_t}")


def _layout(value: float) -> dict[str, tuple[float, ...]]:
    return {name: (value,) * channels for name, channels in LAYOUT_CHANNELS.items()}


@dataclass(frozen=True)
class ModelConfig:
    """Everything but the weights.

    Args:
        ss_embedder, ss_flow, ss_decoder, slat_embedder, slat_flow, slat_decoder_mesh, slat_decoder_gs,
            slat_decoder_gs_4: sizes of the networks. slat_embedder None: both stages share one embedder.
            slat_decoder_gs_4 None: no such decoder.
        ss_sampling, slat_sampling: settings of the two samplers.
        layout_mean, layout_std: per leaf and channel; the network's layout leaves are (pose - mean) / std.
        slat_mean, slat_std: per channel; the network's structured latent is (latent - mean) / std.
        decode_formats: decoded by default, a subset of `FORMATS`.
        downsample_ss_dist: voxels whose neighbours within this distance are all active are dropped; 0 keeps all.
    """

    ss_embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    ss_flow: SSFlowConfig = field(default_factory=SSFlowConfig)
    ss_decoder: SSDecoderConfig = field(default_factory=SSDecoderConfig)
    slat_embedder: EmbedderConfig | None = field(default_factory=EmbedderConfig)
    slat_flow: SLatFlowConfig = field(default_factory=SLatFlowConfig)
    slat_decoder_mesh: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)
    slat_decoder_gs: GaussianDecoderConfig = field(default_factory=GaussianDecoderConfig)
    slat_decoder_gs_4: GaussianDecoderConfig | None = field(default_factory=GaussianDecoderConfig)
    ss_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    slat_sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(cfg_strength=1.0, rescale_t=1.0))
    layout_mean: dict[str, tuple[float, ...]] = field(default_factory=lambda: _layout(0.0))
    layout_std: dict[str, tuple[float, ...]] = field(default_factory=lambda: _layout(1.0))
    slat_mean: tuple[float, ...] = (0.0,) * 8
    slat_std: tuple[float, ...] = (1.0,) * 8
    decode_formats: tuple[str, ...] = ("mesh", "gaussian")
    downsample_ss_dist: int = 0

    def __post_init__(self) -> None:
        check_formats(self.decode_formats)
        if "gaussian_4" in self.decode_formats and self.slat_decoder_gs_4 is None:
            raise ValueError("decode_formats contains gaussian_4, but there is no slat_decoder_gs_4")
        if not 0 <= self.downsample_ss_dist <= most("downsample_ss_dist"):
            limit = most("downsample_ss_dist")
            raise ValueError(f"downsample_ss_dist must be 0 or more, at most {limit}, got {self.downsample_ss_dist}")
        for stage in ("ss", "slat"):
            embedder = getattr(self, f"{stage}_embedder") or self.ss_embedder
            if getattr(self, f"{stage}_flow").cond_channels != embedder.model_channels:
                raise ValueError(f"{stage}_flow.cond_channels must be the embedder's width {embedder.model_channels}")
        decoder, flow = self.ss_decoder, self.ss_flow
        if (flow.resolution, flow.latent_channels) != (
            decoder.resolution // decoder.patch_size,
            decoder.latent_channels,
        ):
            raise ValueError("ss_flow and ss_decoder disagree on the latent grid")
        for name in ("slat_flow", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4"):
            part = getattr(self, name)
            if part is None:
                continue
            if part.resolution != decoder.resolution:
                raise ValueError(f"{name}.resolution must be {decoder.resolution}, got {part.resolution}")
            if part.latent_channels != len(self.slat_mean):
                raise ValueError(f"{name}.latent_channels must be {len(self.slat_mean)}, got {part.latent_channels}")
        if len(self.slat_mean) != len(self.slat_std):
            raise ValueError("slat_mean and slat_std differ in length")
        for name in ("layout_mean", "layout_std"):
            sizes = {leaf: len(values) for leaf, values in getattr(self, name).items()}
            if sizes != dict(LAYOUT_CHANNELS):
                raise ValueError(f"{name} must have the leaves and lengths {dict(LAYOUT_CHANNELS)}, got {sizes}")
        if not all(s > 0 for values in (self.slat_std, *self.layout_std.values()) for s in values):
            raise ValueError("slat_std and layout_std must be positive")

    def save(self, folder: Path | str) -> Path:
        """Write `pipeline.yaml` into a folder."""
        import yaml

        path = Path(folder) / CONFIG_NAME
        text = yaml.safe_dump(to_mapping(self), sort_keys=False, default_flow_style=None, width=120)
        with atomic_write(path) as file:
            file.write(text.encode("utf-8"))
        return path

    @classmethod
    def load(cls, folder: Path | str) -> ModelConfig:
        """Read `pipeline.yaml` from a folder. Every setting is required: a default may differ from the one in training.

        Raises:
            CheckpointError: missing, unreadable, incomplete, or with invalid values.
        """
        path = Path(folder) / CONFIG_NAME
        content = read_yaml(path, error=CheckpointError, advice=REPAIR)
        try:
            return from_mapping(cls, content, complete=True)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is not usable ({' '.join(str(error).split())}): {REPAIR}") from error


REPAIR: Final = (
    "reinstall fast-sam3d for the embedded weights (in a clone of its repository: `git checkout -- checkpoints/mini`),"
    " or train new ones with `fast-sam3d train-mini`"
)
"""Advice for a checkpoint folder that cannot be used."""


def check_formats(formats: typing.Iterable[str]) -> None:
    """Raise ValueError unless `formats` is a sequence of names that are all in `FORMATS`."""
    if isinstance(formats, str):
        raise ValueError(f"decode formats are the string {formats!r}: give a list, such as ['mesh']")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown decode format {name!r}, {suggest(str(name), FORMATS)}")


def to_mapping(value: Any) -> Any:
    """Settings as plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value) if _in_file(f)}
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(item) for item in value]
    return value


def from_mapping(cls: type[Settings], mapping: Any, complete: bool = False, path: str = "") -> Settings:
    """Settings dataclass from the result of `to_mapping`.

    Args:
        cls: the dataclass.
        mapping: setting to value.
        complete: refuse missing keys instead of using their defaults.
        path: dotted name of these settings within larger ones, for messages.

    Raises:
        ValueError: not a mapping, an unknown or a missing key, or a value of the wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{path or cls.__name__} is {_shown(mapping)}: it needs a mapping of settings")
    prefix = f"{path}." if path else ""
    types_of = typing.get_type_hints(cls)
    hints = {f.name: types_of[f.name] for f in dataclasses.fields(typing.cast(Any, cls)) if _in_file(f)}
    for key in mapping:
        if key not in hints:
            raise ValueError(f"{cls.__name__} has no setting {prefix + str(key)!r}, {suggest(str(key), hints)}")
    missing = [name for name in hints if complete and name not in mapping]
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing")
    return cls(**{key: _convert(hints[key], value, prefix + key, complete) for key, value in mapping.items()})


def _in_file(setting: dataclasses.Field[Any]) -> bool:
    """Whether a setting is in the file: one that all embedded models share is not."""
    return bool(setting.metadata.get("in_file", True))


def _convert(hint: Any, value: Any, path: str, complete: bool) -> Any:
    """Convert `value` to the type `hint`. Raises ValueError if it has another one."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, complete, path)
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} is {_shown(value)}: it needs a mapping")
        return {key: _convert(kinds[1], item, f"{path}.{key}", complete) for key, item in value.items()}
    if typing.get_origin(hint) is tuple:
        length = None if kinds[-1] is Ellipsis else len(kinds)
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            raise ValueError(f"{path} is {_shown(value)}: it needs a list" + (f" of {length}" if length else ""))
        return tuple(_convert(kinds[0], item, f"{path}[{i}]", complete) for i, item in enumerate(value))
    return _scalar(hint, value, path)


def _scalar(kind: type, value: Any, path: str) -> Any:
    truth = isinstance(value, bool)
    if kind is int and isinstance(value, int) and not truth:
        if abs(value) > LARGEST:
            raise ValueError(f"{path} is {_shown(value)}: no setting is larger than {LARGEST}")
        return value
    # Compared before the conversion: an integer may be too large for a float.
    if kind is float and isinstance(value, (int, float)) and not truth and abs(value) < math.inf:
        if abs(value) > LARGEST_REAL:
            raise ValueError(f"{path} is {_shown(value)}: it needs a finite number, at most {LARGEST_REAL:g}")
        return float(value)
    if (kind is bool and truth) or (kind is str and isinstance(value, str)):
        return value
    wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string"}[kind]
    raise ValueError(f"{path} is {_shown(value)}: it needs {wanted}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
