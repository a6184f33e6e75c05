"""A pool of spawned processes."""

from __future__ import annotations

import os
import signal

import pytest

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run.pool import worker_pool


def test_a_killed_worker_ends_the_run_with_a_sentence():
    with pytest.raises(FastSam3dError, match="worker process was killed.*resumes"), worker_pool(1, int) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()
