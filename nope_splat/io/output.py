"""Write all files of an output folder before replacing any, and replace only files of this package."""

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
"""Name of the JSON file that records, in each output folder, the written files and their fingerprints."""
STAGING = ".nope-splat.partial"
"""Name of the subfolder for files that are not complete yet."""

Fingerprints = dict[str, list[str]]
"""Fingerprints by the path of a file, relative to the output folder. A file has two while it is replaced."""


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
    """Check that files may be replaced: those that exist were written by this package and not changed since.

    Args:
        directory: Output folder, which may not exist.
        names: Paths of the files, relative to `directory`.

    Raises:
        NopeSplatError: If a file exists that this package did not write.
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

    After an error or a killed process before the end of the `with` block, the output folder is unchanged.
    Each output folder contains the file `RECORD`, by which the next export recognizes the files of this one.

    Args:
        directory: Output folder; created if missing.
        obsolete: Paths, relative to `directory`, of files that must not remain beside the new files. They are
            removed unless they are written again.
        remove_others: Whether to remove all files of earlier calls that are not written again and were not
            changed since.

    Yields:
        Empty folder, in which the caller creates files and symbolic links, also in subfolders.

    Raises:
        NopeSplatError: If files cannot be written, or a written or obsolete file exists that this package did
            not write.
    """
    staging = directory / STAGING
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


def _move_files(staging: Path, directory: Path, obsolete: Iterable[str], remove_others: bool) -> None:
    """Move all files from `staging` to `directory`; the arguments are those of `replacing_files`."""
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
    _write_record(directory, {**kept, **written})


def _flush(file: Path) -> None:
    """Flush the content of a file to the disk."""
    if not file.is_symlink():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _remove_empty_folders(directory: Path, name: str) -> None:
    """Remove the folders between `directory` and its removed file `name` that are empty now."""
    with suppress(OSError):  # not empty
        for parent in list(PurePosixPath(name).parents)[:-1]:
            (directory / parent).rmdir()


def _fingerprint(path: Path) -> str:
    """Return the target of a symbolic link, or the SHA-256 hash of a file."""
    return f"link to {os.readlink(path)}" if path.is_symlink() else file_hash(path)


def _is_recorded(directory: Path, name: str, recorded: Mapping[str, list[str]]) -> bool:
    """Check whether a file is recorded and was not changed since.

    Files outside the folder, to which a link to a folder may lead, do not count as recorded.
    """
    path = directory / name
    if name not in recorded or not path.parent.resolve().is_relative_to(directory.resolve()):
        return False
    return (path.is_symlink() or path.is_file()) and _fingerprint(path) in recorded[name]


def _read_record(directory: Path) -> Fingerprints:
    """Read the record of an output folder; empty if it does not exist or is damaged."""
    try:
        files = json.loads((directory / RECORD).read_bytes())["files"]
        return {str(name): [str(value) for value in values] for name, values in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _write_record(directory: Path, files: Mapping[str, list[str]]) -> None:
    """Replace the record of an output folder."""
    content = {"purpose": "files that nope-splat wrote and may replace", "files": files}
    with replacing(directory / RECORD, directory / STAGING / RECORD) as file:
        file.write(json.dumps(content, indent=1).encode())
