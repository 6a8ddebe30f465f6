"""How kernels become machine code: compiled by numba when first called, kept on disk for later starts."""

from __future__ import annotations

import logging
from typing import Any

from numba.core.event import Event, Listener, register
from numba.extending import intrinsic as numba_intrinsic

from nope_splat.utils.jit import compiled

logger = logging.getLogger(__name__)

intrinsic: Any = numba_intrinsic
"""numba's decorator, untyped: what a kernel calls has no typing context as its first argument."""

_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": {"contract", "arcp", "nsz"},
}

kernel = compiled(**_OPTIONS)
"""Compile a function to machine code once per machine; it runs without Python's lock."""

inlined = compiled(**_OPTIONS, forceinline=True)
"""Compile a function into the kernels that call it."""


class _Announcement(Listener):
    """Says once that kernels are being compiled, since this holds up the first image for some seconds."""

    made = False

    def on_start(self, event: Event) -> None:
        compiled = event.data["dispatcher"].py_func.__module__ if event.data else ""
        if not self.made and compiled.startswith("nope_splat.splatting.rasterizer"):
            self.made = True
            logger.info(
                "Compiling the CPU rasterizer for this machine, which takes a minute or so and is in the"
                " first estimates of time; the next start finds it ready."
            )

    def on_end(self, event: Event) -> None:
        pass


register("numba:compile", _Announcement())
