"""Replace files safely, and open files that may have turned into something else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class NotAFileError(OSError):
    """A path names a pipe, a device or something else that is not a regular file."""


@contextmanager
def replacing(path: Path, partial: Path) -> Iterator[BinaryIO]:
    """Write a file under another name, and rename it when its content has reached the disk.

    After a failure, a kill or a power loss, `path` is either unchanged or complete.

    Args:
        path: The file to create or replace.
        partial: Name while writing, on the same file system; removed if the block fails.

    Yields:
        The file, open for writing.
    """
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            # File systems may otherwise write the new name to the disk before the content.
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a rename survives a power loss.

    Args:
        folder: The folder.
    """
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def disk_error(error: BaseException | None) -> OSError | None:
    """Find the `OSError` that an exception was raised from, or raised while handling.

    Libraries replace the error of a full disk by their own while they close the file.

    Args:
        error: The exception.

    Returns:
        The first `OSError` of the chain; None if there is none.
    """
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Opening a pipe for reading would wait for its writer.

    Args:
        path: The file.

    Returns:
        The open file.

    Raises:
        OSError: If the file cannot be opened.
        NotAFileError: If it is not a regular file.
    """

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=open_at_once)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotAFileError(errno.EINVAL, "not a file", str(path))
    return file
