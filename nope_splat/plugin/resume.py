"""Trainings that were interrupted: which one a command goes on with, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from nope_splat.plugin.checkpoints import find_checkpoints, step_of

OF_THE_START = ("timestamp:", "resume:")
"""What a configuration says about the start of a run, not about the training."""


def find_unfinished(runs: Iterable[Path], settings: str, length: int) -> Path | None:
    """The last training of the same settings, if it can go on.

    Settings are compared as text: no object is made of what a file says. Where the last training has come to
    its end, those before it stay as they are: whoever trains a second time wants a second training.

    Args:
        runs: Folders of the runs to choose from.
        settings: The configuration of the training to begin, as it would be saved.
        length: Number of its iterations.

    Returns:
        The folder of the run, or None if the last training is finished or goes on right now, or there is none
        that came to its first checkpoint.
    """
    last, last_saved = None, 0.0
    for run in runs:
        checkpoints, config = find_checkpoints(run / "nerfstudio_models"), run / "config.yml"
        if not checkpoints or not config.is_file():
            continue
        saved = checkpoints[0].stat().st_mtime
        if saved < config.stat().st_mtime:  # of an older training in a folder of the same name
            continue
        if saved > last_saved and _settings(config.read_text("utf8", "replace")) == _settings(settings):
            last, last_saved = checkpoints[0], saved
    if last is None or step_of(last) + 1 >= length:
        return None
    run = last.parent.parent
    try:
        own(run).release()
    except Timeout:
        return None
    return run


def own(run: Path) -> FileLock:
    """Keep other processes from training in the folder of a run, as long as this one lives or until released.

    Args:
        run: The folder.

    Returns:
        The lock, which is acquired unless the file system knows no locks.

    Raises:
        Timeout: If another process trains there.
    """
    lock = FileLock(run / "training.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # where no file can be made, more than this will fail
        pass
    return lock


def _settings(configuration: str) -> list[str]:
    return [line for line in configuration.splitlines() if not line.startswith(OF_THE_START)]
