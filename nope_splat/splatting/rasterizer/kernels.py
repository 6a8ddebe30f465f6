"""Decorators that compile kernels with numba on their first call and cache the machine code on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from numba.core.event import Event, Listener, register
from numba.extending import intrinsic as numba_intrinsic

from nope_splat.utils.jit import cached_njit

logger = logging.getLogger(__name__)

intrinsic: Any = numba_intrinsic
"""numba's `intrinsic`, typed as Any because callers omit the first parameter, numba's typing context."""

SOURCE_STAMP = hash(
    tuple((f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(Path(__file__).parent.glob("*.py")))
)
"""Hash of the times and sizes of this package's source files.

numba only detects changes to the file that defines a kernel. If this value is in the name of the numba type
of an argument of a kernel, numba also compiles the kernel again after changes to the functions that it calls.
"""

_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": {"contract", "arcp", "nsz"},
}

kernel = cached_njit(**_OPTIONS)
"""Decorator that compiles a function to machine code, which is cached on disk and runs without the GIL."""

inlined = cached_njit(**_OPTIONS, forceinline=True)
"""Decorator that compiles a function and inlines it into the kernels that call it."""


class _CompilationNotice(Listener):
    """Listener that logs a message when the first kernel is compiled, because this delays the first image."""

    shown = False

    def on_start(self, event: Event) -> None:
        compiled = event.data["dispatcher"].py_func.__module__ if event.data else ""
        if not self.shown and compiled.startswith("nope_splat.splatting.rasterizer"):
            self.shown = True
            logger.info(
                "Compiling the CPU rasterizer for this machine, which takes about a minute and is included"
                " in the first time estimates; later runs reuse the compiled code."
            )

    def on_end(self, event: Event) -> None:
        pass


register("numba:compile", _CompilationNotice())
