"""These tests run the stock classes, and are skipped as a whole where those are not importable.

    python -m venv --system-site-packages stock && stock/bin/pip install optree spconv==2.3.8
    PYTHONPATH=<a clone of facebookresearch/sam-3d-objects> OMP_NUM_THREADS=1 stock/bin/python -m pytest tests/stock

Of its dependencies only `optree` must be installed. With `spconv` (its wheel for the CPU is enough) sparse convolutions
are its own, but for one kernel, see `sparse_convolution.py`; `stand_ins.py` has what else is missing. No weights and no
GPU. The comparison with spconv's own kernel needs the one thread.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISSING = [name for name in ("sam3d_objects", "optree") if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        skip = pytest.mark.skip(reason=f"not importable here: {', '.join(MISSING)}")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)
