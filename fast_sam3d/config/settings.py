"""The settings of a run, frozen; `fast_sam3d.config.compose` reads and checks them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = ("mesh", "gaussian", "gaussian_4")
"""What a pipeline decodes."""
FILES: Mapping[str, str] = {
    **{name: name for name in FORMATS},
    **dict.fromkeys(("obj", "stl"), "mesh"),
    **dict.fromkeys(("spz", "sog", "glb-splat"), "gaussian"),
}
"""The kinds of result files, and which of `FORMATS` each is written from."""
ALIASES: Mapping[str, str] = {"glb": "mesh", "ply": "gaussian"}
"""Further names of kinds of files."""
GATES = ("none", "skipgs")
"""Of a bake by optimisation: every backward pass, or those that the gate of SkipGS lets through."""
DTYPES = ("float32", "float16", "bfloat16")
MODELS = ("sam3d", "trellis")
"""Which model runs: SAM 3D Objects (or the embedded model, which has its interface), or TRELLIS."""
RUNTIMES = ("auto", "stock", "native")
"""Whose classes run SAM 3D Objects; see `fast_sam3d.checkpoints.runtime`."""
POINTMAP_AXES = ("auto", "pytorch3d", "opencv", "opengl")
"""Frames of a pointmap, see `fast_sam3d.inputs.axes`; auto recognises them."""
MEMORY = ("auto", "8GB", "12GB", "16GB", "24GB", "all")
"""Memory plans of the native runtime, see `fast_sam3d.native.plans`."""
# The groups that hold an acceleration module each, and the option that switching it on alone means.
ACCELERATED: Mapping[str, str] = {"ss": "fast_sam3d", "slat": "fast_sam3d", "mesh": "fast_sam3d", "exact": "all"}
MODULES = tuple(ACCELERATED)
PRESET = "default"
"""The preset that "accelerate" means."""
SEED_MAX = 2**32 - 1  # what numpy's and torch's generators both take


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What goes in. Paths are not checked here (fast_sam3d.inputs.load does).

    Args:
        mask_path: a mask, or a file with the masks of several objects.
        pointmap: "auto", "none" or a file.
        pointmap_axes: of `POINTMAP_AXES`.
        mask_label: number or name of an object in `mask_path`.
        clicks, background: (x, y) in pixels of the upright picture, on the object and beside it; they select the mask.
        box: (left, top, right, bottom) in pixels around the object; selects the mask, alone or with clicks.
        rembg: cut the object out with the package rembg where there is no mask.
        mask_threshold: least share of the full range that is of the object, in (0, 1].
    """

    image_path: Path | None = None
    mask_index: int | None = None
    mask_path: Path | None = None
    pointmap: str = "auto"
    pointmap_axes: str = POINTMAP_AXES[0]
    mask_label: str | None = None
    mask_threshold: float | None = None
    clicks: tuple[tuple[float, float], ...] = ()
    background: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None
    rembg: bool = False

    @property
    def marked(self) -> bool:
        """Whether the mask is selected by clicks or a box."""
        return bool(self.clicks or self.background or self.box)


@dataclass(frozen=True, slots=True)
class BakeConfig:
    """A texture that is optimised against views of the gaussians.

    Args:
        gate: of `GATES`; None: the texture is transferred, not optimised.
    """

    gate: str | None = None


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Which files are written, and where.

    Args:
        preview: a picture to look at is rendered, too.
        turntable: an animation of each object is rendered, too.
        formats: of `FILES`; None: a file for each of `PipelineConfig.formats`, which otherwise follow from these.
        faces: of the mesh at most; None: all, or those of `run.export.TEXTURED_FACES` with a texture.
        texture: side of the mesh's texture in pixels; None: colours of vertices.
        bake: how the texture gets its colours.
    """

    dir: Path
    preview: bool
    formats: tuple[str, ...] | None = None
    faces: int | None = None
    texture: int | None = None
    bake: BakeConfig = BakeConfig()
    turntable: bool = False

    def files(self, decoded: Collection[str]) -> tuple[tuple[str, str], ...]:
        """The kinds of files of a run, each with what it is written from, of `decoded`.

        Those that were asked for; where the memory did not suffice for what they need, splats are written from four
        gaussians per voxel, and what was decoded in place of a mesh as its own kind.

        Args:
            decoded: of `FORMATS`.
        """
        found = []
        for kind in decoded if self.formats is None else self.formats:
            sources = (FILES[kind], "gaussian_4") if FILES[kind] == "gaussian" else (FILES[kind],)
            found += [(kind, source) for source in sources if source in decoded][:1]
        used = {source for _, source in found}
        if self.formats is not None and self.bake.gate is not None:
            used.add("gaussian")  # decoded for the texture alone
        return (*found, *((name, name) for name in decoded if name not in used))


class Loading(NamedTuple):
    """How a checkpoint is loaded: the arguments of `fast_sam3d.checkpoints.load.load_checkpoint`, in their order."""

    device: str | None = None
    dtype: str | None = None
    depth_model: str | None = None
    memory: str = MEMORY[0]
    half_cache: bool = False


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Which pipeline runs, and how.

    Args:
        runtime: of `RUNTIMES`; "auto" takes stock where its packages and an NVIDIA GPU are there, else native.
        memory: the memory plan, of `MEMORY`; pipelines other than the native one have none.
        half_cache: the native runtime reads weights in half precision from a copy, which it writes once.
        ss_steps, slat_steps: Euler steps.
        formats: a non-empty subset of FORMATS, to decode.
        layout_postprocess: refine the pose against mask and pointmap once the object is decoded.
        model: of `MODELS`; see `fast_sam3d.config.models` for what fits which.
    """

    tag: str | None
    device: str | None
    dtype: str | None
    depth_model: str | None
    runtime: str
    memory: str
    half_cache: bool
    ss_steps: int
    slat_steps: int
    formats: tuple[str, ...]
    layout_postprocess: bool
    model: str = MODELS[0]

    @property
    def loading(self) -> Loading:
        """How the checkpoint is loaded."""
        return Loading(self.device, self.dtype, self.depth_model, self.memory, self.half_cache)


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """Of a folder of masks.

    Args:
        smaller: sets of formats to decode instead where the memory does not suffice.
        turntable: write one.
        batch: objects whose sparse structures are sampled together, >= 1.
    """

    smaller: tuple[tuple[str, ...], ...] = (("gaussian",), ("gaussian_4",))
    turntable: bool = True
    batch: int = 8


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one run.

    Args:
        modules: one mapping per acceleration module ("ss", "slat", "mesh", "exact"), as in its YAML file; empty: off.
        choices: the option picked in each group, such as {"pipeline": "auto", "ss": "fast_sam3d"}.
        use_calibrated: presets take the schedule that `fast-sam3d tune` measured on the model, where there is one.
        quality: least voxel IoU to the baseline, by which one of its schedules is chosen; None: the preset's own.
    """

    seed: int
    input: InputConfig
    output: OutputConfig
    pipeline: PipelineConfig
    scene: SceneConfig = field(default_factory=SceneConfig)
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    use_calibrated: bool = True
    quality: float | None = None
