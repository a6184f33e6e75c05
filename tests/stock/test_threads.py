"""Two threads on the stock classes: each gets what it gets alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fast_sam3d import accelerate, run_object
from fast_sam3d.run.object import RunSettings
from tests.beds import differing, tensors
from tests.minis import picture
from tests.stock.build import STOCK


def test_two_threads_on_one_pipeline_get_what_they_get_alone() -> None:
    pipeline = STOCK.build()
    accelerate(pipeline, preset="fast_sam3d")

    def run(pipe, seed):
        settings = RunSettings(seed, ss_steps=2, slat_steps=2, formats=("gaussian",), refine_pose=False)
        return tensors(run_object(pipe, *picture(), settings=settings).result)

    with STOCK.running(), ThreadPoolExecutor(2) as pool:
        alone = [run(pipeline, 0), run(pipeline, 1)]
        together = list(pool.map(run, (pipeline, pipeline), (0, 1)))
    assert [differing(*pair) for pair in zip(alone, together, strict=True)] == [set(), set()]
