"""Find, check, write and load the checkpoints of a training run."""

from __future__ import annotations

import errno
import logging
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.checkpoint_content import require_layout, unreadable_reason
from nope_splat.utils.files import find_os_error, replacing

logger = logging.getLogger(__name__)

DISK_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))
"""Error numbers of a file system that is full, over quota or read-only, or of a file that is too large."""


def find_checkpoints(folder: Path) -> list[Path]:
    """List all checkpoint files of a run, intact or damaged, latest iteration first.

    Args:
        folder: The run's `nerfstudio_models` folder.
    """
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the iteration in the file name of a checkpoint.

    Args:
        checkpoint: A file such as `step-000000499.ckpt`, which gives 499.
    """
    return int(checkpoint.stem.removeprefix("step-"))


def is_intact(checkpoint: Path) -> bool:
    """Check whether a checkpoint file is a complete zip archive with correct CRC checksums.

    Args:
        checkpoint: The checkpoint file.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def last_intact_checkpoint(folder: Path) -> Path | None:
    """Find the latest intact checkpoint of a run.

    For each damaged checkpoint that is newer, a warning is logged.

    Args:
        folder: The run's `nerfstudio_models` folder.

    Returns:
        The checkpoint file; None if no checkpoint is intact.
    """
    for checkpoint in find_checkpoints(folder):
        if is_intact(checkpoint):
            return checkpoint
        logger.warning(f"The checkpoint {checkpoint} is damaged and will not be used.")
    return None


def last_checkpoint(folder: Path) -> Path:
    """Find the latest checkpoint of a run, and check that the file is intact.

    An earlier checkpoint is never returned, because nerfstudio loads the latest one.

    Args:
        folder: The run's `nerfstudio_models` folder.

    Returns:
        The checkpoint file.

    Raises:
        NopeSplatError: If the folder has no checkpoint, or the latest one is damaged.
    """
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        raise NopeSplatError(
            "missing-file", f"there is no checkpoint in {folder}; let training run until it saves one"
        )
    if not is_intact(checkpoints[0]):
        raise NopeSplatError(
            "damaged-checkpoint",
            f"the checkpoint {checkpoints[0]} is damaged; delete it, then load another checkpoint or train"
            " again",
        )
    return checkpoints[0]


def write_checkpoint(state: dict[str, Any], path: Path, run: Path) -> None:
    """Write a checkpoint atomically, so that an error or a power loss never damages earlier checkpoints.

    Args:
        state: Content of the checkpoint: tensors in plain containers.
        path: The checkpoint file; its folder is created if missing.
        run: The run's folder, in which a temporary file is written first. In the folder of `path`, nerfstudio
            would mistake a partial file for a checkpoint.

    Raises:
        NopeSplatError: If the file cannot be written; no partial file remains.
    """
    try:
        if run.is_dir():  # a removed run folder must not be created again without its configuration
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, run / "checkpoint.partial") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        # After a disk error, torch raises a RuntimeError when it closes the file.
        reason = find_os_error(error)
        if reason is None:
            raise
        raise _write_error(reason, run, path.parent) from error


@contextmanager
def writing_to_run(run: Path) -> Iterator[None]:
    """Raise a `NopeSplatError` if the code in a `with` block fails due to a full disk or a removed folder.

    TensorBoard writes files in a separate thread. An `OSError` in that thread is not printed there, because
    TensorBoard raises the same error again in the main thread.

    Args:
        run: The run's folder.

    Yields:
        Nothing.

    Raises:
        NopeSplatError: If the block raises an `OSError` because the run's folder was removed, or because its
            disk is full or read-only. Other exceptions are passed on unchanged.
    """
    before = threading.excepthook

    def print_unexpected(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(args.exc_value, OSError)):
            before(args)

    threading.excepthook = print_unexpected
    try:
        yield
    except OSError as error:
        if run.is_dir() and error.errno not in DISK_ERRNOS:
            raise
        raise _write_error(error, run, run) from error
    finally:
        threading.excepthook = before


def missing_run_error(run: Path) -> NopeSplatError:
    """Create the error for a run whose folder, or a file in the folder, was removed during training.

    Args:
        run: The run's folder.
    """
    return NopeSplatError(
        "missing-file",
        f"files in {run} were removed or renamed during training; run the same command again",
    )


def _write_error(error: OSError, run: Path, folder: Path) -> NopeSplatError:
    """Create the error for a file in `folder` that cannot be written; `run` is the run's folder."""
    if not run.is_dir():
        return missing_run_error(run)
    return NopeSplatError(
        "unwritable-output",
        f"cannot write to {folder} ({error.strerror or error}); free some disk space and run the same command"
        " again, or move the outputs and pass their new folder with --output-dir",
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without executing code from it.

    Args:
        path: The checkpoint file.

    Returns:
        Content of the checkpoint: tensors in plain containers, as written by `NopeTrainer.save_checkpoint`.

    Raises:
        NopeSplatError: If the file is missing, damaged, or not a checkpoint of nope-splat.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any exception
        raise NopeSplatError(
            "damaged-checkpoint",
            f"cannot load the checkpoint {path} ({unreadable_reason(error)}); load another checkpoint or"
            " train again",
        ) from error
    require_layout(state, path)
    return state


@contextmanager
def report_mismatch() -> Iterator[None]:
    """Raise a `NopeSplatError` if the code in a `with` block fails due to an incompatible checkpoint.

    Yields:
        Nothing.

    Raises:
        NopeSplatError: If the block fails because an entry of the checkpoint is missing or has an unexpected
            shape.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise NopeSplatError(
            "checkpoint-mismatch",
            f"the checkpoint does not match this version or the current settings ({reason[:200]}); use the"
            " version and settings it was saved with, or start a new training run with --resume never",
        ) from error


def require_same_names(saved: Iterable[str], expected: Iterable[str]) -> None:
    """Check that a checkpoint has exactly the expected entries; nerfstudio would ignore differences.

    Args:
        saved: Names of the entries in the checkpoint.
        expected: Names of the entries in the object that loads the checkpoint, such as a model.

    Raises:
        ValueError: If a name is only in `saved` or only in `expected`.
    """
    saved, expected = set(saved), set(expected)
    for name in sorted(expected ^ saved):
        raise ValueError(f"it has {'no' if name in expected else 'an unknown'} {name}")
