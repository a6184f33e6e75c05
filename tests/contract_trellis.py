"""What every acceleration must do on TRELLIS pipelines alone: several samples and pictures, texts, other grids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore, local
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.errors import FastSam3dError
from tests.beds import STEPS, differing, tensors
from tests.contract import BOTH, EXACT, METHODS, Contract
from tests.trellis_like.beds import SAMPLERS, TrellisBed
from tests.trellis_like.pipelines import picture

VIEWS = [picture(), Image.fromarray(np.asarray(picture())[..., [1, 0, 2, 3]])]


def settings(**values: Any) -> dict[str, Any]:
    """The same settings of both samplers, as arguments of a run."""
    return {"sparse_structure_sampler_params": values, "slat_sampler_params": values}


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


def kept_arguments(call: Callable[..., Any], found: list[Any]) -> Callable[..., Any]:
    """The call, with (args, kwargs) appended to `found`."""

    def keeping(*args: Any, **kwargs: Any) -> Any:
        found.append((args, kwargs))
        return call(*args, **kwargs)

    return keeping


def in_turns(solves: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """The results of two solves, one step of each in turn: after each step a thread waits for the other's."""
    turns, results, mine, order = [Semaphore(1), Semaphore(0)], [torch.empty(0)] * 2, local(), []

    def steps(iterable: Iterable[Any], **options: Any) -> Iterator[Any]:
        for item in iterable:
            yield item
            order.append(mine.index)
            turns[1 - mine.index].release()
            assert turns[mine.index].acquire(timeout=60)

    def one(index: int) -> None:
        mine.index = index
        turns[index].acquire(timeout=60)
        results[index] = solves[index]()
        turns[1 - index].release()

    with mock.patch("tqdm.tqdm", steps), ThreadPoolExecutor(2) as pool:
        list(pool.map(one, (0, 1)))
    assert order == [0, 1] * STEPS
    return results


