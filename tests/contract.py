"""Requirements on every acceleration, on every kind of pipeline. Subclass `Contract` with a bed."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import math
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.adapters.solves import record
from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.config.methods import build_methods
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.exact import Exact
from fast_sam3d.report import observe
from fast_sam3d.sampling.method import PARTS, StageMethod
from fast_sam3d.sampling.step import to_leaves
from fast_sam3d.tune.path_search import follow, search
from fast_sam3d.tune.problem import Problem
from tests.beds import STEPS, Bed, counted_calls, differing, random_state
from tests.fakes import same_vars, snapshot


def method(stage: str, stride: int, **predict: Any) -> dict[str, Any]:
    return {stage: {"when": {"name": "stride", "stride": stride}, "predict": predict}}


def paper(beta: float = 0.5, stride: int = 3) -> dict[str, Any]:
    return method("ss", stride, shape={"name": "taylor", "order": 1}, layout={"name": "anchored", "beta": beta})


def alone(saving: str) -> dict[str, Any]:
    return {"exact": {name: name == saving for name in Exact().settings()}}


def merging(where: str, factor: float = 2.0) -> dict[str, Any]:
    return {"mesh": {"where": where, "factors": [factor] * 3, "min_voxels": 0}}


def keep_nodes(settings: dict[str, Any], most: int) -> None:
    """Leave out nodes of a path, and their weights."""
    every = math.ceil(len(settings["when"]["nodes"]) / most)
    settings["when"]["nodes"] = settings["when"]["nodes"][::every]
    predict = settings["predict"]
    for part in [predict] if "name" in predict else predict.values():
        if "weights" in part:
            part["weights"] = [row[:k] for k, row in enumerate(part["weights"][::every])]


def short(settings: dict[str, Any]) -> dict[str, Any]:
    """A method's settings for runs of a few steps, early enough to save network calls."""
    settings = copy.deepcopy(settings)
    if settings.get("when", {}).get("name") == "path":  # the nodes of a few steps would be all of them
        keep_nodes(settings, most=4)
    for part, early in (
        ("when", {"warmup": 2, "threshold": 0.5, "evaluations": 5}),
        ("where", {"warmup": 1}),
        ("guide", {"warmup": 1, "interval": 2, "threshold": -1.0}),
    ):
        known = settings.get(part, {})
        known.update({key: value for key, value in early.items() if key in known})
    return settings


def of_files() -> dict[str, dict[str, Any]]:
    """Every method of configs/: one of ss and one of slat at a time, because a run takes both; those of mesh alone."""
    options = {stage: [name for name in group_options()[stage] if name != "off"] for stage in ("ss", "slat", "mesh")}
    pairs = itertools.zip_longest(options["ss"], options["slat"])
    picks = [{stage: name for stage, name in zip(("ss", "slat"), pair, strict=True) if name} for pair in pairs]
    found: dict[str, dict[str, Any]] = {}
    for pick in [*picks, *({"mesh": name} for name in options["mesh"])]:
        names = [f"{stage}={name}" for stage, name in pick.items()]
        tree = compose(names)[0]
        mesh = {**tree["mesh"], "min_voxels": 0}
        found[" ".join(names)] = {stage: mesh if stage == "mesh" else short(tree[stage]) for stage in pick}
    return found


def classes_of(config: dict[str, Any]) -> set[tuple[str, ...]]:
    """The classes that act in a configuration, as (question, name)."""
    classes: set[tuple[str, ...]] = set()
    for module, method in build_methods(config).items():
        if isinstance(method, StageMethod):
            parts = {"when": [method.when], "where": [method.where], "predict": method.predict.values()}
            parts["guide"] = [method.guide]
            classes |= {(question, part.name) for question, some in parts.items() for part in some}
        else:
            classes.add((module, str(getattr(method, "where", ""))))
    return classes


def for_some(predictor: Any) -> dict[str, Any]:
    """A predictor of one group of leaves, beside a plain one; not every pipeline of the tests has what it needs."""
    return {"shape": {"name": "hold"}, predictor.only: {"name": predictor.name, "fallback": "anchored"}}


