"""What a browser or a client asks for, checked: nothing of it is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import MODULES
from fast_sam3d.demo.choice import Choice
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.settings import JobSettings
from fast_sam3d.errors import ConfigError, FastSam3dError, InputError

__all__ = ["TURNTABLE", "job_settings", "marked", "together", "uploaded"]

TURNTABLE = "turntable"


def uploaded(path: Any) -> Path:
    """A file that the browser has sent. Raises InputError for any other path."""
    from gradio.utils import get_upload_folder

    found = Path(str(path)).resolve()
    if not found.is_relative_to(Path(get_upload_folder()).resolve()) or not found.is_file():
        raise InputError("the picture was not sent: choose it again")
    return found


def marked(choice: Choice, asked: dict[str, Any]) -> Choice:
    """The choice with what somebody did in the picture. Raises InputError."""
    try:
        match asked.get("kind"):
            case "click":
                return choice.click(float(asked["x"]), float(asked["y"]), bool(asked["keep"]))
            case "box":
                return choice.within([float(value) for value in asked["corners"][:4]])
            case "brush":
                points = [(float(x), float(y)) for x, y in asked["points"][:5000]]
                return choice.brush(points, float(asked["radius"]), bool(asked["keep"]))
            case "undo":
                return choice.undo()
            case "clear":
                return choice.clear()
    except FastSam3dError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError("the page sent a mark that cannot be read: load the page again") from error
    raise InputError(f"there is no mark '{asked.get('kind')}'")


def together(given: Sequence[JobInput]) -> JobInput:
    """The objects of one picture as the input of a scene."""
    first = given[0]
    masks = tuple(one.masks[0] for one in given)
    return JobInput(first.image, masks, first.name, first.pointmap)


def job_settings(
    preset: str, seed: float | None, ss: float, slat: float, formats: Sequence[str], faces: float | None,
    texture: float | None, more: str, *, compare: bool = False, scene: bool = False,
) -> JobSettings:  # fmt: skip
    """The settings of the page.

    Args:
        formats: files to write, with `TURNTABLE` among them for an animation; a scene has its own one.

    Raises:
        ConfigError: a setting that a page may not set, or no file to write.
    """
    overrides = tuple(more.split())
    for override in overrides:
        module = override.partition("=")[0].partition(".")[0]
        if module not in MODULES or "=" not in override:
            raise ConfigError(f"'{override}' cannot be set here: give settings of {', '.join(MODULES)}, as key=value")
    if TURNTABLE in formats and not scene:
        overrides += ("output.turntable=true",)
    formats = [name for name in formats if name != TURNTABLE]
    if not formats:
        raise ConfigError("no file is chosen: choose at least one under Settings")
    if seed is None:
        raise ConfigError("there is no seed: give a whole number under Settings")
    try:
        return JobSettings(
            str(preset), int(seed), int(ss), int(slat), tuple(formats), int(faces or 0) or None,
            int(texture or 0) or None, compare, overrides,
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"a setting is no number ({error}): give whole numbers") from error
