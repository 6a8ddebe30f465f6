"""The threads of the CPU rasterizer, and how its kernels are compiled.

Kernels run without Python's lock on a pool of threads of their own. A kernel claims its work, a tile or a
run of Gaussians, from a shared counter by an atomic increment, so that no thread waits for a slower one. What
a piece of work writes never depends on which thread took it: results are the same for any number of threads.
Any Python thread may rasterize at any time; numba's `prange` would not allow this.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.core.event import Event, Listener, register
from numba.extending import intrinsic as numba_intrinsic

intrinsic: Any = numba_intrinsic
"""numba's decorator, untyped: what a kernel calls has no typing context as its first argument."""

CHUNK = 2048
"""Gaussians that a thread claims at a time. Numba's cache does not notice a change: clear it then."""

_OPTIONS = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": {"contract", "arcp", "nsz"},
}

kernel = njit(**_OPTIONS)
"""Compile a function to machine code once per machine; it runs without Python's lock."""

inlined = njit(**_OPTIONS, forceinline=True)
"""Compile a function into the kernels that call it."""


@intrinsic
def claim(typing: Any, counter: Any, amount: Any) -> Any:
    """Atomically add to the first element of an int64 array; its value before that. Int64."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = cgutils.create_struct_proxy(counter)(context, builder, values[0]).data
        return builder.atomic_rmw("add", address, values[1], "monotonic")

    return types.int64(counter, types.int64), emit


class _Announcement(Listener):
    """Says once that kernels are being compiled, since this holds up the first image for some seconds."""

    made = False

    def on_start(self, event: Event) -> None:
        compiled = event.data["dispatcher"].py_func.__module__ if event.data else ""
        if not self.made and compiled.startswith("nope_splat.splatting"):
            self.made = True
            print("Compiling the CPU rasterizer for this machine; the next start finds it ready.", flush=True)

    def on_end(self, event: Event) -> None:
        pass


register("numba:compile", _Announcement())


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_thread_count = _available_cores()
_pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="splatting")


def set_num_threads(count: int) -> None:
    """Set how many threads rasterize; every core that this process may use, unless told otherwise.

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

    Args:
        kernel: Takes a counter, an int64 array with one element that starts at zero, to `claim` work from.
        *arguments: The kernel's further arguments, shared by all threads.
    """
    counter = np.zeros(1, np.int64)
    helpers = [_pool.submit(kernel, counter, *arguments) for _ in range(_thread_count - 1)]
    kernel(counter, *arguments)
    for helper in helpers:
        helper.result()
