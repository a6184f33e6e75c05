"""The command line. A subcommand's module is imported when it is called, so that --help stays quick."""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

from fast_sam3d import __version__
from fast_sam3d.cli.arguments import Parser
from fast_sam3d.errors import ConfigError, FastSam3dError, Terminated, is_out_of_memory, suggest
from fast_sam3d.run.memory import DoesNotFit, remedies

__all__ = ["main"]


class Command(NamedTuple):
    """A subcommand.

    Args:
        module: defines add_arguments(parser) and main(args) -> int. If it names examples of Hydra overrides in
            OVERRIDES it accepts them beside the flags, and finds them in args.overrides.
        text: one line of help.
    """

    module: str
    text: str


GROUPS: dict[str, dict[str, Command]] = {
    "run": {
        "infer": Command("fast_sam3d.cli.infer", "reconstruct one masked object: mesh, gaussians and pose"),
        "scene": Command("fast_sam3d.cli.scene", "reconstruct every masked object of one or many pictures as a scene"),
        "compare": Command("fast_sam3d.cli.compare", "run one object with and without acceleration, side by side"),
        "demo": Command("fast_sam3d.cli.demo", "a page in the browser: select an object, reconstruct it, look at it"),
        "view": Command("fast_sam3d.cli.view", "show a result in the browser: mesh, gaussians, pose"),
        "config": Command("fast_sam3d.cli.show_config", "print the configuration that flags and overrides compose"),
        "methods": Command("fast_sam3d.cli.methods", "list presets and methods: paper, stage, what each needs"),
    },
    "measure": {
        "profile": Command("fast_sam3d.cli.profile", "seconds per stage of one object, off and accelerated"),
        "profile-scene": Command("fast_sam3d.cli.profile_scene", "time a scene against single runs of its objects"),
        "bench": Command("fast_sam3d.cli.bench", "compare methods on the same objects: tables and pictures"),
        "tune": Command("fast_sam3d.cli.tune", "measure on your pipeline at which steps the networks have to run"),
        "count": Command("fast_sam3d.cli.count", "operations that each exact saving removes, at the published sizes"),
        "measure-exact": Command("fast_sam3d.cli.measure_exact", "time and peak memory of parts with an exact saving"),
        "compare-runtimes": Command("fast_sam3d.cli.compare_runtimes", "stock and native runtime, stage by stage"),
        "measure-native": Command("fast_sam3d.cli.measure_native", "time native parts next to the stock ones"),
        "measure-gpu": Command("fast_sam3d.cli.measure_gpu", "time and memory at full size on a GPU, without weights"),
    },
    "weights": {
        "doctor": Command("fast_sam3d.cli.doctor", "check whether SAM 3D Objects can run here, and what is missing"),
        "download": Command("fast_sam3d.cli.download", "download the gated SAM 3D Objects weights with your login"),
    },
    "embedded model": {
        "evaluate-mini": Command("fast_sam3d.cli.evaluate_mini", "measure the embedded model on held-out objects"),
        "train-mini": Command("fast_sam3d.cli.train_mini", "train the embedded model"),
        "examples": Command("fast_sam3d.cli.examples", "render the bundled examples again"),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
PROGRAM = "fast-sam3d"
USER_ERROR, INTERRUPTED, TERMINATED, FAILED = 2, 130, 143, 1
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of the standard output in particular; places of results have messages of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0: success; 1: failure; 2: an error in the request, printed in one sentence; 130: interrupted; 143: terminated.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    previous = _raise_on_termination()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except DoesNotFit as error:
        print(f"{PROGRAM}: {_sentence(error)}: {remedies()}", file=sys.stderr)
        return FAILED
    except FastSam3dError as error:
        print(f"{PROGRAM}: {_sentence(error)}", file=sys.stderr)
        return USER_ERROR
    except (KeyboardInterrupt, Terminated) as error:
        how, code = ("terminated", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
        print(f"\n{PROGRAM}: {how}; {_sentence(error) or 'no unfinished file was left'}", file=sys.stderr)
        return code
    except BrokenPipeError:
        # The reader of the output has gone (`| head`).
        _drop_output()
        return FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            _drop_output()
            with contextlib.suppress(OSError):
                print(f"{PROGRAM}: the output cannot be written ({error.strerror}): free some space", file=sys.stderr)
            return FAILED
        if not is_out_of_memory(error):
            raise
        print(f"{PROGRAM}: out of memory: {remedies()}", file=sys.stderr)
        return FAILED
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        raise ConfigError(f"there is no {kind} '{name}': {suggest(name, COMMANDS)}")
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    parser = Parser(prog=f"{PROGRAM} {name}", description=command.text[0].upper() + command.text[1:] + ".")
    module.add_arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="log details")
    overrides = getattr(module, "OVERRIDES", ())
    if overrides:
        parser.epilog = f"Hydra overrides go beside the flags: {' '.join(overrides)}"
    args = parser.parse(rest, bool(overrides))
    if isinstance(args, int):
        return args
    with _log_to_stderr(verbose=args.verbose):
        return int(module.main(args) or 0)


def _overview() -> str:
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "SAM 3D Objects with training-free acceleration, and an embedded model.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<16} {command.text}" for name, command in commands.items())]
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` explains one command; `{PROGRAM} --version` prints it."])


@contextlib.contextmanager
def _log_to_stderr(verbose: bool) -> Iterator[None]:
    """Shows the package's log lines while a command runs; a program that calls `main` keeps its own logging."""
    logger = logging.getLogger("fast_sam3d")
    level = logger.level
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _open_closed_streams() -> None:
    """Sends output nowhere if the program was started with it closed (`>&-`)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open to the end)


def _drop_output() -> None:
    """Sends the rest of the standard output nowhere, so that what is left in its buffer does not fail again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _raise_on_termination() -> Any:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller handles signals
        return None


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())
