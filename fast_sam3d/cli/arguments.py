"""An argument parser that accepts Hydra overrides, shows defaults, and raises errors that name the nearest flag."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from fast_sam3d.config.compose import SEED_MAX
from fast_sam3d.config.packaged import bundled_example
from fast_sam3d.errors import ConfigError, suggest

ANY = ("ss=fast_sam3d", "ss.when.stride=4", "pipeline.ss_steps=10")
SHARED = ("pipeline.formats=[mesh]", "pipeline.layout_postprocess=false", "pipeline.depth_model=FILE")
"""Examples of overrides: of commands that take all, and of those that take what holds for every run."""
EXACT = 2**53
"""Floats hold every whole number up to here."""


def bundled(path: str) -> str:
    """The type of a flag that takes pictures: a path, or examples/NAME wherever the command runs."""
    return str(bundled_example(Path(path)))


def whole(text: str) -> int | str:
    """The type of flags for counts: 20000, 2e4 or 20_000; any other text, which the configuration refuses."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and abs(value) < EXACT else text


MOST: Final = 1_000_000
"""Of a count or another number that a flag gives."""


def at_least(
    low: int, kind: type[int] | type[float] = int, above: bool = False, most: int = MOST
) -> Callable[[str], Any]:
    """The type of a flag that takes finite numbers from `low`, or above it, to `most`."""

    def read(text: str) -> Any:
        try:
            value = whole(text) if kind is int else kind(text)
        except ValueError:
            value = math.nan
        if isinstance(value, str) or not math.isfinite(value) or value < low or (above and value == low):
            name = "a number above" if above else "a whole number of at least" if kind is int else "at least"
            raise argparse.ArgumentTypeError(f"is {text}: give {name} {low}")
        if value > most:
            raise argparse.ArgumentTypeError(f"is {text}: give at most {most}")
        return value

    return read


PROCESSES: Final = at_least(1, most=1024)
"""The type of flags for a number of processes or threads."""


def seeds(text: str) -> tuple[int, ...]:
    """The type of --seeds: numbers with commas, each once."""
    try:
        found = tuple(dict.fromkeys(map(int, text.split(","))))
    except ValueError:
        found = (-1,)
    if not all(0 <= seed <= SEED_MAX for seed in found):
        raise argparse.ArgumentTypeError(f"is {text!r}: give whole numbers from 0 to {SEED_MAX} with commas, 42,43")
    return found


def listed(text: str) -> list[str]:
    """The type of flags for lists in the configuration: names with commas; the configuration checks them."""
    return [*names(text)]


def names(text: str) -> tuple[str, ...]:
    """The type of flags that take names with commas, each once."""
    found = tuple(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))
    if not found:
        raise argparse.ArgumentTypeError(f"is {text!r}: give names with commas")
    return found


class Pixels(str):
    """Positions x,y, those of a repeated flag with spaces between."""


def pixels(text: str) -> Pixels:
    """The type of flags for positions in a picture; the configuration checks them."""
    return Pixels(text.strip())


def skipped(text: str) -> float:
    """The type of --slat_token_ratio: the share computed, 0.1 for 0.9."""
    share = float(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share of voxels to skip: give a number from 0 to below 1")
    return round(1.0 - share, 12)


class Named(argparse.Action):
    """Stores a value, and in `given` of the arguments, by setting, the flag that set it.

    Another value for the setting by another flag is an error; of one flag that is repeated, the last value counts, or
    all where they are positions.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        value = self.const if self.nargs == 0 else values
        given = vars(namespace).setdefault("given", {})
        first, before = given.setdefault(self.dest, option), getattr(namespace, self.dest)
        if first != option and before != value:
            parser.error(f"{first} and {option} set {self.dest} to {before} and to {value}: give one of them")
        if first == option and isinstance(before, Pixels):
            value = Pixels(f"{before} {value}")
        setattr(namespace, self.dest, value)


class _Help(argparse.HelpFormatter):
    """Shows the default of every flag that takes a value, unless its help says it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        known = "default" in text or action.nargs == 0 or action.default in (None, [], argparse.SUPPRESS)
        return text if known else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """argparse without abbreviated flags (`--see` is an error, not `--seed`), in which `-` and `_` are equal."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): is ", r"\1 is ", message)  # of the types above
        raise ConfigError(f"{message}; `{self.prog} --help` lists the flags")

    def parse(self, arguments: Sequence[str], overrides: bool) -> argparse.Namespace | int:
        """Parses flags, and collects key=value arguments in `overrides` of the result if the command takes them.

        Returns:
            The arguments, or the exit status after --help or --version.

        Raises:
            ConfigError: an unknown flag, or a stray argument.
        """
        try:
            args, rest = self.parse_known_args(self._joined([self._spelled(a) for a in arguments]))
        except SystemExit as stop:
            return int(stop.code or 0)
        for argument in rest:
            if argument.startswith("-"):
                name = argument.split("=", 1)[0]
                raise ConfigError(f"there is no flag {name}: {suggest(name, self._flags())}")
            if not overrides:
                raise ConfigError(f"'{argument}' is not expected here; `{self.prog} --help` lists the flags")
            if "=" not in argument and not argument.startswith("~"):
                raise ConfigError(f"'{argument}' is neither a flag nor an override: write --flag value, or key=value")
        if overrides:
            args.overrides = rest
        return args

    def _flags(self) -> list[str]:
        return [f for f in self._option_string_actions if f.startswith("--")]

    def _joined(self, arguments: Sequence[str]) -> list[str]:
        """Writes `--click -3,5` as `--click=-3,5`: argparse takes -3,5 for a flag, and no flag begins with a digit."""
        found: list[str] = []
        for argument in arguments:
            action = self._option_string_actions.get(found[-1]) if found else None
            if re.match(r"-[\d.]", argument) and action is not None and action.nargs is None:
                found[-1] += f"={argument}"
            else:
                found.append(argument)
        return found

    def _spelled(self, argument: str) -> str:
        """Writes --image-path as --image_path (or the other way) where only that one exists."""
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name in self._option_string_actions:
            return argument
        for spelling in (name[2:].replace("-", "_"), name[2:].replace("_", "-")):
            if f"--{spelling}" in self._option_string_actions:
                return f"--{spelling}{equals}{value}"
        return argument
