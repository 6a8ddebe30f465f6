"""Replace files atomically; open regular files without waiting for pipes, and hash them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class NotAFileError(OSError):
    """Error for a path that is a pipe, a device or another special file instead of a regular file."""


@contextmanager
def replacing(path: Path, partial: Path) -> Iterator[BinaryIO]:
    """Replace a file atomically: write a temporary file, flush it to the disk, and rename it.

    After an error, a killed process or a power loss, `path` is either unchanged or complete.

    Args:
        path: The file to create or replace.
        partial: Path of the temporary file, on the same file system. The file is removed if the `with` block
            raises an exception.

    Yields:
        The temporary file, open for writing in binary mode.
    """
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            # Without fsync, a file system may write the new name to the disk before the content.
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to the disk, so that a rename survives a power loss.

    Args:
        folder: The folder of the renamed file.
    """
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # unsupported by some network file systems
            raise
    finally:
        os.close(descriptor)


def find_os_error(error: BaseException | None) -> OSError | None:
    """Find the first `OSError` in the chain of causes and contexts of an exception.

    When the disk is full, some libraries raise an exception of another type while they close the file.

    Args:
        error: The exception; None is allowed.

    Returns:
        The exception itself if it is an `OSError`, else the first `OSError` among its causes and contexts;
        None if there is no such error.
    """
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; raise an error for pipes and devices instead of waiting for data.

    Args:
        path: The file.

    Returns:
        The open file, in binary mode.

    Raises:
        OSError: If the file cannot be opened.
        NotAFileError: If the path is not a regular file.
    """

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=open_at_once)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotAFileError(errno.EINVAL, "not a file", str(path))
    return file


def sha256(path: Path) -> str:
    """Compute the SHA-256 hash of a regular file, in hexadecimal digits.

    Args:
        path: The file.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
