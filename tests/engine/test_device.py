from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from quince.config import ServeConfig
from quince.engine.device import CHUNK, STEP_ON_CUDA, share_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such policies")


def policy_after(*, before: int = os.SCHED_OTHER) -> int:
    """Of a new thread that ran under ``before`` and then called it."""

    def run() -> int:
        os.sched_setscheduler(0, before, os.sched_param(0))
        share_cores()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run).result()


@pytest.mark.skipif(mx.default_device().type != mx.cpu, reason="for MLX's CPU build")
def test_an_engine_that_computes_on_cores_is_a_batch_job() -> None:
    assert policy_after() == os.SCHED_BATCH


def test_what_its_owner_chose_stays() -> None:
    assert policy_after(before=os.SCHED_IDLE) == os.SCHED_IDLE


def test_a_gpu_needs_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert policy_after() == os.SCHED_OTHER


def test_a_sandbox_may_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    share_cores()


def test_what_is_said_of_the_default_chunk_is_what_there_is() -> None:
    """The configuration does not know devices: its text names the numbers."""
    said = ServeConfig.model_fields["prefill_chunk_size"].description or ""
    assert f"default: {CHUNK}" in said and f"CUDA {STEP_ON_CUDA}" in said
