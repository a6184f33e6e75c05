"""One unit of a benchmark: every method on one object with one seed, each run timed, compared and put into a row."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fast_sam3d.bench.collect import run_done
from fast_sam3d.bench.objects import BenchObject, Objects
from fast_sam3d.bench.record import Rows
from fast_sam3d.bench.runs import Given, VariantRun, run, run_variants
from fast_sam3d.bench.samplers import OWN, Sampler
from fast_sam3d.bench.suite import OFF, OTHER_SEED, SEED_STEP
from fast_sam3d.bench.variant import Variant
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.config.compose import SEED_MAX, Loading
from fast_sam3d.metrics import Protocol, Reconstruction, quality_and_fidelity
from fast_sam3d.run.object import RunSettings

log = logging.getLogger(__name__)

WARM_UP_STEPS = 4
PLACES = (
    "pointmap",
    "preprocess",
    "condition",
    "ss",
    "ss_decoder",
    "slat",
    "mesh",
    "gaussian",
    "postprocess",
    "layout",
    "other",
)
"""Stages with seconds in a row; they add up to the run without installing and removing the acceleration."""


@dataclass(frozen=True)
class BenchTask:
    """What a worker process needs.

    Args:
        checkpoint: of the pipeline. loading: how it is loaded.
        variants: "off" and "other seed", then the methods.
        objects: their source.
        settings: of every run but for its seed and steps.
        counted: objects and seeds with which operations are counted too, by one further run of each variant.
        protocol: of the comparisons.
        samplers: under each of them every variant runs, the baseline too.
    """

    checkpoint: Checkpoint
    variants: tuple[Variant, ...]
    objects: Objects
    loading: Loading = Loading()
    settings: RunSettings = RunSettings(formats=("mesh", "gaussian"))
    counted: frozenset[tuple[str, int]] = frozenset()
    protocol: Protocol = field(default_factory=Protocol)
    samplers: tuple[Sampler, ...] = (OWN,)


def key_of(name: str, seed: int, sampler: Sampler = OWN) -> str:
    """Key of the unit with this object, seed and sampler; rows of a key do not depend on the other samplers."""
    return f"{name} seed {seed} sampler {sampler.label}"


def keys_of(names: Sequence[str], seeds: Sequence[int], samplers: Sequence[Sampler] = (OWN,)) -> list[str]:
    """Every object with its seeds and samplers, so that an interrupted benchmark has complete objects."""
    return [key_of(name, seed, sampler) for name in names for seed in seeds for sampler in samplers]


_pipeline: Any = None
_job: BenchTask
_warm = False


def start(job: BenchTask, threads: int) -> None:
    """Load the pipeline of this process."""
    global _pipeline, _job, _warm  # one pipeline per worker process
    from fast_sam3d.checkpoints.load import load_checkpoint

    torch.set_num_threads(threads)
    _pipeline = load_checkpoint(job.checkpoint, *job.loading)
    _job, _warm = job, False


def work(key: str) -> Rows:
    """The rows of one unit, in the order of the variants. A failed run gives a marked row."""
    global _warm
    rest, _, label = key.rpartition(" sampler ")
    name, _, seed = rest.rpartition(" seed ")
    sampler = next(sampler for sampler in _job.samplers if sampler.label == label)
    try:
        thing = _job.objects.load(name)
    except Exception as problem:
        said = " ".join(str(problem).split())
        log.warning("object %s cannot be loaded: %s", name, said)
        error = f"{type(problem).__name__}: {said}"
        return [failed_row(name, int(seed), sampler, variant, error) for variant in _job.variants]
    if not _warm:
        warm_up(_pipeline, thing.given, _job.variants, _job.settings)
        _warm = True
    return measure(_pipeline, thing, int(seed), _job, (name, int(seed)) in _job.counted, sampler)


def measure(
    pipeline: Any, thing: BenchObject, seed: int, job: BenchTask, count: bool = False, sampler: Sampler = OWN
) -> Rows:
    """Run every variant once, in a random order that depends on the object and the seed, and compare the results.

    Args:
        count: the operations too.
        sampler: of all variants, the baseline's too.
    """
    with sampler.on(pipeline):
        return list(_rows(pipeline, thing, seed, job, count, sampler))


def _rows(
    pipeline: Any, thing: BenchObject, seed: int, job: BenchTask, count: bool, sampler: Sampler
) -> Iterable[dict[str, Any]]:
    variants = seeded(job.variants, seed)
    outcomes = run_variants(
        pipeline, thing.given, variants, job.settings, order_of(thing.name, seed, len(variants)), catch=(Exception,),
        memory=True, name=thing.name, keep=lambda result: Reconstruction.of(result).on_host(), done=run_done,
    )  # fmt: skip
    plain = next(outcome for outcome in outcomes if outcome.variant.name == OFF)
    for outcome in outcomes:
        row: dict[str, Any] = {
            **_head(thing.name, seed, sampler, outcome.variant),
            "error": outcome.error,
            "pose_refined": outcome.pose_refined,
        }
        spent = {**outcome.columns(PLACES), "network_calls_saved": float(outcome.report.network_calls_saved)}
        spent["cpu_seconds"] = outcome.cpu_seconds
        # The cost of a run up to its failure is meaningless.
        row |= {"place": outcome.place, **(dict.fromkeys(spent, math.nan) if outcome.error else spent)}
        row["peak_bytes"] = math.nan if outcome.peak_bytes is None else float(outcome.peak_bytes)
        row["operations"] = (
            operations(pipeline, thing.given, outcome.variant, job.settings)
            if count and not outcome.error
            else math.nan
        )
        yield row | _scores(outcome, plain, thing, job.protocol)


def _scores(outcome: VariantRun, plain: VariantRun, thing: BenchObject, protocol: Protocol) -> dict[str, float]:
    found = _reconstruction(outcome)
    other = None if outcome is plain or plain.error else _reconstruction(plain)
    return quality_and_fidelity(found, thing.truth, other, protocol)


def _reconstruction(outcome: VariantRun) -> Reconstruction:
    return Reconstruction(failed=True) if outcome.result is None else outcome.result


def seeded(variants: Sequence[Variant], seed: int) -> list[Variant]:
    """The variants with this seed, and with another one for the noise floor."""
    other = (seed + SEED_STEP) % (SEED_MAX + 1)
    return [replace(variant, seed=other if variant.name == OTHER_SEED else seed) for variant in variants]


def order_of(name: str, seed: int, count: int) -> list[int]:
    """A shuffled order that depends on the object and the seed alone, so that a resumed benchmark draws it again."""
    random = np.random.default_rng([zlib.crc32(name.encode()), seed])
    return [int(number) for number in random.permutation(count)]


def warm_up(pipeline: Any, given: Given, variants: Sequence[Variant], settings: RunSettings) -> None:
    """Run each variant once with few steps, to import libraries, choose kernels and fill caches."""
    for variant in variants:
        try:
            run(pipeline, given, replace(variant, steps=WARM_UP_STEPS, slat_steps=WARM_UP_STEPS, seed=0), settings)
        except Exception as problem:  # reported when it is measured
            log.debug("warm-up of %s: %s", variant.name, problem)


def operations(pipeline: Any, given: Given, variant: Variant, settings: RunSettings) -> float:
    """Operations of a run as torch counts them, 2 per multiply-add; NaN where they cannot be counted."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with FlopCounterMode(display=False) as counter:
            run(pipeline, given, variant, settings)
    except Exception as problem:
        log.warning("the operations of %s cannot be counted: %s", variant.name, problem)
        return math.nan
    return float(counter.get_total_flops())


def failed_row(name: str, seed: int, sampler: Sampler, variant: Variant, error: str) -> dict[str, Any]:
    """The row of a run that could not begin."""
    return {**_head(name, seed, sampler, variant), "error": error}


def _head(name: str, seed: int, sampler: Sampler, variant: Variant) -> dict[str, Any]:
    return {"object": name, "seed": seed, "sampler": sampler.name, "method": variant.name}
