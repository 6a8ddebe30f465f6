"""Thread pool of the CPU rasterizer.

Threads claim work items, such as tiles or chunks of Gaussians, from a shared counter by atomic increments,
which balances the load. The output of a work item does not depend on the thread, so results are the same for
any number of threads. Any Python thread may rasterize at any time, because each calling thread has its own
worker threads; numba's `prange` does not support this.

A kernel may have several stages, each with its own counter. When all items of a stage are claimed, a thread
waits until these items are finished and continues with the next stage. A thread that starts late skips the
stages that are already finished.

A forward and backward pass runs five kernels of about a millisecond each, and waking a sleeping thread takes
a twentieth of a millisecond. After a kernel, a worker therefore does not sleep at once, but polls the counter
of its caller's next kernel for about a millisecond. The worker joins the next kernel when the first work item
is claimed, because by then the caller has released the GIL, which the worker needs for starting a kernel.

The Linux scheduler tends to wake a worker on its caller's core, and takes about ten milliseconds to migrate
the worker to an idle core. Several passes over a small image take no longer. On Linux, workers therefore
exclude the caller's core from their affinity.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from nope_splat.splatting.rasterizer.kernels import inlined, intrinsic, kernel

CHUNK = 512
"""Number of Gaussians per work item. After changing this value, clear numba's cache, which does not detect
the change."""

_MAX_SPINS = 4_000_000
"""Number of times that an idle worker polls the counter before it goes to sleep; the polling takes about a
millisecond."""

_MAX_STAGES = 3
"""Maximum number of stages of a kernel. Threads wait between stages."""

_Counters = NDArray[np.int64]
"""For each stage, the number of claimed and the number of finished work items. Each number is the first of 16
elements, so that no two numbers share a cache line. (stages, 2, 16)."""


@intrinsic
def claim(typing: Any, counter: Any, amount: Any) -> Any:
    """Atomically add `amount` to the first element of an int64 array, and return the element's old value."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = cgutils.create_struct_proxy(counter)(context, builder, values[0]).data
        return builder.atomic_rmw("add", address, values[1], "acq_rel")

    return types.int64(counter, types.int64), emit


@intrinsic
def load_acquire(typing: Any, counter: Any) -> Any:
    """Atomically load the first element of an int64 array, with acquire ordering."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = cgutils.create_struct_proxy(counter)(context, builder, values[0]).data
        return builder.load_atomic(address, "acquire", 8)

    return types.int64(counter), emit


@inlined
def finish_item(counter):
    """Count a work item as finished in `counter` (2, 16), the counter of the item's stage."""
    claim(counter[1], 1)


@inlined
def wait_for_items(counter, num_items):
    """Wait until all `num_items` work items of a stage are finished.

    `counter` (2, 16) belongs to the stage: `counter[1, 0]` is the number of finished items. The other columns
    keep the two numbers of a counter in separate cache lines.
    """
    while load_acquire(counter[1]) < num_items:
        pass


@kernel
def _spin_until(counter, value, max_spins):
    """Poll a counter until it reaches a value, without holding the GIL.

    Returns True if the counter reached the value, and False after `max_spins` unsuccessful polls.
    """
    while load_acquire(counter) < value and max_spins > 0:
        max_spins -= 1
    return max_spins > 0


@kernel
def _finish_and_spin(finished, counter, max_spins):
    """Count a task as finished, and wait until a thread claims the first work item of the next kernel.

    Adds one to `finished`, and then polls `counter`, the counter of the next kernel, at most `max_spins`
    times. The function does not hold the GIL.
    """
    claim(finished, 1)
    _spin_until(counter, 1, max_spins)


_CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""File with two numbers in microseconds: the CPU time, summed over all cores, that a container may use in
each period (or `max` for no limit), and the length of the period."""


def _available_cores() -> int:
    """Count the cores that this process may use, given its affinity and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or no quota ("max")
        quota, period = map(int, _CGROUP_CPU_LIMIT.read_text().split())
        cores = min(cores, max(1, round(quota / period)))
    return cores


_current_core: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu if sys.platform == "linux" else lambda: 0
"""Function that returns the index of the core on which this thread runs; zero on platforms other than
Linux."""