class TrellisContract(Contract):
    """See `Contract`."""

    bed: ClassVar[TrellisBed]

    @pytest.mark.parametrize(
        ("steps", "interval", "samples"),
        [(25, [0.5, 1.0], 1), (12, [0.0, 1.0], 2), (12, [0.5, 1.0], 2), (25, [0.0, 1.0], 1)],
    )
    def test_other_grids_intervals_and_numbers_of_samples(
        self, steps: int, interval: list[float], samples: int, pipeline: Any
    ) -> None:
        options = {**settings(steps=steps, cfg_interval=interval), "num_samples": samples}
        with self.bed.counted_calls(pipeline) as counts:
            self.bed.raw(pipeline, formats=[], **options)
        expected, adapter = dict(counts), adapt(pipeline)
        accelerated = fast_sam3d.accelerated(pipeline, METHODS["everything"])
        with accelerated as handle, self.bed.counted_calls(pipeline) as made:
            fast = self.bed.raw(pipeline, formats=list(BOTH), **options)
        for stage, solve in zip(SAMPLERS, handle.report.solves, strict=True):
            assert solve.complete and solve.steps_planned == steps
            assert (solve.calls, solve.calls + solve.saved) == (made[stage], expected[stage])
        if interval == [0.5, 1.0]:
            assert {stage: sum(adapter.network_calls(stage, steps)) for stage in expected} == expected
        assert len(fast["mesh"]) == len(fast["gaussian"]) == samples
        assert all(torch.isfinite(one.get_xyz).all() for one in fast["gaussian"])
        assert len(handle.report.aggregations) == 1

    @pytest.mark.parametrize("samples", [1, 2])
    def test_exact_savings_are_within_rounding(self, samples: int, pipeline: Any) -> None:
        plain = self.bed.raw(pipeline, num_samples=samples, formats=list(BOTH))
        with fast_sam3d.accelerated(pipeline, EXACT) as handle:
            fast = self.bed.raw(pipeline, num_samples=samples, formats=list(BOTH))
        assert handle.report.network_calls_saved == 0
        a, b = tensors(fast), tensors(plain)
        assert torch.equal(a["coords"], b["coords"])
        for name in ("shape", "slat", "gaussian.xyz", "gaussian.colour", "gaussian.opacity"):
            assert distance(a[name], b[name]) < 1e-5, name

    def test_multidiffusion_saves_calls_of_every_picture(self) -> None:
        pipeline, options = self.bed.build(), {"call": "run_multi_image", "images": VIEWS, "mode": "multidiffusion"}
        plain = tensors(self.bed.raw(pipeline, **options))
        with fast_sam3d.observe(pipeline) as report:
            assert differing(tensors(self.bed.raw(pipeline, **options)), plain) == set()
        with fast_sam3d.accelerated(pipeline, METHODS["both"]) as handle, self.bed.counted_calls(pipeline) as made:
            fast = tensors(self.bed.raw(pipeline, **options))
        assert [solve.calls for solve in report.solves] == [2 * 8 + 7, 2 * 8 + 5]
        assert {solve.stage: solve.calls for solve in handle.report.solves} == made
        assert [solve.calls + solve.saved for solve in handle.report.solves] == [2 * 8 + 7, 2 * 8 + 5]
        assert handle.report.network_calls_saved > 0 and differing(fast, plain)
        with fast_sam3d.accelerated(pipeline, EXACT):
            exact = tensors(self.bed.raw(pipeline, **options))
        assert distance(exact["slat"], plain["slat"]) < 1e-5
        assert differing(tensors(self.bed.raw(pipeline, **options)), plain) == set()

    def test_pictures_that_take_turns_keep_every_step(self, caplog: pytest.LogCaptureFixture) -> None:
        pipeline, options = self.bed.build(), {"call": "run_multi_image", "images": VIEWS, "mode": "stochastic"}
        plain = tensors(self.bed.raw(pipeline, **options))
        with caplog.at_level(logging.INFO), fast_sam3d.accelerated(pipeline, METHODS["both"]) as handle:
            assert differing(tensors(self.bed.raw(pipeline, **options)), plain) == set()
        assert handle.report.network_calls_saved == 0
        assert sum("take turns" in record.getMessage() for record in caplog.records) == 2  # once a stage

    def test_texts(self) -> None:
        """Their negative condition is not zero, so the unconditional cross-attention is no constant."""
        trimesh = pytest.importorskip("trimesh")
        pipeline = self.bed.text()
        calls = [
            {"call": "run", "prompt": "a red chair"},
            {"call": "run_variant", "mesh": trimesh.creation.box(), "prompt": "a red chair", "num_samples": 2},
        ]
        for options in calls:
            plain = tensors(self.bed.raw(pipeline, **options))
            with fast_sam3d.accelerated(pipeline, EXACT):
                exact = tensors(self.bed.raw(pipeline, **options))
            with fast_sam3d.accelerated(pipeline, METHODS["both"]) as handle:
                fast = tensors(self.bed.raw(pipeline, **options))
            assert differing(tensors(self.bed.raw(pipeline, **options)), plain) == set()
            assert distance(exact["slat"], plain["slat"]) < 1e-5
            assert handle.report.network_calls_saved > 0 and differing(fast, plain)

    def test_two_interleaved_solves(self, name: str, pipeline: Any) -> None:
        """Of different objects: noise, condition, and voxels where there are any."""
        for stage in METHODS[name].keys() & {"ss", "slat"}:
            with fast_sam3d.accelerated(pipeline, METHODS[name]), self.bed.running():
                solves = [self.solve(pipeline, stage, seed) for seed in (0, 1)]
                alone = [solve() for solve in solves]
                mixed = in_turns(solves)
            assert [torch.equal(a, b) for a, b in zip(mixed, alone, strict=True)] == [True, True]
            assert alone[0].shape != alone[1].shape or not torch.equal(*alone)

    def solve(self, pipeline: Any, stage: str, seed: int) -> Callable[[], Tensor]:
        """One solve of the object of this seed."""
        sampler, found = getattr(self.second(), SAMPLERS[stage]), []
        with mock.patch.object(sampler, "sample", kept_arguments(sampler.sample, found)):
            self.bed.raw(self.second(), seed=seed)
        ((_, noise), kwargs), network = found[0], self.bed.networks(pipeline)[stage]

        def run() -> Tensor:
            samples = getattr(pipeline, SAMPLERS[stage]).sample(network, noise, **kwargs).samples
            return getattr(samples, "feats", samples)

        return run

    @pytest.mark.parametrize("decoded", [("gaussian",), ("mesh",), ()])
    def test_only_requested_decoders_run(self, decoded: tuple[str, ...], pipeline: Any) -> None:
        ran: list[str] = []
        hooks = [
            model.register_forward_pre_hook(lambda module, args, name=name: ran.append(name))
            for name, model in pipeline.models.items()
            if name.startswith("slat_decoder")
        ]
        with fast_sam3d.accelerated(pipeline, METHODS["everything"]):
            result = self.bed.raw(pipeline, formats=list(decoded))
        for hook in hooks:
            hook.remove()
        assert ran == [{"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs"}[name] for name in decoded]
        assert result.keys() - {"shape", "slat", "coords"} == set(decoded)

    def test_another_sampler_is_refused(self, pipeline: Any) -> None:
        other, own = SimpleNamespace(sample=pipeline.slat_sampler.sample), pipeline.slat_sampler
        pipeline.slat_sampler = other
        try:
            with pytest.raises(FastSam3dError, match="slat: the sampler is SimpleNamespace"):
                fast_sam3d.accelerate(pipeline, METHODS["both"])
            assert vars(other).keys() == {"sample"} and "sample" not in vars(pipeline.sparse_structure_sampler)
        finally:
            pipeline.slat_sampler = own
