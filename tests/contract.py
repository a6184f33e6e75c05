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
from tests.beds import STEPS, Bed, differing, random_state
from tests.fakes import same_vars


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
    """Attributes: `bed`, the kind of pipeline; `rest`, whether methods without a class of their own run as well;
    `names`, methods that pass every test."""

    bed: ClassVar[Bed]
    rest: ClassVar[bool] = True
    names: ClassVar[tuple[str, ...]] = FULL

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

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test with an argument `name` runs for each class, one with `every` for each file, too."""
        for argument, names in {
            "name": self.names,
            "every": (*FULL, *REST) if self.rest else FULL,
            "limit": LIMITS,
        }.items():
            if argument in metafunc.fixturenames:
                known = LIMITS if argument == "limit" else METHODS
                metafunc.parametrize(argument, [name for name in names if self.bed.takes(known[name])])

    @pytest.fixture
    def pipeline(self) -> Iterator[Any]:
        """A pipeline that must be restored: vars() and state_dict keys."""
        shared = self.shared()
        before, keys = self.bed.snapshot(shared), self.bed.parameters(shared)
        yield shared
        assert same_vars(before, self.bed.snapshot(shared))
        assert self.bed.parameters(shared) == keys

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
        accelerated = fast_sam3d.accelerated(pipeline, {stage: path.method(live=False)})
        with accelerated as handle, self.bed.latents(pipeline, stage) as latents:
            self.bed.run(pipeline)
        end = to_leaves(latents[0], problem.leaf)
        made = next(solve.calls for solve in handle.report.solves if solve.stage == stage)
        assert made == path.calls
        assert end.keys() == expected.keys()
        for name, leaf in end.items():
            torch.testing.assert_close(leaf.float(), expected[name], rtol=1e-3, atol=1e-3)

    def test_results_depend_on_the_seed(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        """Otherwise the tests below would compare constants."""
        assert 50 < len(plain["coords"]) < 1000
        assert self.unlike(pipeline, plain, BOTH) == set()
        other = self.bed.run(pipeline, seed=1)
        changed = self.differing_names(other, plain)
        assert changed >= self.bed.pose - {"translation_scale"} | {"shape", "coords", "gaussian.xyz"}
        assert all(torch.isfinite(value).all() for name, value in plain.items() if not name.startswith("pointmap"))

    def test_removal_is_exact(self, every: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        config = METHODS[every]
        merges_voxels = config.get("mesh", {}).get("where") == "voxels"
        decoded = BOTH if "mesh" in config and not merges_voxels else ("gaussian",)
        before = random_state()
        handle = fast_sam3d.accelerate(pipeline, config)
        assert random_state() == before
        with self.bed.counted_calls(pipeline) as counts:
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
            assert changed - self.bed.pose  # it had an effect, and not on the pose alone
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
        settings = compose([f"preset={preset}"])[0]
        if not self.bed.takes(settings):
            with pytest.raises(FastSam3dError):
                fast_sam3d.accelerate(pipeline, preset=preset)
            return
        overrides = ["mesh.min_voxels=0"] if settings["mesh"] else []
        with fast_sam3d.accelerated(pipeline, preset=preset, overrides=overrides) as handle:
            changed = self.unlike(pipeline, plain)
        if not handle.methods:
            assert changed == set()
        elif handle.methods.keys() - {"exact"}:
            assert changed
        assert self.unlike(pipeline, plain) == set()

    def test_network_calls_of_an_unaccelerated_run(self, pipeline: Any) -> None:
        with self.bed.counted_calls(pipeline) as counts, observe(pipeline) as report:
            self.bed.run(pipeline)
        assert counts == PLAIN_CALLS
        assert {solve.stage: solve.calls for solve in report.solves} == counts

    def test_limits_are_bit_identical(self, limit: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        with fast_sam3d.accelerated(pipeline, LIMITS[limit]) as handle:
            assert self.unlike(pipeline, plain, formats(LIMITS[limit])) == set()
        assert handle.report.network_calls_saved == 0

    def test_observing_is_bit_identical(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        with observe(pipeline) as report:
            assert self.unlike(pipeline, plain) == set()
        assert evaluated(report) == {"ss": STEPS, "slat": STEPS}

    def test_off_leaves_the_pipeline_unpatched(self, pipeline: Any, plain: dict[str, Tensor]) -> None:
        before = self.bed.snapshot(pipeline)
        fast_sam3d.accelerate(pipeline, preset="off")
        assert same_vars(before, self.bed.snapshot(pipeline))
        assert self.unlike(pipeline, plain) == set()

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

                hook = self.bed.networks(pipeline)[stage].register_forward_pre_hook(stop)
                with pytest.raises(Stop):
                    self.bed.run(pipeline, seed=3)
                hook.remove()
                assert handle.report.solves[-1].complete is False
            assert differing(self.bed.run(pipeline, formats=formats(METHODS[name])), expected) == set()
        assert self.unlike(pipeline, plain) == set()

    def test_a_handle_does_not_keep_the_pipeline(self) -> None:
        thing = self.bed.build()
        handle = fast_sam3d.accelerate(thing, METHODS["everything"])
        self.bed.structure(thing)
        alive = weakref.ref(self.bed.networks(thing)["ss"])
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

    def test_deep_copy_uses_its_own_weights(self, name: str, pipeline: Any, plain: dict[str, Tensor]) -> None:
        expected, decoded = self.accelerated_once(name), formats(METHODS[name])
        attributes = [list(values) for values in self.bed.snapshot(pipeline).values()]
        with fast_sam3d.accelerated(pipeline, METHODS[name]) as handle:
            twin = copy.deepcopy(pipeline)
        assert differing(self.bed.run(twin, formats=decoded), expected) == set()
        with torch.no_grad():
            for network in self.bed.networks(twin).values():
                for parameter in network.parameters():
                    parameter.mul_(1.1)
        assert {"shape", *self.bed.pose & {"translation"}} <= self.differing_names(
            self.bed.run(twin, formats=decoded), expected
        )
        assert handle.report.solves == []
        fast_sam3d.restore(twin)
        assert [list(values) for values in self.bed.snapshot(twin).values()] == attributes
        assert self.unlike(pipeline, plain) == set()
