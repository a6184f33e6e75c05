"""Pictures, masks and checkpoints that the tests share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The tests are small: on a busy machine several threads are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts its background jobs with interrupts ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("tests.contract", "tests.contract_sam3d", "tests.contract_trellis")

HEIGHT, WIDTH = 40, 48

# Tests marked slow, which `make test-fast` excludes: whole commands, processes, training, the contract of every
# method. An entry is a folder, a file, or a test of a file.
SLOW = (
    "bench/test_bench_command.py",
    "bench/test_collect.py",
    "bench/test_exact_parts.py",
    "bench/test_gpu.py::test_full_size_networks_have_the_published_parameters",
    "bench/test_gpu.py::test_runs_the_tests_of_a_checkout",
    "bench/test_gpu.py::test_the_whole_command_on_a_cpu",
    "bench/test_job.py",
    "bench/test_native_parts.py",
    "bench/test_operations.py",
    "bench/test_plan_peaks.py::test_objects_fit_their_plans",
    "bench/test_plan_peaks.py::test_sampling_40000_voxels_fits_the_smallest_plan",
    "bench/test_plan_peaks.py::test_the_surface_needs_no_more_than_the_network_before_it",
    "bench/test_plots.py",
    "bench/test_schedules.py",
    "bench/test_suite.py",
    "browser",
    "checkpoints/test_doctor.py",
    "checkpoints/test_download.py",
    "cli/test_cli.py::test_closed_pipe_is_not_an_error",
    "cli/test_compare.py",
    "cli/test_infer.py",
    "cli/test_main_job.py",
    "cli/test_trellis.py",
    "cluster/test_ray.py",
    "decode/test_hooks.py",
    "demo/test_api.py",
    "demo/test_engine.py",
    "exact/test_extraction.py::test_another_extractor_is_skipped_with_a_log_message",
    "exact/test_passes.py",
    "fuzz",
    "metrics/test_comparison.py",
    "metrics/test_occupancy.py::test_volume_iou_of_boxes_by_hand",
    "mini/test_data.py",
    "mini/test_data_pictures.py",
    "mini/test_data_shards.py",
    "mini/test_examples.py",
    "mini/train/test_stages.py",
    "model/test_layout_in_runs.py",
    "model/test_published_cost.py",
    "model/test_slat_decoder.py::test_encoder_and_decoder_learn_a_sphere",
    "model/test_window.py",
    "native/test_commands.py",
    "native/test_contract.py",
    "native/test_devices.py",
    "native/test_decoders.py::test_memory_at_published_sizes",
    "native/test_synthetic.py::test_a_run_yields_a_surface_and_visible_gaussians",
    "sampling/test_precision.py",
    "scene/test_batch.py",
    "scene/test_folder.py",
    "scene/test_scene_job.py",
    "stock",
    "test_adding_a_method.py",
    "test_contract.py",
    "test_contract_trellis.py",
    "test_contract_trellis2.py",
    "test_direction.py",
    "test_docs.py::test_commands_on_examples_run",
    "test_docs.py::test_python_snippets_run",
    "test_docs.py::test_the_second_snippet_accelerates_the_stock_notebooks_inference",
    "test_docs.py::test_the_readmes_command_runs_in_an_empty_folder",
    "test_packaging.py::test_sdist_contains_docs_and_test_data",
    "test_packaging.py::test_the_readmes_first_snippet_runs_from_the_wheel_in_an_empty_folder",
    "test_packaging.py::test_the_whole_api_needs_no_optional_package",
    "test_packaging.py::test_wheel_contains_configuration_weights_and_an_example",
    "test_packaging.py::test_wheel_works_in_an_empty_folder",
    "test_precision.py",
    "trellis",
    "tune/test_tune_command.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests listed in `SLOW`, and skip those marked gpu where torch finds no CUDA device."""
    here = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(here).as_posix()
        name = f"{path}::{item.name.split('[')[0]}"
        if any(slow in (path, name) or path.startswith(f"{slow}/") for slow in SLOW):
            item.add_marker(pytest.mark.slow)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not has_cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and torch finds none"))


def has_cuda() -> bool:
    """Imported here, because most tests do not need torch."""
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def no_measured_schedules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Presets are as shipped, whatever `fast-sam3d tune` has measured on this machine."""
    # Not by `monkeypatch`, which would then be undone after `same_threads` has looked.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Fail a test that changes torch's number of threads, because results depend on it."""
    before = torch_threads()
    yield
    after = torch_threads()
    if before and after != before:
        sys.modules["torch"].set_num_threads(before)
        pytest.fail(f"torch had {before} threads before this test and has {after} after it")


def torch_threads() -> int | None:
    """None: not imported yet."""
    return torch.get_num_threads() if (torch := sys.modules.get("torch")) else None


@pytest.fixture
def disc() -> np.ndarray:
    """[40, 48] bool, a disc."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y - 20) ** 2 + (x - 22) ** 2 < 100


@pytest.fixture
def picture(disc: np.ndarray) -> np.ndarray:
    """[40, 48, 3] uint8, a gradient with a red disc."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgb = np.stack([x * 5, y * 6, x + y], axis=-1).astype(np.uint8)
    rgb[disc] = (200, 30, 20)
    return rgb


@pytest.fixture
def object_folder(tmp_path: Path, picture: np.ndarray, disc: np.ndarray) -> Path:
    """A folder "cup" with image.png and masks 0.png, 2.png and 11.png."""
    folder = tmp_path / "cup"
    folder.mkdir()
    Image.fromarray(picture).save(folder / "image.png")
    for index, mask in ((0, disc), (2, ~disc), (11, disc)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
