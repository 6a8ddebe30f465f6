"""Replace the files of an output folder once all new files are written; keep files of other programs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from nope_splat.errors import NopeSplatError
from nope_splat.io.fingerprint import file_hash
from nope_splat.utils.files import replacing, sync_folder

RECORD = ".nope-splat.json"
"""Name of the JSON file in each output folder that lists the written files and their fingerprints."""
STAGING = ".nope-splat.partial"
"""Name of the subfolder for files that are not complete yet."""

Fingerprints = dict[str, list[str]]
"""Fingerprints (see `_fingerprint`) of each file, by the file's path relative to the output folder. A file
has one fingerprint; while the file is being replaced, it has two, for the old and the new content."""


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Convert write errors within a `with` block, such as a full disk, to a `NopeSplatError`.

    Args:
        directory: Folder that the block writes to.

    Yields:
        Nothing.

    Raises:
        NopeSplatError: If the block raises an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise NopeSplatError(
            "unwritable-output",
            f"cannot write to {directory} ({error.strerror or error}); free some space or choose another"
            " folder",
        ) from error


def check_replaceable(directory: Path, names: Iterable[str]) -> None:
    """Check that files may be replaced: they do not exist, or this package wrote them and they are unchanged.

    Args:
        directory: Output folder, which may not exist.
        names: Paths of the files, relative to `directory`.

    Raises:
        NopeSplatError: If a file exists that this package did not write, or that was changed since.
    """
    recorded = _read_record(directory)
    for name in names:
        if os.path.lexists(directory / name) and not _is_recorded(directory, name, recorded):
            raise NopeSplatError(
                "unwritable-output",
                f"{directory / name} was not written by nope-splat, or was changed since; move it to another"
                " folder or choose another output folder",
            )


@contextmanager
def replacing_files(
    directory: Path, obsolete: Iterable[str] = (), remove_others: bool = False
) -> Iterator[Path]:
    """Replace files of an output folder, after all of them have been written to a temporary folder.

    If an error occurs or the process is killed before the end of the `with` block, the existing files are
    unchanged. The file `RECORD` in the output folder lists the written files, which later calls may replace.
    If the folder is empty at the end, it is removed, unless it already existed without the file `RECORD`.

    Args:
        directory: Output folder; created if missing.
        obsolete: Paths, relative to `directory`, of files that must not remain beside the new files. They are
            removed unless they are written again.
        remove_others: Whether to remove all files from earlier calls that are not written again, except files
            that were changed since.

    Yields:
        Empty folder, in which the caller creates files and symbolic links, also in subfolders.

    Raises:
        NopeSplatError: If files cannot be written, or if a file to replace or to remove was not written by
            this package or was changed since.
    """
    staging = directory / STAGING
    is_own = not directory.exists() or bool(_read_record(directory))
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if staging.is_dir():  # from a killed process
            shutil.rmtree(staging)
        staging.mkdir()
        try:
            yield staging
            _move_files(staging, directory, obsolete, remove_others)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if is_own:
                with suppress(OSError):  # not empty
                    directory.rmdir()


def _move_files(staging: Path, directory: Path, obsolete: Iterable[str], remove_others: bool) -> None:
    """Move all files from `staging` to `directory`, and remove old files (see `replacing_files`)."""
    files = sorted(path for path in staging.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(staging).as_posix() for path in files]
    check_replaceable(directory, [*names, *obsolete])
    recorded = _read_record(directory)
    removed = {name for name in obsolete if os.path.lexists(directory / name)}
    if remove_others:
        removed |= {name for name in recorded if _is_recorded(directory, name, recorded)}
    for file in files:
        _flush(file)
    written = {name: [_fingerprint(file)] for name, file in zip(names, files, strict=True)}
    # While files are replaced, old and new ones must be recognized.
    both = {name: [*recorded.get(name, ()), *written.get(name, ())] for name in {**recorded, **written}}
    _write_record(directory, both)
    for name in removed.difference(names):
        (directory / name).unlink()
        _remove_empty_folders(directory, name)
    for name, file in zip(names, files, strict=True):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, directory / name)
    sync_folder(directory)
    kept = {} if remove_others else {name: recorded[name] for name in recorded.keys() - removed}
    if kept or written:
        _write_record(directory, {**kept, **written})
    else:
        (directory / RECORD).unlink()


def _flush(file: Path) -> None:
    """Flush the content of a file to the disk."""
    if not file.is_symlink():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _remove_empty_folders(directory: Path, name: str) -> None:
    """Remove the subfolders of `directory` that became empty when its file `name` was removed."""
    with suppress(OSError):  # not empty
        for parent in list(PurePosixPath(name).parents)[:-1]:
            (directory / parent).rmdir()


def _fingerprint(path: Path) -> str:
    """Return the target of a symbolic link as text, or the SHA-256 hash of another file."""
    return f"link to {os.readlink(path)}" if path.is_symlink() else file_hash(path)


def _is_recorded(directory: Path, name: str, recorded: Mapping[str, list[str]]) -> bool:
    """Check whether a file is in the record of an output folder, and was not changed since.

    If a subfolder is a symbolic link that leads outside `directory`, its files do not count as recorded.
    """
    path = directory / name
    if name not in recorded or not path.parent.resolve().is_relative_to(directory.resolve()):
        return False
    return (path.is_symlink() or path.is_file()) and _fingerprint(path) in recorded[name]


def _read_record(directory: Path) -> Fingerprints:
    """Read the fingerprints in `RECORD` of an output folder; empty if the file is missing or damaged."""
    try:
        files = json.loads((directory / RECORD).read_bytes())["files"]
        return {str(name): [str(value) for value in values] for name, values in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _write_record(directory: Path, files: Mapping[str, list[str]]) -> None:
    """Replace the file `RECORD` of an output folder."""
    content = {"purpose": "files that nope-splat wrote and may replace", "files": files}
    with replacing(directory / RECORD, directory / STAGING / RECORD) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode())