def covering(files: dict[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Methods that together use every class: those of files, and one more for each class that no file uses."""
    chosen, seen = {}, set()
    for name, config in files.items():
        if new := classes_of(config) - seen:
            chosen[name], seen = config, seen | new
    rest = {name: config for name, config in files.items() if name not in chosen}
    for question, classes in PARTS.items():
        for name, kind in classes.items():
            if (question, name) not in seen:
                stage = "slat" if getattr(kind, "needs_tokens", False) else "ss"
                part = for_some(kind) if getattr(kind, "only", None) else {"name": name}
                chosen[f"{question}={name}"] = {stage: {"when": {"name": "stride"}, question: part}}
    return chosen, rest


CARVED: dict[str, Any] = {
    "slat": {"when": {"name": "stride"}, "where": {"name": "saliency", "keep": 0.25, "warmup": 1}}
}
EXACT: dict[str, Any] = {"exact": Exact().settings()}
METHODS: dict[str, dict[str, Any]] = {
    "paper": paper(),
    "hold": method("ss", 2, all={"name": "hold"}),
    "slat": method("slat", 3, name="taylor"),
    "both": {**paper(), **method("slat", 2, name="hold")},
    "carved": CARVED,
    "budget": {
        "slat": {
            "when": {"name": "budget", "threshold": 0.5},
            "where": {"name": "random", "keep": 0.5, "warmup": 1},
            "predict": {"name": "offset"},
        }
    },
    "voxels": merging("voxels"),
    "mesh": merging("decoder"),
    "all": {**paper(), **CARVED, **merging("decoder")},
    "exact": EXACT,
    "everything": {**paper(), **CARVED, **merging("decoder"), **EXACT},
}
"""Methods written here, for the tests that name one."""

COVERING, REST = covering(of_files())
METHODS |= COVERING | REST
FULL = ("all", "exact", "everything", *COVERING)
"""Those that pass every test of the contract; the rest of the files differ from them in numbers alone."""

ROUNDED = ("unconditional", "subdivision")
"""Savings that differ in rounding."""

LIMITS: dict[str, dict[str, Any]] = {
    "ss stride 1": paper(stride=1),
    "slat stride 1": method("slat", 1, name="taylor"),
    "always": {"ss": {"when": {"name": "always"}}, "slat": {"when": {"name": "always"}}},
    "keep 1": {"slat": {"where": {"name": "saliency", "keep": 1.0}}},
    "factor 1": merging("decoder", 1.0),
    "factor 1 of voxels": merging("voxels", 1.0),
    **{f"{saving} alone": alone(saving) for saving in Exact().settings() if saving not in ROUNDED},
    "bitwise savings": {"exact": dict.fromkeys(ROUNDED, False)},  # all the others
    "all": {**paper(stride=1), "slat": {"where": {"name": "saliency", "keep": 1.0}}, **merging("voxels", 1.0)},
}
# Guidance is on in steps 0 to 6 of the grid t = s / (3 - 2 s), and in 0 to 4 of t = s.
PLAIN_CALLS = {"ss": STEPS + 7, "slat": STEPS + 5}
LAYOUT = {"6drotation_normalized", "scale", "translation", "translation_scale", "rotation"}
BOTH = ("mesh", "gaussian")


def formats(config: dict[str, Any]) -> tuple[str, ...]:
    """Meshes are slow, so they are decoded only where no other output shows the effect."""
    shows = config.keys() == {"mesh"} and config["mesh"]["where"] == "decoder"
    return BOTH if shows or config == alone("extraction") else ("gaussian",)


def saves(settings: dict[str, Any]) -> bool:
    """Whether a stage's method saves network calls, rather than tokens of a call or nothing."""
    always, both = {"name": "always"}, {"name": "both"}
    return settings.get("when", always) != always or settings.get("guide", both) != both


def evaluated(report: fast_sam3d.Report) -> dict[str, int]:
    return {solve.stage: len(solve.evaluated) for solve in report.solves}


class Stop(Exception):
    """Thrown into a run."""


class Contract:
    """Attributes: `bed`, the kind of pipeline; `rest`, whether methods without a class of their own run as well."""

    bed: ClassVar[Bed]
    rest: ClassVar[bool] = True

    @classmethod
    @functools.cache
    def shared(cls) -> Any:
        """A pipeline shared by the tests that restore it; the fixture below checks that they do."""
        pipeline = cls.bed.build()
        cls.bed.run(pipeline)  # the first run leaves settings on the samplers
        return pipeline

    @classmethod
    @functools.cache
    def untouched(cls) -> tuple[dict[str, Tensor], Any]:
        """Result of a pipeline that was never patched, with a mesh and gaussians; the random state after that."""
        result = cls.bed.run(cls.bed.build(), formats=BOTH)
        return result, random_state()

    @classmethod
    @functools.cache
    def second(cls) -> Any:
        """Another pipeline, for the result of one method alone."""
        return cls.bed.build()

    @classmethod
    @functools.cache
    def accelerated_once(cls, name: str) -> dict[str, Tensor]:
        """Result of a method; with meshes only where `formats` has them."""
        with fast_sam3d.accelerated(cls.second(), METHODS[name]):
            return cls.bed.run(cls.second(), formats=formats(METHODS[name]))

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

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test with an argument `name` runs for each class, one with `every` for each file, too."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", FULL)
        if "every" in metafunc.fixturenames:
            metafunc.parametrize("every", (*FULL, *REST) if self.rest else FULL)

    @pytest.fixture
    def pipeline(self) -> Iterator[Any]:
        """A pipeline that must be restored: vars() and state_dict keys."""
        shared = self.shared()
        before, keys = snapshot(shared), list(shared.models.state_dict())
        yield shared
        assert same_vars(before, snapshot(shared))
        assert list(shared.models.state_dict()) == keys

    @pytest.fixture
    def plain(self) -> dict[str, Tensor]:
        """See `untouched`."""
        return self.untouched()[0]

    @staticmethod
    def differing_names(result: dict[str, Tensor], reference: dict[str, Tensor]) -> set[str]:
        """As `differing`, where the reference has more."""
        return differing(result, {name: reference[name] for name in result})

    def unlike(self, pipeline: Any, plain: dict[str, Tensor], what: tuple[str, ...] = ("gaussian",)) -> set[str]:
        """Names by which a run differs from the baseline."""
        return self.differing_names(self.bed.run(pipeline, formats=what), plain)

    @pytest.mark.parametrize("stage", ["ss", "slat"])
    def test_a_found_schedule_gives_the_result_that_it_was_found_with(self, pipeline: Any, stage: str) -> None:
        with self.bed.running():
            solve = record(pipeline, lambda: self.bed.raw(pipeline), [stage])[stage]
            problem = Problem.of([solve])
            found = search([problem], sum(problem.calls) // 2, rounds=0)
        path = found[max(found)]
        with self.bed.running():
            expected = follow([problem], path)[1].solved[0].x[0]
        ends: list[Any] = []
        generator = pipeline.models[f"{stage}_generator"]
        hook = generator.register_forward_hook(
            lambda module, args, result: ends.append(to_leaves(result, problem.leaf))  # a copy: stock adds to the dict
        )
        with fast_sam3d.accelerated(pipeline, {stage: path.method(live=False)}) as handle:
            self.bed.run(pipeline)
        hook.remove()
        made = next(solve.calls for solve in handle.report.solves if solve.stage == stage)
        assert made == path.calls
        assert ends[0].keys() == expected.keys()
        for name, leaf in ends[0].items():
            torch.testing.assert_close(leaf.float(), expected[name], rtol=1e-3, atol=1e-3)

    def test_results_depend_on_the_seed(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        """Otherwise the tests below would compare constants."""
        assert 50 < len(plain["coords"]) < 1000
        assert self.unlike(pipeline, plain, BOTH) == set()
        other = self.bed.run(pipeline, seed=1)
        changed = self.differing_names(other, plain)
        assert changed >= LAYOUT - {"translation_scale"} | {"shape", "coords", "gaussian.xyz"}
        assert all(torch.isfinite(value).all() for name, value in plain.items() if not name.startswith("pointmap"))

    def test_removal_is_exact(self, every: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        config = METHODS[every]
        merges_voxels = config.get("mesh", {}).get("where") == "voxels"
        decoded = BOTH if "mesh" in config and not merges_voxels else ("gaussian",)
        before = random_state()
        handle = fast_sam3d.accelerate(pipeline, config)
        assert random_state() == before
        with counted_calls(pipeline) as counts:
            accelerated = self.bed.run(pipeline, formats=decoded)
        if not merges_voxels and "ss" not in config:  # other voxels, another amount of noise
            assert random_state() == self.untouched()[1]
        handle.remove()
        assert self.unlike(pipeline, plain, decoded) == set()
        assert random_state() == self.untouched()[1]
        changed = self.differing_names(accelerated, plain)
        if config == EXACT and not self.bed.rounds:
            assert changed == set()
        else:
            assert changed - LAYOUT  # it had an effect, and not on the pose alone
        if "mesh" in config:
            (record,) = handle.report.aggregations
            assert record.factor > 1 and record.factor in config["mesh"]["factors"]
        made = {solve.stage: solve.calls for solve in handle.report.solves}
        saved = {solve.stage: solve.saved for solve in handle.report.solves}
        assert made == counts
        assert {stage: made[stage] + saved[stage] for stage in made} == PLAIN_CALLS
        assert {stage for stage in saved if saved[stage]} == {stage for stage in config if saves(config[stage])}

    @pytest.mark.parametrize("preset", group_options()["preset"])
    def test_every_preset_is_removed_exactly(self, preset: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        overrides = ["mesh.min_voxels=0"] if compose([f"preset={preset}"])[0]["mesh"] else []
        with fast_sam3d.accelerated(pipeline, preset=preset, overrides=overrides) as handle:
            changed = self.unlike(pipeline, plain)
        if not handle.methods:
            assert changed == set()
        elif handle.methods.keys() - {"exact"}:
            assert changed
        assert self.unlike(pipeline, plain) == set()

    def test_network_calls_of_an_unaccelerated_run(self, pipeline: Any) -> None:
        with counted_calls(pipeline) as counts, observe(pipeline) as report:
            self.bed.run(pipeline)
        assert counts == PLAIN_CALLS
        assert {solve.stage: solve.calls for solve in report.solves} == counts

    @pytest.mark.parametrize("limit", LIMITS)
    def test_limits_are_bit_identical(self, limit: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        with fast_sam3d.accelerated(pipeline, LIMITS[limit]) as handle:
            assert self.unlike(pipeline, plain, formats(LIMITS[limit])) == set()
        assert handle.report.network_calls_saved == 0

    def test_observing_is_bit_identical(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        with observe(pipeline) as report:
            assert self.unlike(pipeline, plain) == set()
        assert evaluated(report) == {"ss": STEPS, "slat": STEPS}

    def test_off_leaves_the_pipeline_unpatched(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        before = snapshot(pipeline)
        fast_sam3d.accelerate(pipeline, preset="off")
        assert same_vars(before, snapshot(pipeline))
        assert self.unlike(pipeline, plain) == set()

    def test_beta_changes_layout_and_only_layout(self, pipeline: Any) -> None:
        with fast_sam3d.accelerated(pipeline, paper(beta=0.2)):
            low = self.bed.run(pipeline)
        with fast_sam3d.accelerated(pipeline, paper(beta=0.8)):
            high = self.bed.run(pipeline)
        changed = differing(low, high)
        assert changed <= LAYOUT
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

    def test_applying_twice_replaces(self, name: str, pipeline: Any) -> None:
        expected = self.accelerated_once(name)
        fast_sam3d.accelerate(pipeline, METHODS["hold"])
        first = fast_sam3d.accelerate(pipeline, METHODS[name])
        second = fast_sam3d.accelerate(pipeline, METHODS[name])
        assert differing(self.bed.run(pipeline, formats=formats(METHODS[name])), expected) == set()
        assert len(first.report.solves) == 0
        assert len(second.report.solves) == 2
        first.remove()
        assert second.active
        second.remove()

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
    def test_removal_in_any_order(self, order: tuple[int, ...], pipeline: Any, plain: dict[str, Tensor]) -> None:
        managers: list[AbstractContextManager[Any]] = [
            observe(pipeline),
            fast_sam3d.accelerated(pipeline, METHODS["both"]),
            observe(pipeline),
        ]
        entered = [manager.__enter__() for manager in managers]
        self.bed.run(pipeline)
        for index in order:
            managers[index].__exit__(None, None, None)
        assert self.unlike(pipeline, plain) == set()
        reports = [entered[0], entered[1].report, entered[2]]
        assert [evaluated(report) for report in reports] == [{"ss": 4, "slat": 5}] * 3

    def test_runs_correctly_after_an_aborted_run(self, name: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        expected = self.accelerated_once(name)
        with fast_sam3d.accelerated(pipeline, METHODS[name]) as handle:
            for stage in ("ss", "slat"):
                calls = itertools.count(1)

                def stop(module: Any, args: Any, calls: Iterator[int] = calls) -> None:
                    if next(calls) == 5:
                        raise Stop

                backbone = pipeline.models[f"{stage}_generator"].reverse_fn.backbone
                hook = backbone.register_forward_pre_hook(stop)
                with pytest.raises(Stop):
                    self.bed.run(pipeline, seed=3)
                hook.remove()
                assert handle.report.solves[-1].complete is False
            assert differing(self.bed.run(pipeline, formats=formats(METHODS[name])), expected) == set()
        assert self.unlike(pipeline, plain) == set()

    def test_a_handle_does_not_keep_the_pipeline(self) -> None:
        thing = self.bed.build()
        handle = fast_sam3d.accelerate(thing, METHODS["everything"])
        self.bed.raw(thing, stage1_only=True)
        alive = weakref.ref(thing.models)
        gc.collect()
        gc.disable()
        try:
            del thing
            assert alive() is None
        finally:
            gc.enable()
        handle.remove()

    def test_two_pipelines_with_different_settings(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        expected = self.accelerated_once("paper")
        other, third = self.second(), self.bed.build()
        with fast_sam3d.accelerated(other, METHODS["slat"]), fast_sam3d.accelerated(pipeline, METHODS["paper"]):
            ours, theirs = self.bed.run(pipeline), self.bed.run(other)
            assert self.unlike(third, plain) == set()
        assert differing(ours, expected) == set()
        assert torch.equal(theirs["shape"], plain["shape"])
        assert not torch.equal(theirs["gaussian.xyz"], plain["gaussian.xyz"])

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

    def test_deep_copy_uses_its_own_weights(self, name: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        expected, decoded = self.accelerated_once(name), formats(METHODS[name])
        attributes = [list(values) for values in snapshot(pipeline).values()]
        with fast_sam3d.accelerated(pipeline, METHODS[name]) as handle:
            twin = copy.deepcopy(pipeline)
        assert differing(self.bed.run(twin, formats=decoded), expected) == set()
        with torch.no_grad():
            for stage in ("ss_generator", "slat_generator"):
                for parameter in twin.models[stage].parameters():
                    parameter.mul_(1.1)
        assert {"shape", "translation"} <= self.differing_names(self.bed.run(twin, formats=decoded), expected)
        assert handle.report.solves == []
        fast_sam3d.restore(twin)
        assert [list(values) for values in snapshot(twin).values()] == attributes
        assert self.unlike(pipeline, plain) == set()

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
            counted_calls(pipeline) as counts,
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