@contextlib.contextmanager
def _excluding_core(core: int) -> Iterator[None]:
    """Exclude a core from this thread's affinity within a `with` block, unless the core is the only one."""
    if sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):  # no core is left, or a sandbox forbids the call
        os.sched_setaffinity(0, allowed - {core})
    yield
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, allowed)


_thread_count = _available_cores()
_pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="splatting")


class _Worker:
    """Worker that runs tasks one by one on a thread of the pool; after the last task, the thread is free."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._task: tuple[Callable[..., None], _Counters, _Counters, _Counters, tuple[Any, ...]] | None = None
        self._running = False

    def submit(self, *task: Any) -> None:
        """Submit a task.

        Args:
            *task: The kernel, the work-item counters of this kernel and of the caller's next kernel, the
                counter of finished tasks, and the tuple of the kernel's other arguments.
        """
        with self._lock:
            self._task = task
            start, self._running = not self._running, True
        if start:
            _pool.submit(self._run, _current_core())

    def cancel(self) -> bool:
        """Cancel the submitted task. Returns False if the worker has already started the task."""
        with self._lock:
            pending, self._task = self._task is not None, None
        return pending

    def _next_task(self) -> Any:
        """Take the submitted task. If there is none, return None and mark the worker as not running."""
        with self._lock:
            task, self._task = self._task, None
            self._running = task is not None
        return task

    def _run(self, caller_core: int) -> None:
        """Run the submitted tasks one after the other, if possible not on the core `caller_core`."""
        with _excluding_core(caller_core):
            while task := self._next_task():
                run, counters, upcoming, finished, arguments = task
                try:
                    run(counters, *arguments)
                except BaseException as error:
                    self.error = error
                _finish_and_spin(finished, upcoming, _MAX_SPINS)


class _CallerState(threading.local):
    """State of a thread that calls kernels: its workers, and the work-item counters of two kernels.

    The two kernels are the one that runs now (`counters`) and the one that the thread will run next
    (`upcoming`). `finished` counts the tasks that the workers have finished.
    """

    def __init__(self) -> None:
        self.workers: list[_Worker] = []
        self.counters, self.upcoming = np.zeros((2, _MAX_STAGES, 2, 16), np.int64)
        self.finished = np.zeros(16, np.int64)

    def get_workers(self, count: int) -> list[_Worker]:
        """Return `count` workers; create workers that do not exist yet."""
        while len(self.workers) < count:
            self.workers.append(_Worker())
        return self.workers[:count]


_caller_state = _CallerState()


def set_num_threads(count: int) -> None:
    """Set the number of threads for rasterization. The default is the number of available cores.

    The setting is independent of `torch.set_num_threads`. On machines with few cores, use few torch threads,
    because waiting torch threads spin and compete with the rasterizer for cores.

    Args:
        count: Number of threads, at least 1.

    Raises:
        ValueError: If `count` is below 1.
    """
    global _thread_count
    if count < 1:
        raise ValueError(f"Rasterization needs at least one thread, not {count}.")
    _thread_count = count


def get_num_threads() -> int:
    """Return the number of threads for rasterization."""
    return _thread_count


def run_on_all_threads(kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on `get_num_threads()` threads at the same time, and wait until they finish.

    The calling thread is one of them. If a worker has not started when the calling thread finishes, its task
    is canceled, since no work items are left.

    Args:
        kernel: Kernel whose first argument is an int64 array of counters (stages, 2, 16) that start at zero.
            A kernel with one stage can `claim` from the whole array. In a kernel with several stages, each
            stage `claim`s from its own counter, calls `finish_item` after every item, and calls
            `wait_for_items` before the next stage. Code that may raise an exception has to run before the
            first claim.
        *arguments: Other arguments of the kernel, shared by all threads.
    """
    state, workers = _caller_state, _caller_state.get_workers(_thread_count - 1)
    state.counters, state.upcoming = state.upcoming, state.counters
    state.upcoming[:] = state.finished[0] = 0
    for worker in workers:
        worker.submit(kernel, state.counters, state.upcoming, state.finished, arguments)
    try:
        kernel(state.counters, *arguments)
    finally:
        num_started = sum(not worker.cancel() for worker in workers)
        while not _spin_until(state.finished, num_started, _MAX_SPINS):
            time.sleep(1e-5)
    for worker in workers:
        if worker.error is not None:
            error, worker.error = worker.error, None
            raise error
