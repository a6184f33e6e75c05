"""What the commands for one object do before they load a pipeline."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.load import Checkpoint, check_ready, find_checkpoint
from fast_sam3d.cli.configuration import log_acceleration
from fast_sam3d.cli.tables import print_path
from fast_sam3d.config.compose import Config, check_methods
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import ObjectInput, load_asked
from fast_sam3d.outputs.digests import text_digest
from fast_sam3d.outputs.folder import check_target, has_results, log_replaced
from fast_sam3d.outputs.locks import run_lock
from fast_sam3d.run.export import check_exports
from fast_sam3d.run.notices import log_checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One object to reconstruct.

    Args:
        config: of the run.
        given: the object's input.
        target: the folder of its results.
        checkpoint: of the pipeline.
        identity: digests of the input, and the settings that make a difference to the results.
    """

    config: Config
    given: ObjectInput
    target: Path
    checkpoint: Checkpoint
    identity: dict[str, Any]


@contextmanager
def prepare(
    config: Config, overwrite: bool, report: str, names: Collection[str], folders: Collection[str] = (),
    suffix: str = "", more: Mapping[str, Any] | None = None,
) -> Iterator[Request | None]:  # fmt: skip
    """Reads the input, checks everything that can be checked without the pipeline, and keeps a second run out of the
    result folder for the length of the block; writes nothing but a lock beside it.

    Args:
        overwrite: existing results are replaced.
        report: name of the result that holds the identity.
        names, folders: of the results.
        suffix: of the result folder's name.
        more: further settings of the identity.

    Yields:
        None if the results are there and complete, which it prints.

    Raises:
        FastSam3dError: what is wrong with input, weights, methods or the result folder.
    """
    asked = config.input
    if asked.image_path is None:
        raise InputError("name the picture with --image_path: a folder with image.png and its masks, or a file")
    given = load_asked(asked)
    target = config.output.dir / f"{given.name}{suffix}"
    check_target(target, names, folders)
    asked_for = config.pipeline
    checkpoint = find_checkpoint(asked_for.tag, asked_for.device, asked_for.runtime, asked_for.model)
    log_checkpoint(checkpoint)
    if checkpoint.kind != "mini":
        from fast_sam3d.model.inputs import box_size, check_box

        check_box(*box_size(given.mask))
    check_methods(config)
    check_exports(config.output)
    log_acceleration(config)
    identity = _identity(config, given, checkpoint)
    identity["settings"] |= more or {}
    with run_lock(target, target.with_name(f".fast_sam3d-{text_digest(target.name)[:12]}.lock")):
        if not overwrite and has_results(target, report, identity):
            print_path(
                f"results in {target} are complete, from the same input and settings; --overwrite repeats the run"
            )
            yield None
            return
        if overwrite:
            log_replaced(target, report, identity)
        check_ready(checkpoint, asked_for.device)
        yield Request(config, given.reduced() if checkpoint.kind == "mini" else given, target, checkpoint, identity)


def _identity(config: Config, given: ObjectInput, checkpoint: Checkpoint) -> dict[str, Any]:
    from fast_sam3d.scene.inputs import digest
    from fast_sam3d.scene.worker import config_identity

    settings = config_identity(config, checkpoint)
    for name in ("smaller", "batch"):  # of scenes alone
        del settings[name]
    points = None if given.pointmap is None else digest(given.pointmap)
    return {
        "input": {"image": digest(given.image), "mask": digest(given.mask), "pointmap": points},
        "settings": settings,
    }
