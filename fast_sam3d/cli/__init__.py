"""The command line. A subcommand's module is imported only when it is asked for, so that --help stays quick."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.cli.arguments import Parser
from fast_sam3d.errors import ConfigError, FastSam3dError, suggest
from fast_sam3d.run.memory import is_out_of_memory

__all__ = ["main"]

# Name: (module with add_arguments(parser) and main(args) -> int, one line of help). A module that sets OVERRIDES to
# True finds the Hydra overrides among the arguments in args.overrides.
COMMANDS: dict[str, tuple[str, str]] = {
    "infer": ("fast_sam3d.cli.infer", "turn one masked object of a picture into a mesh, gaussians and a pose"),
    "scene": ("fast_sam3d.cli.scene", "turn every masked object of a picture, or of many, into a scene"),
    "config": ("fast_sam3d.cli.show_config", "print the configuration that a set of flags and overrides composes to"),
    "methods": ("fast_sam3d.cli.methods", "list the methods: paper, stage, what each needs, how to switch it on"),
    "download": ("fast_sam3d.cli.download", "fetch the gated SAM 3D Objects weights with your own login"),
    "doctor": ("fast_sam3d.cli.doctor", "say what is there to run SAM 3D Objects, and the next thing to do"),
    "count": ("fast_sam3d.cli.count", "count the operations that each exact saving takes off, at the published sizes"),
    "profile": ("fast_sam3d.cli.profile", "where the time of an object goes, off and accelerated, with a picture"),
    "bench": ("fast_sam3d.cli.bench", "methods against each other on the same objects, with tables and pictures"),
    "profile-scene": ("fast_sam3d.cli.profile_scene", "time a scene against single runs of its objects, in turns"),
    "tune": ("fast_sam3d.cli.tune", "the fastest settings within a budget of drift, searched on your own pipeline"),
    "measure-exact": (
        "fast_sam3d.cli.measure_exact",
        "time stock parts and their peak memory, off and with their exact saving",
    ),
    "examples": ("fast_sam3d.cli.examples", "render the bundled examples again"),
    "train-mini": ("fast_sam3d.cli.train_mini", "train the embedded model"),
    "evaluate-mini": ("fast_sam3d.cli.evaluate_mini", "measure the embedded model on held-out objects"),
}
PROGRAM = "fast-sam3d"
USER_ERROR, INTERRUPTED, TERMINATED, FAILED = 2, 130, 143, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0: done; 1: failed; 2: something in what was asked for, said in one sentence; 130: interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    previous = _raise_on_termination()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except FastSam3dError as error:
        print(f"{PROGRAM}: {_sentence(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print(f"\n{PROGRAM}: interrupted; {_sentence(error) or 'no unfinished file was left'}", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`). What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"{PROGRAM}: out of memory: close other programs that use the device, decode fewer formats "
            "(pipeline.formats=[gaussian]), or run on the CPU (--device cpu)",
            file=sys.stderr,
        )
        return FAILED
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview().print_help()
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        raise ConfigError(f"there is no {kind} '{name}': {suggest(name, COMMANDS)}")
    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = Parser(prog=f"{PROGRAM} {name}", description=text[0].upper() + text[1:] + ".")
    module.add_arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="say more")
    overrides = bool(getattr(module, "OVERRIDES", False))
    if overrides:
        parser.epilog = "Hydra overrides go beside the flags: ss=fast_sam3d ss.when.stride=4 pipeline.ss_steps=10"
    args = parser.parse(rest, overrides)
    if isinstance(args, int):
        return args
    with _log_to_stderr(verbose=args.verbose):
        return int(module.main(args) or 0)


def _overview() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="SAM 3D Objects with fewer network calls, and a small model to try it on."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text)
    parser.epilog = f"`{PROGRAM} COMMAND --help` explains one command."
    return parser


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
    """A program that is started with its output closed (`>&-`) has none; what is printed goes nowhere then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open to the end)


class _Terminated(BaseException):
    """SIGTERM, raised where the program was, so that unfinished files are removed on the way out."""


def _raise_on_termination() -> Any:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever called us handles signals
        return None


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())
