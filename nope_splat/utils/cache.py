"""Results of long stages, kept in a folder under a key of everything that they depend on."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError

logger = logging.getLogger(__name__)

T = TypeVar("T")


KEY_ENTRY = "cache_key"
KEPT = 8
"""Number of results of each stage that are kept: what was used last goes last."""
ABANDONED = 24 * 3600
"""Age in seconds of a half-written file that nobody writes any more: its run was killed."""


@dataclass(frozen=True)
class Cache:
    """A folder of named results, each a file of arrays (npz, never pickle).

    Files are written beside their place and moved into it at once, so that runs which share the folder
    never see each other's half-written files, nor those of a run that was killed. Of each stage, the results
    that were used last are kept.
    """

    folder: Path
    """Where the files lie; made when the first result is stored."""

    def load(self, name: str, key: str, decode: Callable[[dict[str, NDArray[Any]]], T]) -> T | None:
        """Load a result.

        Args:
            name: Name of the stage.
            key: Key of everything that the result depends on (see `content_key`).
            decode: Makes the result of the arrays that were stored; raises whatever it likes of others.

        Returns:
            The result, or None if there is none or its file is damaged or not one of ours (said aloud).
        """
        path = self._path(name, key)
        try:
            # Opened here, since numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {entry: stored[entry] for entry in stored.files}
            if arrays.pop(KEY_ENTRY).item() != key:
                raise ValueError("it was made for other photos or settings")
            result = decode(arrays)
            with suppress(OSError):  # a folder that is only read from
                path.touch()
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged archive raises whatever its bytes lead to
            logger.warning(f"The cached file {path} is damaged and will be made again ({error}).")
            return None
        return result

    def store(self, name: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a result, in place of one under the same name and key.

        Args:
            name: Name of the stage.
            key: Key of everything that the result depends on (see `content_key`).
            arrays: The arrays, of numbers, booleans or strings.

        Raises:
            TypeError: If an array holds Python objects.
            NopeSplatError: If the folder cannot be written, for example because the disk is full.
        """
        if any(array.dtype.hasobject for array in arrays.values()):
            raise TypeError("Python objects would need pickle, which the cache does not use")
        path = self._path(name, key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".partial", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, **{KEY_ENTRY: np.array(key)}, **arrays)
                os.replace(temporary, path)
                self._prune(name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise NopeSplatError(
                "unwritable-output",
                f"cannot write to {self.folder} ({error.strerror or error}); free some space there,"
                " or choose another output folder",
            ) from error

    def remove(self, name: str, key: str) -> None:
        """Remove a result, if there is one.

        Args:
            name: Name of the stage.
            key: Its key.
        """
        with suppress(OSError):
            self._path(name, key).unlink(missing_ok=True)

    def _prune(self, name: str) -> None:
        """Remove the results of a stage that were not used for longest, and what killed runs left."""
        results = sorted(self.folder.glob(f"{name}-*.npz"), key=_age)
        abandoned = [path for path in self.folder.glob("*.partial") if _age(path) > ABANDONED]
        for path in [*results[KEPT:], *abandoned]:
            path.unlink(missing_ok=True)

    def _path(self, name: str, key: str) -> Path:
        return self.folder / f"{name}-{key[:16]}.npz"


def _age(path: Path) -> float:
    """Seconds since a file was last used; forever where another run has just removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
