"""The checkpoints of a run: which is the last one, whether it is whole, and what it holds."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nope_splat.errors import NopeSplatError

logger = logging.getLogger(__name__)


def find_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, whole or not, the last one first.

    Args:
        folder: The `nerfstudio_models` of the run.
    """
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def step_of(checkpoint: Path) -> int:
    """The iteration after which a checkpoint was saved, by its name.

    Args:
        checkpoint: The file, `step-000000499.ckpt`.
    """
    return int(checkpoint.stem.removeprefix("step-"))


def is_whole(checkpoint: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written.

    Args:
        checkpoint: The file: a zip archive, with a checksum of each of its parts.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of a run that is whole; those after it are named.

    Args:
        folder: The `nerfstudio_models` of the run.

    Returns:
        The file, or None if there is none.
    """
    for checkpoint in find_checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint
        logger.warning(f"The checkpoint {checkpoint} is damaged and not used.")
    return None


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that nerfstudio would load from a folder, which it does not check.

    Args:
        folder: The `nerfstudio_models` of a run.

    Returns:
        The file.

    Raises:
        NopeSplatError: If there is none, or it is damaged.
    """
    found = find_checkpoints(folder)
    if not found:
        raise NopeSplatError(
            "missing-file", f"there is no checkpoint in {folder}; let the training run until it saves one"
        )
    if not is_whole(found[0]):
        raise NopeSplatError(
            "damaged-checkpoint",
            f"the checkpoint {found[0]} is damaged; remove it, and train anew or from another",
        )
    return found[0]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; no code in it is run.

    Args:
        path: The file.

    Returns:
        Tensors and plain containers, as `NopeTrainer.save_checkpoint` arranges them.

    Raises:
        NopeSplatError: If there is no such file, or it holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever its bytes lead to
        reason = str(error).partition("\n")[0]
        raise NopeSplatError(
            "damaged-checkpoint", f"cannot load the checkpoint {path} ({reason}); train anew or from another"
        ) from error


@contextmanager
def fitting() -> Iterator[None]:
    """Tell in one sentence where the state of a checkpoint is not that of what it is loaded into.

    Raises:
        NopeSplatError: Instead of what torch raises where something is missing or of another shape.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise NopeSplatError(
            "checkpoint-mismatch",
            f"the checkpoint does not fit this version or these settings ({reason[:200]}); use those that it"
            " was made with, or train anew (--resume never)",
        ) from error


def require_same_names(saved: Iterable[str], mine: Iterable[str]) -> None:
    """Check that a state has every part that it is loaded into, and no other: nerfstudio passes over them.

    Args:
        saved: Names in the checkpoint.
        mine: Names at hand.

    Raises:
        ValueError: If they differ.
    """
    saved, mine = set(saved), set(mine)
    for name in sorted(mine ^ saved):
        raise ValueError(f"it has {'no' if name in mine else 'an unknown'} {name}")
