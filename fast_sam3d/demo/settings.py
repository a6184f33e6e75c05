"""The settings of a job, as a configuration and as the command line that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import FILES, PRESET, Config, load
from fast_sam3d.demo.inputs import JobInput

__all__ = ["FACES", "TEXTURE", "JobSettings", "command_line", "configuration"]

TEXTURE, FACES = 1024, 20000
FORMATS = ("mesh", "gaussian")
SAVED_AXES = "pytorch3d"
"""Of the pointmaps that `JobInput.save` writes."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What a user chooses in the page.

    Args:
        preset: of the acceleration, "off" for none.
        seed: of the noise.
        ss_steps, slat_steps: of the two samplers; None: the configuration's.
        formats: files to write, as `--formats` takes them.
        faces: at most this many in the mesh; None: all. No effect without a mesh.
        texture: pixels along its edge; None: vertex colours. No effect without a mesh.
        compare: run the baseline too, and measure the difference. Not for scenes.
        overrides: further ones, such as "ss.when.stride=4".
    """

    preset: str = PRESET
    seed: int = 42
    ss_steps: int | None = None
    slat_steps: int | None = None
    formats: tuple[str, ...] = FORMATS
    faces: int | None = FACES
    texture: int | None = TEXTURE
    compare: bool = False
    overrides: tuple[str, ...] = ()


def _values(settings: JobSettings) -> dict[str, Any]:
    values: dict[str, Any] = {"seed": settings.seed}
    for key in ("ss_steps", "slat_steps"):
        if (steps := getattr(settings, key)) is not None:
            values[f"pipeline.{key}"] = steps
    values["output.formats"] = list(settings.formats)
    if any(FILES.get(kind) == "mesh" for kind in settings.formats):
        values |= {"output.faces": settings.faces, "output.texture": settings.texture}
    return values


def configuration(
    settings: JobSettings, image_path: Path, values: Mapping[str, Any] = {}, overrides: Sequence[str] = ()
) -> Config:
    """The configuration of a job.

    Args:
        values, overrides: of the engine; those of the job take precedence.

    Raises:
        ConfigError: a setting that is unknown or out of range.
    """
    picks = [f"preset={settings.preset}", *overrides, *settings.overrides]
    return load(picks, {**values, **_values(settings), "input.image_path": image_path})


def command_line(
    settings: JobSettings,
    given: JobInput,
    image_path: Path,
    mask_index: int | None = None,
    values: Mapping[str, Any] = {},
    overrides: Sequence[str] = (),
) -> str:
    """The command that repeats a job. Arguments as for `configuration`."""
    words = ["fast-sam3d", "infer" if mask_index is not None else "scene", "--image_path", str(image_path)]
    if mask_index is not None:
        words += ["--mask_index", str(mask_index)]
    words += ["--preset", settings.preset]
    every = {**values, **_values(settings)}
    if given.pointmap is not None and given.source is None:
        every["input.pointmap_axes"] = SAVED_AXES
    for key, value in every.items():
        if (flag := FLAGS.get(key)) is not None:
            if value is not None:
                words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
        elif value is not None:
            words.append(f"{key}={value}")
    return shlex.join([*words, *overrides, *settings.overrides])


FLAGS = {
    "seed": "--seed",
    "input.pointmap_axes": "--pointmap_axes",
    "pipeline.tag": "--tag",
    "pipeline.device": "--device",
    "pipeline.dtype": "--dtype",
    "pipeline.runtime": "--runtime",
    "pipeline.memory": "--memory",
    "output.formats": "--formats",
    "output.faces": "--faces",
    "output.texture": "--texture",
}
"""The flag of a configuration key, where it has one."""
