"""What every acceleration must do on SAM 3D pipelines alone: the pose, distilled runs, and what only they return."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.errors import FastSam3dError
from tests.beds import STEPS, differing
from tests.contract import CARVED, METHODS, Contract, paper, saves


class Sam3dContract(Contract):
    """See `Contract`."""

    @classmethod
    @functools.cache
    def two_objects(cls, stage: str) -> list[tuple[Any, Any]]:
        """What a stage's sampler is called with, (args, kwargs), for two seeds."""
        given: list[tuple[Any, Any]] = []
        hook = (
            cls.second()
            .models[f"{stage}_generator"]
            .register_forward_pre_hook(lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
        )
        for seed in (0, 1):
            cls.bed.run(cls.second(), seed=seed)
        hook.remove()
        return given

    def test_beta_changes_layout_and_only_layout(self, pipeline: Any) -> None:
        with fast_sam3d.accelerated(pipeline, paper(beta=0.2)):
            low = self.bed.run(pipeline)
        with fast_sam3d.accelerated(pipeline, paper(beta=0.8)):
            high = self.bed.run(pipeline)
        changed = differing(low, high)
        assert changed <= self.bed.pose
        assert changed >= {"6drotation_normalized", "rotation", "translation"}

    @pytest.mark.parametrize(("interval", "first"), [((0, 300), 5), ((0, 100), 3), (None, STEPS - 1)])
    def test_a_guided_stride_restarts_where_the_pipelines_guidance_ends(
        self, interval: tuple[int, int] | None, first: int, pipeline: Any
    ) -> None:
        """Steps of t = s / (3 - 2 s) start at 0, 0.05, 0.1, 0.17, 0.25, 0.36, 0.5 and 0.7."""
        guidance = pipeline.models["ss_generator"].reverse_fn
        when = {"name": "guided_stride", "stride": STEPS, "late": STEPS, "warmup": 1}
        with (
            mock.patch.object(guidance, "interval", interval),
            fast_sam3d.accelerated(pipeline, {"ss": {"when": when}}) as handle,
        ):
            self.bed.raw(pipeline, stage1_only=True)
        assert handle.report.solves[0].evaluated == [0, *range(first, STEPS - 1, STEPS), STEPS - 1]

    @torch.no_grad()
    def test_two_interleaved_solves(self, name: str, pipeline: Any) -> None:
        """Of different objects: noise, condition, and voxels where there are any."""
        for stage in METHODS[name].keys() & {"ss", "slat"}:
            self.interleave(stage, name, pipeline)

    def interleave(self, stage: str, used: str, pipeline: Any) -> None:
        """Two solves of a stage, one step of each in turn."""
        given, generator = self.two_objects(stage), pipeline.models[f"{stage}_generator"]

        def start(index: int) -> Iterator[Tensor]:
            """The states of one solve; the noise is drawn with the first."""
            torch.manual_seed(index)
            args, kwargs = given[index]
            states = (
                x if isinstance(x, Tensor) else x["shape"] for _, x, _ in generator.generate_iter(*args, **kwargs)
            )
            return itertools.chain([next(states)], states)

        with fast_sam3d.accelerated(pipeline, METHODS[used]) as handle:
            alone = [list(start(index)) for index in (0, 1)]
            mixed = list(zip(start(0), start(1), strict=True))  # one step of each in turn
        assert (handle.report.network_calls_saved > 0) == saves(METHODS[used][stage])
        assert len(mixed) == STEPS
        assert all(
            torch.equal(pair[index], state) for index in (0, 1) for pair, state in zip(mixed, alone[index], strict=True)
        )
        assert alone[0][-1].shape != alone[1][-1].shape or not torch.equal(alone[0][-1], alone[1][-1])

    @pytest.mark.parametrize("used", ["all", "voxels"])
    def test_stage1_only(self, used: str, pipeline: Any) -> None:
        with fast_sam3d.accelerated(pipeline, METHODS[used]) as handle:
            result = self.bed.raw(pipeline, stage1_only=True)
        assert len(result["voxel"]) == len(result["coords"]) > 0
        assert [solve.stage for solve in handle.report.solves] == ["ss"]

    @pytest.mark.parametrize("decoded", [("gaussian",), ("mesh",), ("gaussian_4", "mesh"), ()])
    @pytest.mark.parametrize("used", ["everything", "voxels"])
    def test_any_subset_of_formats(self, used: str, decoded: tuple[str, ...], pipeline: Any) -> None:
        if "gaussian_4" in decoded and "slat_decoder_gs_4" not in pipeline.models:
            pytest.skip("this pipeline has no such decoder")
        with fast_sam3d.accelerated(pipeline, METHODS[used]), self.bed.whole_grid(pipeline):
            result = self.bed.raw(pipeline, decode_formats=list(decoded))
        present = {key for key in ("mesh", "gaussian", "gaussian_4", "gs", "gs_4") if result.get(key) is not None}
        short = {"gaussian": "gs", "gaussian_4": "gs_4"}
        assert present == {*decoded, *(short[key] for key in decoded if key in short)}
        assert (result.get("glb") is not None) <= ("mesh" in decoded)

    @pytest.mark.parametrize("decoded", [("gaussian",), ()])
    def test_only_requested_decoders_run(self, decoded: tuple[str, ...], pipeline: Any) -> None:
        ran: list[str] = []
        hooks = [
            model.register_forward_pre_hook(lambda module, args, name=name: ran.append(name))
            for name, model in pipeline.models.items()
            if name.startswith("slat_decoder") and model is not None
        ]
        with fast_sam3d.accelerated(pipeline, METHODS["exact"]):
            self.bed.run(pipeline, formats=decoded)
        for hook in hooks:
            hook.remove()
        assert ran == ["slat_decoder_gs"] * len(decoded)

    def test_distilled_and_short_runs(self) -> None:
        pipeline = self.bed.build()  # its own: a distilled run leaves settings on the samplers
        options = {"use_stage1_distillation": True, "use_stage2_distillation": True, "decode_formats": []}
        with (
            fast_sam3d.accelerated(pipeline, {**METHODS["both"], **CARVED}) as handle,
            self.bed.counted_calls(pipeline) as counts,
        ):
            for steps in (1, 2, 4):
                self.bed.raw(pipeline, stage1_inference_steps=steps, stage2_inference_steps=steps, **options)
        # No guidance: one call for each step that is evaluated.
        assert [(solve.steps_planned, solve.calls, solve.saved) for solve in handle.report.solves] == [
            (1, 1, 0), (1, 1, 0), (2, 2, 0), (2, 2, 0), (4, 3, 1), (4, 3, 1)
        ]  # fmt: skip
        assert counts == {"ss": 6, "slat": 6}

    def test_compiled_stage_is_not_recompiled(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        """The stock pipeline's compile_model=True replaces `reverse_fn.inner_forward` in this way."""
        compiled: list[Any] = []

        def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
            compiled.append(graph)
            return graph.forward

        guidance = pipeline.models["ss_generator"].reverse_fn
        guidance.inner_forward = torch.compile(guidance.inner_forward, backend=count)
        try:
            with self.bed.compiling():
                assert self.unlike(pipeline, plain) == set()
                self.bed.run(pipeline)  # torch 2.5 compiles a function more in the second run
                graphs = len(compiled)
                with fast_sam3d.accelerated(pipeline, METHODS["paper"]) as handle:
                    self.bed.run(pipeline)
                    self.bed.run(pipeline, seed=1)
                assert handle.report.network_calls_saved > 0
                assert self.unlike(pipeline, plain) == set()
            assert len(compiled) == graphs > 0
        finally:
            del guidance.inner_forward

    @pytest.mark.parametrize("used", ["paper", "carved", "mesh", "voxels", "everything"])
    def test_empty_object_raises_and_the_pipeline_recovers(
        self, used: str, pipeline: Any, plain: dict[str, Tensor]
    ) -> None:
        hide = pipeline.models["ss_decoder"].register_forward_hook(lambda module, args, logits: logits - 1e6)
        with fast_sam3d.accelerated(pipeline, METHODS[used]):
            try:
                with pytest.raises(FastSam3dError, match="found no object in this picture"):
                    self.bed.run(pipeline)
            finally:
                hide.remove()
        assert self.unlike(pipeline, plain) == set()
