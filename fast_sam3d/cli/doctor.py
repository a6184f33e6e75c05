"""`fast-sam3d doctor`: whether SAM 3D Objects can run here, what to paste if not, and the state of every part."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from fast_sam3d.checkpoints.doctor import EMBEDDED_RUNS, Examination, Gpu, WeightsState, examine
from fast_sam3d.checkpoints.packages import PackageState
from fast_sam3d.checkpoints.requirements import PYTHON
from fast_sam3d.checkpoints.trellis_doctor import TrellisState, examine_trellis
from fast_sam3d.config.settings import MODELS

NOT_READY = 1
STOCK_ASKS_FOR = 32e9  # bytes of GPU memory, doc/setup.md of the stock repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tag",
        metavar="TAG",
        help="the weights to check: mini, the name of a folder under checkpoints/, or a path (default: all for SAM 3D "
        "Objects under checkpoints/)",
    )
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="whose packages and weights to check")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.epilog = (
        "The first line is the answer; lines to paste follow if something is missing. Weights can be used where either "
        "runtime can: stock, which needs its packages and an NVIDIA GPU, or native, which needs neither. The exit "
        "status is 0 when the weights can be used here, and 1 otherwise."
    )


def main(args: argparse.Namespace) -> int:
    if args.model == "trellis":
        return _trellis(args)
    found = examine(args.tag)
    step = found.next_step
    if args.json:
        import json

        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(*_answer(found), "", *_lines(found), sep="\n")
    return 0 if step is None else NOT_READY


def _trellis(args: argparse.Namespace) -> int:
    found = examine_trellis(args.tag)
    if args.json:
        import json

        print(json.dumps(found.to_dict(), indent=2))
    else:
        print("ready" if found.problem is None else f"not ready: {found.problem}", "", sep="\n")
        print(*_trellis_lines(found), sep="\n")
    return 0 if found.problem is None else NOT_READY


def _trellis_lines(found: TrellisState) -> Iterator[str]:
    yield _line(found.fault is None, "weights", found.fault or found.weights)
    for what, packages in found.packages.items():
        yield from ("", f"packages of TRELLIS, for {what}")
        yield from map(_package, packages)


def _answer(found: Examination) -> Iterator[str]:
    ready = "ready" if found.runtime == "stock" else "ready, with the native runtime"
    yield ready if found.next_step is None else f"not ready: {found.next_step}"
    if found.install:
        yield from ("", "to install what is missing, in the versions of SAM 3D Objects, paste:", "")
        yield from (f"  {line}" for line in found.install)


def _lines(found: Examination) -> Iterator[str]:
    yield _line(True, "fast_sam3d", found.fast_sam3d)
    stock = ".".join(map(str, PYTHON))
    note = "" if found.python.startswith(stock + ".") else f"; SAM 3D Objects uses {stock}"
    yield _line(True, "Python", f"{found.python}, {found.system}{note}")
    yield _package(found.torch, "built for " + (f"CUDA {found.cuda}" if found.cuda else "the CPU"))
    for gpu in found.gpus or found.driver:
        yield _gpu(gpu, seen=bool(found.gpus))
    if not (found.gpus or found.driver):
        yield _line(False, "GPU", "none")
    if found.memory is not None:
        yield _line(found.memory_fits, "native runtime", found.memory)
    yield from ("", "weights")
    for weights in {state.tag: state for state in (found.embedded, *found.weights)}.values():
        yield _weights(weights)
    if not found.weights:
        yield _line(False, "hf", "no SAM 3D Objects weights in checkpoints/hf (--tag PATH checks another folder)")
    for fetched in found.first_load:
        if found.runtime == "native" and fetched.name == "DINOv2":  # it is in the weights
            continue
        when = "run without a pointmap" if found.runtime == "native" else "load"
        late = f"the first {when} fetches {' and '.join(fetched.missing)} into {fetched.place}: it needs a network"
        yield _line(None if fetched.missing else True, fetched.name, late if fetched.missing else fetched.place)
    yield from ("", "runtime of SAM 3D Objects (pipeline.runtime=auto)")
    stock_problem = found.stock_problem and found.stock_problem.removesuffix(f"; {EMBEDDED_RUNS}")
    yield _line(stock_problem is None, "stock", stock_problem or "will be used")
    needs = "needs no further packages" + ("" if found.runtime == "stock" else "; will be used")
    yield _line(found.native_problem is None, "native", found.native_problem or needs)
    problem = examine_trellis().problem
    yield from ("", "TRELLIS (doctor --model trellis)")
    yield _line(None if problem else True, "trellis", problem or "can be used")
    yield from ("", "attention of the stock runtime")
    yield _line(True, "available", ", ".join(found.attention.available) or "none")
    yield _line(True, "chosen", f"{found.attention.dense}, for sparse tensors {found.attention.sparse}")
    for name, value in found.attention.environment.items():
        yield _line(True, name, value)
    yield from ("", "packages of the stock runtime")
    for package in found.packages:
        yield _package(package)


def _gpu(gpu: Gpu, seen: bool) -> str:
    free = "" if gpu.free is None else f", {_gib(gpu.free)} free"
    note = "; the stock code asks for 32 GB" if gpu.total < STOCK_ASKS_FOR else ""
    note += "" if seen else "; torch does not see it"
    note += "" if gpu.supported else "; this torch has no code for it"
    text = f"{gpu.name}, {_gib(gpu.total)}{free}, compute capability {gpu.capability}{note}"
    return _line(seen and gpu.supported, "GPU", text)


def _package(state: PackageState, more: str = "") -> str:
    if state.problem is not None:
        return _line(None if state.optional else False, state.module, f"{state.problem}: {state.how}")
    parts = (state.version or "version unknown", more, state.note)
    return _line(True, state.module, ", ".join(part for part in parts if part))


def _weights(state: WeightsState) -> str:
    if state.problem is not None:
        return _line(False, state.tag, state.problem)
    if state.kind == "synthetic":
        return _line(True, state.tag, "random weights at the published sizes, for the native runtime")
    kind = "the embedded model" if state.kind == "mini" else "SAM 3D Objects"
    return _line(True, state.tag, f"{kind}, {state.folder}")


def _line(good: bool | None, name: str, text: str) -> str:
    """One line; `good`: there, missing, or (None) missing and not needed."""
    mark = {True: "ok", False: "--", None: "  "}[good]
    return f"  {mark}  {name:<20} {text}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
