"""numba compilation with an on-disk cache, if some folder is writable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function on its first call, and cache the result on disk.

    `numba.njit(cache=True)` raises an error if neither the package folder nor the user's cache folder is
    writable, as in containers that run under an unknown user. This decorator then compiles in every process
    instead.

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
