"""What the device that MLX computes on has, and how it is used best."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import mlx.core as mx

CHUNK = 4096  # tokens of one prompt in a step
STEP_ON_CUDA = 16384  # of all prompts: there, many short ones take hardly longer than one
SHARE = 0.9  # of a GPU's memory; the rest is the driver's and what a forward pass needs for a moment
CPU_SHARE = 0.5  # of the machine's memory, which others use too
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_budget(asked: int | None = None, limit: int | None = None) -> int:
    """Bytes that an engine may take, weights included: what was ``asked`` for, else what the device recommends or has
    free, up to ``limit``."""
    if asked is not None:
        return asked
    default = _default_budget()
    return default if limit is None else min(default, limit)


def gains_from_fused_projections() -> bool:
    """Whether a step is bound by how many kernels are handed to the device: on CUDA (benchmarks/README.md). A CPU takes
    as long as before; on Metal it was not measured."""
    return _is_cuda()


def has_reference_blas() -> bool:
    """Whether float32 products are the reference BLAS's, as in MLX's CPU build for Linux. Apple's is a fast one."""
    return bool(sys.platform == "linux" and mx.default_device().type == mx.cpu)


def has_rotation_kernel() -> bool:
    """Whether rotary positions are one operation. On CPUs they are some twenty."""
    return bool(mx.default_device().type == mx.gpu)


def gains_from_kernels() -> bool:
    """Whether kernels of our own do what MLX has none for, or many: on CUDA (attention.py, sampler.py)."""
    return _is_cuda()


def compiles_kernels() -> bool:
    """Whether a computation of new shapes may take much longer than the same one later."""
    return bool(mx.default_device().type == mx.gpu)


def builds_kernels_by_size() -> bool:
    """Whether attention over a number of tokens that was not seen before takes long. On CUDA, cuDNN builds its kernels
    for each number of rows, queries and keys: 20 to 100 ms. Metal's serve all of them."""
    return _is_cuda()


def prefill_tokens() -> int:
    """How many tokens of prompts may be in a step, of which CHUNK are one prompt's: attention may take memory for each
    pair of a prompt's tokens."""
    return STEP_ON_CUDA if _is_cuda() else CHUNK


def share_cores() -> None:
    """Keep the threads of MLX's CPU build from stopping each other; called before MLX has any but the caller's.

    One thread hands operations over, another one computes them. Linux lets a thread that is woken interrupt what runs,
    so that they take turns at every single operation, on one core; as a batch job it does not, and operations
    are handed over while others are computed. That matters beside other processes
    (docs/architecture.md). On other systems, and with a GPU, there is nothing to do."""
    if sys.platform != "linux" or mx.default_device().type != mx.cpu:
        return
    with contextlib.suppress(PermissionError):  # of a sandbox
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _is_cuda() -> bool:
    return bool(mx.cuda.is_available() and mx.default_device().type == mx.gpu)


def _default_budget() -> int:
    info = mx.device_info()
    if mx.metal.is_available():
        return int(SHARE * int(info["max_recommended_working_set_size"]))
    if mx.default_device().type == mx.gpu and "total_memory" in info:
        total = int(info["total_memory"])
        # What others leave. Our own part of what is taken (the weights) is counted as free here.
        return int(SHARE * min(total, int(info.get("free_memory", total)) + mx.get_active_memory()))
    return int(CPU_SHARE * _machine_memory())


def _machine_memory() -> int:
    """The smaller of what the machine has and what this container may take."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)
