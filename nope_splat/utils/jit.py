"""numba's compiler, with what it compiled kept on disk wherever there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, once per machine.

    Where neither the folder of the package nor that of the user can be written, as in containers for users
    that the image does not know, each start compiles anew; numba would refuse to.

    Args:
        **options: Of `numba.njit`.

    Returns:
        The decorator.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no place
            return njit(**options)(function)

    return decorate
