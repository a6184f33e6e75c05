"""Training samples of a seed; writing, keeping and reading shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.mini.data import samples, shards
from fast_sam3d.mini.data.families import FAMILIES, sample_object

SEED = 30_000_000  # unused elsewhere
each_family = pytest.mark.parametrize("family", FAMILIES)


def test_voxels_form_the_shell_with_distances_and_colours() -> None:
    sampled = sample_object(SEED, "mug")
    shape = samples.voxelise(sampled)
    R = samples.RESOLUTION
    centres = (shape.coords.astype(np.float32) + 0.5) / R - 0.5
    assert (np.abs(sampled.solid.distance(centres)) < samples.BAND / R).all()
    everywhere = np.abs(sampled.solid.distance(samples.grid_centres(R))) < samples.BAND / R
    assert len(shape.coords) == everywhere.sum()
    assert np.abs(shape.rgb / 255 - sampled.solid.colour(centres)).max() < 1 / 255
    # Sample [x, y, z] = [3, 0, 1] of each voxel's 4 x 4 x 4.
    offset = (np.array([3, 0, 1], np.float32) + 0.5) / 4 - 0.5
    true = np.clip(sampled.solid.distance(centres + offset / R) * R, -1, 1)
    assert np.abs(shape.sdf[:, 3 * 16 + 0 * 4 + 1] / 127 - true).max() < 1 / 127


@each_family
def test_view_stores_its_pose_and_pointmap(family: str) -> None:
    sampled = sample_object(SEED, family)
    shape = samples.voxelise(sampled)
    surface = (shape.coords.astype(np.float32) + 0.5) / samples.RESOLUTION - 0.5
    rng = np.random.default_rng(8)
    taken = [samples.make_view(rng, sampled, surface) for _ in range(4)]
    known = [view for view in taken if view.descriptor[5] == 1]
    assert known
    for view in taken:
        assert view.image.shape == (64, 64, 3) and view.mask.sum() >= 24 and view.pose.shape == (17,)
        assert np.isfinite(view.pointmap).all() and np.abs(view.pointmap).max() <= 4
        assert np.isfinite(view.descriptor).all() and view.descriptor[3] == pytest.approx(view.mask.mean(), abs=1e-6)
    for view in known:
        R, t, size = view.pose[:9].reshape(3, 3), view.pose[9:12], view.pose[12]
        scale, shift = view.pose[13], view.pose[14:]
        points = view.pointmap[view.mask].astype(np.float32)
        points = points[(np.abs(points) < 4).all(1)] * scale + shift
        error = np.abs(sampled.solid.distance((((points - t) @ R.T) / size).astype(np.float32)))
        assert np.quantile(error, 0.99) < 0.01  # half precision
    for view in taken:  # the median is the origin, the median distance the unit
        points = view.pointmap[view.mask].astype(np.float32)
        middle = np.sort(points, axis=0)[(len(points) - 1) // 2]
        assert np.abs(middle).max() < 2e-3
        assert np.median(np.linalg.norm(points, axis=1)) == pytest.approx(1, abs=0.05)


def test_samples_depend_on_their_seed_only() -> None:
    def flat(seed: int) -> list[np.ndarray]:
        family, symmetry, shape, taken = samples.make_sample(seed, 2)
        return [np.array([family, symmetry]), *vars(shape).values(), *(a for v in taken for a in vars(v).values())]

    first = flat(SEED)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    flat(SEED + 1)
    again = flat(SEED)
    np.random.set_state(("MT19937", state, 624, 0, 0.0))  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return samples.write_shard(tmp_path, range(SEED, SEED + 2), 2)


def test_shard_round_trip(shard: Path) -> None:
    objects = shards.read([shard, shard], ("coords", "sdf", "rgb", "image", "pose"))
    assert len(objects) == 4 and objects.n_views == 2
    _, symmetry, shape, taken = samples.make_sample(SEED + 1, 2)
    for index in (1, 3):
        assert np.array_equal(objects.voxels("coords", index), shape.coords)
        assert np.array_equal(objects.voxels("sdf", index), shape.sdf)
        assert objects.symmetry[index] == symmetry
        assert np.array_equal(objects.arrays["image"][2 * index + 1], taken[1].image)


def test_complete_shards_are_kept_and_truncated_ones_regenerated(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shard.read_bytes()

    def forbidden(*_: object) -> None:
        raise AssertionError("a finished shard was rendered again")

    with monkeypatch.context() as patch:
        patch.setattr(samples, "make_sample", forbidden)
        assert samples.write_shard(shard.parent, range(SEED, SEED + 2), 2) == shard
    shard.unlink()
    shard.with_suffix(".tmp").write_bytes(whole[: len(whole) // 2])
    assert samples.write_shard(shard.parent, range(SEED, SEED + 2), 2).read_bytes() == whole
    assert [p.name for p in shard.parent.iterdir()] == [shard.name]


def test_an_abort_while_writing_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def abort(file: object, **_: object) -> None:
        file.write(b"PK")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", abort)
    with pytest.raises(KeyboardInterrupt):
        samples.write_shard(tmp_path, range(SEED, SEED + 1), 1)
    assert list(tmp_path.glob("*.npz")) == []


def test_parallel_generation_keeps_the_order_of_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 2)
    paths = shards.generate(tmp_path, SEED, 5, 1, processes=2)
    assert [p.name.split("-")[1:3] for p in paths] == [
        [str(SEED), str(SEED + 2)], [str(SEED + 2), str(SEED + 4)], [str(SEED + 4), str(SEED + 5)]
    ]  # fmt: skip
    # The same bytes as without a process pool.
    alone = samples.write_shard(tmp_path / "..", range(SEED + 4, SEED + 5), 1)
    assert paths[-1].read_bytes() == alone.read_bytes()
    alone.unlink()


def test_training_uses_no_held_out_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fast_sam3d.mini.train import run as run_module
    from fast_sam3d.mini.train.recipe import Recipe

    asked: list[range] = []

    def note(folder: Path, first: int, count: int, n_views: int, processes: int) -> list[Path]:
        asked.append(range(first, first + count))
        return []

    monkeypatch.setattr(run_module, "generate", note)
    run = run_module.TrainingRun(tmp_path, Recipe(), 0, torch.device("cpu"), 1)
    access: list[Callable[[], object]] = [lambda: run.training_shards, lambda: run.validation_shards]
    for get in access:
        get()
    training, validation = asked
    assert len(training) == Recipe().objects and training.stop <= shards.HELD_OUT_SEED
    assert validation.start >= shards.HELD_OUT_SEED
