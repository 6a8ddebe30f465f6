"""The threads of the CPU rasterizer.

A kernel claims its work, a tile or a run of Gaussians, from a shared counter by an atomic increment, so that
no thread waits for a slower one. What a piece of work writes never depends on which thread took it: results
are the same for any number of threads. Any Python thread may rasterize at any time, each with helpers of its
own; numba's `prange` would not allow this.

A kernel may have several stages, each with a counter of its own. A thread that finds nothing left to claim
waits until all pieces of the stage are finished, whoever works on them, and goes on to the next; one that
comes late passes through the stages that are over.

A pass runs five kernels of about a millisecond, and to wake a sleeping thread takes a twentieth of that. So a
helper that has finished stays awake for a moment and watches the counter of its caller's next kernel. It
joins in as soon as something has been claimed: by then the caller has let go of Python's lock, which the
helper needs to start.

Linux likes to wake a helper on the core that its caller works on, and takes some ten milliseconds, several
passes over a small image, to notice that another core idles. So a helper keeps off that core.
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
"""Gaussians that a thread claims at a time. Numba's cache does not notice a change: clear it then."""

_LOOKS = 4_000_000
"""How often a helper looks for work before it goes to sleep: for about a millisecond."""

_STAGES = 3
"""Stages that a kernel may have."""

_Counters = NDArray[np.int64]
"""For every stage what is claimed, and how many pieces are finished, cache lines apart. (stages, 2, 16)"""


@intrinsic
def claim(typing: Any, counter: Any, amount: Any) -> Any:
    """Atomically add to the first element of an int64 array; its value before that. Int64."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = cgutils.create_struct_proxy(counter)(context, builder, values[0]).data
        return builder.atomic_rmw("add", address, values[1], "acq_rel")

    return types.int64(counter, types.int64), emit


@intrinsic
def read(typing: Any, counter: Any) -> Any:
    """The first element of an int64 array, as other threads left it. Int64."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = cgutils.create_struct_proxy(counter)(context, builder, values[0]).data
        return builder.load_atomic(address, "acquire", 8)

    return types.int64(counter), emit


@inlined
def finish(counter):
    """Report that a piece of a stage is finished; `counter` (2, 16) is the stage's."""
    claim(counter[1], 1)


@inlined
def await_all(counter, pieces):
    """Wait until so many pieces of a stage are finished: all that there are."""
    while read(counter[1]) < pieces:
        pass


@kernel
def _watch(counter, value, looks):
    """Wait, without Python's lock, until a counter reaches a value; whether it did within so many looks."""
    while read(counter) < value and looks > 0:
        looks -= 1
    return looks > 0


@kernel
def _report_and_watch(finished, counter, looks):
    """Report that a task is finished, and wait for the first claim of the next: without Python's lock."""
    claim(finished, 1)
    _watch(counter, 1, looks)


_CORES_OF_CONTAINER = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds that a container may compute, or `max`, and in how many: on all cores together."""


def _available_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
        share, period = map(int, _CORES_OF_CONTAINER.read_text().split())
        cores = min(cores, max(1, round(share / period)))
    return cores


_current_core: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu if sys.platform == "linux" else lambda: 0
"""The core that this thread runs on; zero where threads cannot choose."""


@contextlib.contextmanager
def _away_from(core: int) -> Iterator[None]:
    """Keep this thread off a core where it can go to another."""
    if sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):  # none is left, or a sandbox forbids it
        os.sched_setaffinity(0, allowed - {core})
    yield
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, allowed)


_thread_count = _available_cores()
_pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="splatting")


class _Helper:
    """A thread of the pool that works on what it is offered, for as long as offers follow each other."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._task: tuple[Callable[..., None], _Counters, _Counters, _Counters, tuple[Any, ...]] | None = None
        self._present = False

    def offer(self, *task: Any) -> None:
        """Offer a kernel, its counters, the next kernel's, where to report the end, and the arguments."""
        with self._lock:
            self._task = task
            called, self._present = not self._present, True
        if called:
            _pool.submit(self._work, _current_core())

    def withdraw(self) -> bool:
        """Take the offer back; False if it was accepted."""
        with self._lock:
            open_, self._task = self._task is not None, None
        return open_

    def _accept(self) -> Any:
        with self._lock:
            task, self._task = self._task, None
            self._present = task is not None
        return task

    def _work(self, callers_core: int) -> None:
        with _away_from(callers_core):
            while task := self._accept():
                run, counters, upcoming, finished, arguments = task
                try:
                    run(counters, *arguments)
                except BaseException as error:
                    self.error = error
                _report_and_watch(finished, upcoming, _LOOKS)


class _Team(threading.local):
    """The helpers of one calling thread; counters of its kernel and of its next."""

    def __init__(self) -> None:
        self.helpers: list[_Helper] = []
        self.counters, self.upcoming = np.zeros((2, _STAGES, 2, 16), np.int64)
        self.finished = np.zeros(16, np.int64)

    def first(self, count: int) -> list[_Helper]:
        """So many helpers."""
        while len(self.helpers) < count:
            self.helpers.append(_Helper())
        return self.helpers[:count]


_team = _Team()


def set_num_threads(count: int) -> None:
    """Set how many threads rasterize; one for every core that this process may use, unless told otherwise.

    It is independent of `torch.set_num_threads`: torch's threads spin while they wait for work, so that
    few of them beside the rasterizer's is the faster setting on small machines.

    Args:
        count: At least 1.

    Raises:
        ValueError: If `count` is below 1.
    """
    global _thread_count
    if count < 1:
        raise ValueError(f"Rasterization needs at least one thread, not {count}.")
    _thread_count = count


def get_num_threads() -> int:
    """How many threads rasterize."""
    return _thread_count


def run_on_all_threads(kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on every thread at once, and wait for all.

    Helpers that are late are not waited for: the others have done the work then.

    Args:
        kernel: Takes counters that start at zero, an int64 array of (stages, 2, 16). Where there is one stage
            it may `claim` from them as they are; otherwise each stage has its part of them, to `claim` from,
            to `finish` pieces and to `await_all` before the next. What can fail comes before all claims.
        *arguments: The kernel's further arguments, shared by all threads.
    """
    team, helpers = _team, _team.first(_thread_count - 1)
    team.counters, team.upcoming = team.upcoming, team.counters
    team.upcoming[:] = team.finished[0] = 0
    for helper in helpers:
        helper.offer(kernel, team.counters, team.upcoming, team.finished, arguments)
    try:
        kernel(team.counters, *arguments)
    finally:
        working = sum(not helper.withdraw() for helper in helpers)
        while not _watch(team.finished, working, _LOOKS):
            time.sleep(1e-5)
    for helper in helpers:
        if helper.error is not None:
            error, helper.error = helper.error, None
            raise error
