"""One object and seed: runs, their order, and their rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fast_sam3d import metrics
from fast_sam3d.bench import job as jobs
from fast_sam3d.bench.job import PLACES, BenchTask, key_of, keys_of, measure, order_of, seeded, work
from fast_sam3d.bench.objects import BenchObject, Folder
from fast_sam3d.bench.runs import Given
from fast_sam3d.bench.suite import OFF, OTHER_SEED
from fast_sam3d.bench.variant import Variant, variant_of
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.metrics import Protocol
from fast_sam3d.sampling.driver import SolveSeam
from tests.fakes import same_vars, snapshot
from tests.minis import picture, random_mini
from tests.stand_in import StandIn

PROTOCOL = Protocol(points=200, resolution=16)
STEPS = 6
FEW_STEPS = " pipeline.ss_steps=6 pipeline.slat_steps=6"
VARIANTS = (
    Variant(OFF, STEPS),
    Variant(OTHER_SEED, STEPS),
    variant_of("ss=fast_sam3d slat=fast_sam3d" + FEW_STEPS, "cached"),
    Variant("few", 3, 2),
)


@pytest.fixture(scope="module")
def pipeline():
    return random_mini()


@pytest.fixture(scope="module")
def job():
    nowhere = Path("nowhere")
    return BenchTask(Checkpoint("mini", nowhere, "mini", "so"), VARIANTS, Folder(nowhere), protocol=PROTOCOL)


@pytest.fixture(scope="module")
def measured(pipeline, job):
    """The rows of one object and seed, and whether the pipeline was restored."""
    before = snapshot(pipeline)
    rows = measure(pipeline, disc(), 7, job, count=True)
    return rows, same_vars(before, snapshot(pipeline))


def disc(truth=None):
    image, mask = picture()
    return BenchObject("disc", Given(image, mask), truth)


def by_method(rows):
    return {row["method"]: row for row in rows}


def test_every_variant_has_a_row_and_the_pipeline_is_restored(measured):
    rows, untouched = measured
    assert untouched
    assert [row["method"] for row in rows] == [variant.name for variant in VARIANTS]
    assert [row["place"] for row in rows] == [order_of("disc", 7, 4).index(i) for i in range(4)]
    found = by_method(rows)
    assert not any(row["error"] for row in rows)
    assert found["few"]["network_calls"] < found["cached"]["network_calls"] < found[OFF]["network_calls"]
    assert found["cached"]["network_calls_saved"] > 0
    for row in rows:
        stages = [row[f"{stage}_seconds"] for stage in PLACES if math.isfinite(row[f"{stage}_seconds"])]
        assert 0.5 * row["seconds"] < sum(stages) <= row["seconds"]
        assert row["peak_bytes"] >= 0


def test_operations_follow_the_calls(measured, job):
    found = by_method(measured[0])
    assert 0 < found["few"]["operations"] < found["cached"]["operations"] < found[OFF]["operations"]
    assert all(math.isnan(row["operations"]) for row in measure(StandIn(), disc(), 7, job)), "only where requested"


def test_fidelity_uses_the_same_seed_and_the_noise_floor_another_seed(measured, pipeline):
    found = by_method(measured[0])
    given = np.dstack([disc().given.image, disc().given.mask.astype(np.uint8) * 255])
    options = {"stage1_inference_steps": STEPS, "stage2_inference_steps": STEPS}
    plain, other = (
        metrics.Reconstruction.of(pipeline.run(given, None, seed=seed, **options)) for seed in (7, 7 + 1_000_003)
    )
    scores = metrics.compare(other, plain, PROTOCOL)
    assert {f"plain_{name}": value for name, value in scores.items()}.items() <= found[OTHER_SEED].items()
    assert not any(name.startswith("plain_") for name in found[OFF])
    assert not any(name.startswith("truth_") for row in found.values() for name in row)
    assert found["cached"]["plain_latent_error"] < found[OTHER_SEED]["plain_latent_error"]


def test_ground_truth_is_used_if_available(job):
    truth = metrics.Reconstruction(mesh=trimesh.creation.box((0.6, 0.5, 0.4)), rotation=np.eye(3))
    found = by_method(measure(StandIn(), disc(truth), 7, job))
    for row in found.values():
        assert row["truth_rotation_deg"] == pytest.approx(0, abs=1e-4) and row["truth_volume_iou"] == 1.0


@pytest.mark.parametrize("broken", ["cached", OFF])
def test_a_failed_run_marks_its_row_and_the_others_follow(job, monkeypatch, broken):
    whole = StandIn.run

    def run(self, *args, **options):
        seam = self.models["ss_generator"]._solver.solve_iter
        accelerated = isinstance(seam, SolveSeam) and any(layer.accelerates for layer in seam.layers)
        if (broken == "cached") == accelerated and options["stage1_inference_steps"] == STEPS and options["seed"] == 7:
            raise RuntimeError("this  failure\nis planned")
        return whole(self, *args, **options)

    monkeypatch.setattr(StandIn, "run", run)
    found = by_method(measure(StandIn(), disc(), 7, job))
    assert found[broken]["error"] == "RuntimeError: this failure is planned" and math.isnan(found[broken]["seconds"])
    assert [name for name, row in found.items() if row["error"]] == [broken]
    if broken == OFF:
        assert not any(name.startswith("plain_") for row in found.values() for name in row), (
            "no baseline to compare with"
        )
    else:
        assert found["cached"]["plain_volume_iou"] == 0.0 and found["few"]["plain_volume_iou"] == 1.0


def test_seeds_and_keys_of_rows():
    assert [variant.seed for variant in seeded(VARIANTS, 7)] == [7, 7 + 1_000_003, 7, 7]
    assert 0 <= seeded(VARIANTS, 2**32 - 1)[1].seed < 2**32
    assert keys_of(["a", "b"], [1, 2]) == [key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("b", 2)]


def test_order_is_random_per_object_and_seed_but_reproducible():
    orders = [tuple(order_of(f"object {i}", seed, 6)) for i in range(50) for seed in (1, 2)]
    assert all(sorted(order) == list(range(6)) for order in orders) and len(set(orders)) > 80
    assert orders[3] == tuple(order_of("object 1", 2, 6))
    first = [order[0] for order in orders]
    assert min(first.count(i) for i in range(6)) >= 6, "each variant is sometimes first"


def test_every_row_of_an_unreadable_object_is_marked(object_folder, job, monkeypatch):
    (object_folder / "2.png").write_bytes(b"no picture")
    monkeypatch.setattr(jobs, "_job", replace(job, objects=Folder(object_folder)), raising=False)
    rows = work(key_of(".#2", 42))
    assert [row["method"] for row in rows] == [variant.name for variant in VARIANTS]
    assert all("InputError" in row["error"] and row["seed"] == 42 for row in rows)
