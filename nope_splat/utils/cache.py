"""On-disk cache of the results of pipeline stages, keyed by the images and settings of each result."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEY_ENTRY = "cache_key"
"""Name of the array that holds the full key of a cache file. The file name contains only the first characters
of the key."""
MAX_ENTRIES_PER_STAGE = 8
"""Maximum number of results kept per stage; the least recently used results are removed first."""
MAX_PARTIAL_FILE_AGE = 24 * 3600
"""Age, in seconds, after which a partially written file is removed. By then, the process that wrote the file
was probably killed."""

_not_stored: ContextVar[set[Path] | None] = ContextVar("not_stored", default=None)
"""Within `read_only_caches`, the cache folders in which a result would have been stored; None elsewhere."""


@contextmanager
def read_only_caches() -> Iterator[None]:
    """Make all caches read-only within a `with` block.

    Commands that load a trained run, such as `nope-splat report`, take the path of the cache folder from a
    `config.yml`, which another person may have written. These commands use this function, so that they do
    not write to a folder that the user did not choose.

    Yields:
        Nothing. At the end of the block, the folders that lacked a result are logged.
    """
    token = _not_stored.set(set())
    try:
        yield
    finally:
        folders = _not_stored.get() or ()
        _not_stored.reset(token)
        for folder in sorted(folders):
            logger.info(
                f"Results that were missing in {folder} have been computed, but are not stored there, because"
                " only training runs write to a cache."
            )


@lru_cache(maxsize=1)
def temporary_cache() -> Cache:
    """Return the cache in a temporary folder, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="nope-splat-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Cache(Path(folder))


@dataclass(frozen=True)
class Cache:
    """Cache folder with one npz file or subfolder per result; npz files contain no pickled objects.

    Each result is written under a temporary name and then renamed, so processes that share the folder never
    read a partially written result. Each stage keeps its `MAX_ENTRIES_PER_STAGE` most recently used results.
    """

    folder: Path
    """Folder of the results; created when the first result is stored."""

    def load(self, name: str, key: str, decode: Callable[[dict[str, NDArray[Any]]], T]) -> T | None:
        """Load the result of a stage.

        Args:
            name: Name of the stage.
            key: Hash of the images and settings that the result depends on (see `content_key`).
            decode: Function that converts the stored arrays, by name, to the result. If it raises an
                exception, the file is considered damaged.

        Returns:
            The result; None if no file is stored for this key. If the file is damaged or contains another
            key, a warning is logged and the result is None.
        """
        path = self._path(name, key)
        try:
            # numpy would leave a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {entry: stored[entry] for entry in stored.files}
            if arrays.pop(KEY_ENTRY).item() != key:
                raise ValueError("it belongs to other photos or settings")
            result = decode(arrays)
            if _not_stored.get() is None:
                with suppress(OSError):  # the folder may be read-only
                    path.touch()
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged archive can raise many types of exceptions
            logger.warning(f"The cached file {path} is damaged and will be recomputed ({error}).")
            return None
        return result

    def store(self, name: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store the result of a stage, replacing an earlier result with the same name and key.

        Within `read_only_caches`, nothing is stored.

        Args:
            name: Name of the stage.
            key: Hash of the images and settings that the result depends on (see `content_key`).
            arrays: Arrays of numbers, booleans or strings, by name.

        Raises:
            TypeError: If an array holds Python objects.
            NopeSplatError: If the folder is not writable, for example because the disk is full.
        """
        if any(array.dtype.hasobject for array in arrays.values()):
            raise TypeError("Python objects would need pickle, which the cache does not use")
        if (not_stored := _not_stored.get()) is not None:
            not_stored.add(self.folder)
            return
        path = self._path(name, key)
        with self._writing():
            handle, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".partial", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    _write_arrays(file, {KEY_ENTRY: np.array(key), **arrays})
                os.replace(temporary, path)
                self._prune(f"{name}-*.npz", MAX_ENTRIES_PER_STAGE)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def subfolder(
        self, name: str, key: str, write: Callable[[Path], None], num_kept: int = MAX_ENTRIES_PER_STAGE
    ) -> Path:
        """Return the folder with the files of a stage; write the files if they are not stored yet.

        Within `read_only_caches`, files that are not stored are written to the temporary cache. The name of
        the folder begins with a dot, so that its images are not taken for photos if the cache is in a photo
        folder.

        Args:
            name: Name of the stage.
            key: Hash of everything that the files depend on.
            write: Function that writes the files to a given empty folder.
            num_kept: Number of most recently used folders of the stage that are kept.

        Raises:
            NopeSplatError: If the folder is not writable, for example because the disk is full.
        """
        path = self.folder / f".{name}-{key[:16]}"
        not_stored = _not_stored.get()
        if path.is_dir():
            if not_stored is None:
                with suppress(OSError):  # the folder may be read-only
                    os.utime(path)
            return path
        if not_stored is not None and self != temporary_cache():
            not_stored.add(self.folder)
            return temporary_cache().subfolder(name, key, write, num_kept)
        with self._writing():
            partial = Path(tempfile.mkdtemp(prefix=path.name, suffix=".partial", dir=self.folder))
            try:
                write(partial)
                partial.rename(path)
            except OSError:
                if not path.is_dir():  # if it is, another process has written it meanwhile
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self._prune(f".{name}-*", num_kept)
        return path

    def remove(self, name: str, key: str) -> None:
        """Remove the result of a stage, if it exists. Within `read_only_caches`, nothing is removed.

        Args:
            name: Name of the stage.
            key: Key under which the result was stored.
        """
        if _not_stored.get() is None:
            with suppress(OSError):
                self._path(name, key).unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Create the cache folder, and convert write errors within a `with` block to a `NopeSplatError`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise NopeSplatError(
                "unwritable-output",
                f"cannot write to {self.folder} ({error.strerror or error}); free some disk space or choose"
                " another output folder",
            ) from error

    def _prune(self, pattern: str, num_kept: int) -> None:
        """Remove the least recently used results of a stage, and old partial results.

        Args:
            pattern: Pattern of the names of the results.
            num_kept: Number of most recently used results that are kept.
        """
        results = [path for path in self.folder.glob(pattern) if path.suffix != ".partial"]
        stale = [path for path in self.folder.glob("*.partial") if _age(path) > MAX_PARTIAL_FILE_AGE]
        for path in [*sorted(results, key=_age)[num_kept:], *stale]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _path(self, name: str, key: str) -> Path:
        """Return the path of the npz file of a result."""
        return self.folder / f"{name}-{key[:16]}.npz"


def _write_arrays(file: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an npz file without pickle.

    Unlike `numpy.savez` before numpy 2, this function closes the archive even if the disk is full.
    """
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _age(path: Path) -> float:
    """Return the time since a file was last stored or loaded, in seconds; infinity if it no longer exists."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
