"""numba compilation, with an on-disk cache if a cache folder is writable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a decorator that compiles a function on its first call and caches the machine code on disk.

    `numba.njit(cache=True)` raises an error if neither the package folder nor the user's cache folder is
    writable, as in containers that run under an unknown user. In this case, the function is compiled without
    a cache, once per process.

    Args:
        **options: Options of `numba.njit`.

    Returns:
        The decorator.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no writable folder
            return njit(**options)(function)

    return decorate
