"""Find a run that can be resumed, say why another cannot, and lock the folder of a run."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import yaml
from filelock import FileLock, Timeout
from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.checkpoints import checkpoint_step, find_checkpoints
from nope_splat.plugin.run_record import RECORD_FILE, RunRecord
from nope_splat.utils.files import replacing

logger = logging.getLogger(__name__)

MAX_NAMED_RUNS = 5
"""Number of unfinished runs that are named, latest first."""
_reserved: dict[Path, FileLock] = {}
"""Locks of this process between the choice of a run's folder and the start of its trainer, by folder."""


@dataclass(frozen=True)
class Origin:
    """The training that has saved a checkpoint."""

    training_id: str | None
    """The `id` of its record."""
    held_out: list[str]
    """Names of the photos that it held out."""


@dataclass(frozen=True)
class SavedRun:
    """What an earlier run has left in its folder."""

    path: Path
    """The run's folder."""
    record: RunRecord | None
    """Settings and photos; None if unknown."""

    @classmethod
    def read(cls, path: Path) -> SavedRun | None:
        """Read the folder of a run.

        Args:
            path: Any file or folder.

        Returns:
            The run; None if this is not the folder of a run.
        """
        record = RunRecord.read(path)
        return cls(path, record) if record or os.path.isfile(path / "config.yml") else None

    @cached_property
    def checkpoints(self) -> list[Path]:
        """Files of all checkpoints, latest first."""
        return find_checkpoints(self.path / "nerfstudio_models")

    @cached_property
    def latest(self) -> tuple[int, Origin]:
        """Iterations and origin of the latest checkpoint that can be loaded; 0 without one."""
        for checkpoint in self.checkpoints:
            try:
                state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
                held_out = [str(name) for name in state.get("continuation", {}).get("held_out", [])]
                return checkpoint_step(checkpoint) + 1, Origin(state.get("training_id"), held_out)
            except Exception:  # a damaged file can raise any exception; the trainer reports it
                continue
        return 0, Origin(None, [])

    @property
    def done(self) -> int:
        """Number of iterations in the latest checkpoint."""
        return self.latest[0]

    @property
    def length(self) -> int:
        """Number of iterations of the whole training; 0 if unknown."""
        if self.record is not None:
            return self.record.length
        try:
            text = (self.path / "config.yml").read_text("utf8", "replace")
        except OSError:
            return 0
        match = re.search(r"^max_num_iterations: (\d+)$", text, re.MULTILINE)
        return int(match[1]) if match else 0

    @property
    def is_complete(self) -> bool:
        """Whether all iterations are done."""
        return 0 < self.length <= self.done

    @property
    def order(self) -> tuple[int, int, str]:
        """Key that sorts runs by their last start; copies of a run by their progress and name."""
        return self.record.number if self.record else 0, self.done, self.path.name

    def difference(self, record: RunRecord) -> str | None:
        """Describe why this is not the training of a record.

        Args:
            record: Settings and photos of a training that is about to start.

        Returns:
            The first difference; None if it is the same training.
        """
        if self.record is None:
            return f"its {RECORD_FILE} is missing, damaged or from another version"
        if (setting := record.different_setting(self.record)) is not None:
            return setting
        if not self.done:  # nothing was trained on the photos
            return None
        origin = self.latest[1]
        if origin.training_id != self.record.id:
            return "its checkpoint is that of another training"
        return record.different_photo(self.record, origin.held_out)


def find_resumable_run(runs: Iterable[SavedRun], record: RunRecord) -> SavedRun | None:
    """Find the latest run of a training, if it can be resumed, and reserve its folder.

    If the latest run is complete, earlier ones are not resumed: a user who repeats a command wants a second
    training. A run without a checkpoint is resumed if no other has one, so that its folder is used.

    Args:
        runs: Candidates.
        record: Settings and photos of the training.

    Returns:
        The run. None if the latest run of this training is complete or still running, or if there is none.
    """
    same = sorted((run for run in runs if run.difference(record) is None), key=lambda run: run.order)
    latest = max((run for run in same if run.done), key=lambda run: run.order, default=None)
    if latest is None or latest.is_complete:
        not_begun = [run for run in same if not run.done and (latest is None or run.order > latest.order)]
        latest = not_begun[-1] if not_begun else None
    if latest is None:
        return None
    try:
        reserve_run(latest.path)
    except NopeSplatError:
        return None
    return latest


def log_unfinished_runs(runs: Iterable[SavedRun], record: RunRecord, reason: str) -> None:
    """Name the unfinished runs of an experiment that are not resumed, with the reasons.

    Args:
        runs: Runs that are not resumed.
        record: Settings and photos of the training that is about to start.
        reason: Reason for runs of the same training that nobody else trains.
    """
    unfinished = [run for run in runs if run.done and not run.is_complete]
    unfinished.sort(key=lambda run: run.order, reverse=True)
    for run in unfinished[:MAX_NAMED_RUNS]:
        why = run.difference(record)
        if why is None:
            why = "another process is training there" if _is_locked(run.path) else reason
        logger.warning(
            f"The unfinished training in {run.path} is not resumed after its {run.done} iterations: {why}."
        )
    if len(unfinished) > MAX_NAMED_RUNS:
        logger.warning(f"{len(unfinished) - MAX_NAMED_RUNS} other unfinished trainings are not resumed.")


def choose_run(config: TrainerConfig, resume: str) -> SavedRun | None:
    """Choose the run that a command resumes, reserve its folder, and name the unfinished runs it leaves.

    Args:
        config: Configuration of the training, with an unnamed or named run.
        resume: The option `resume`.

    Returns:
        The run; None to start a new one.
    """
    folder, data = config.get_base_dir(), config.pipeline.datamanager.data
    runs = read_runs(folder.parent)
    if not runs or data is None or not data.is_dir():
        return None
    record = RunRecord.of(config, data)
    is_named = "{timestamp}" not in folder.name
    candidates = [run for run in runs if run.path == folder] if is_named else runs
    resumed = find_resumable_run(candidates, record) if resume == "auto" else None
    reason = "a later run has the same settings"
    if resume == "never":
        reason = "the option --resume is never"
    elif is_named:
        reason = f"the option --timestamp is {folder.name}"
    log_unfinished_runs([run for run in runs if run is not resumed], record, reason)
    if resumed is not None and not resumed.checkpoints:
        logger.info(f"Training in {resumed.path}, which an earlier run left without a checkpoint.")
    if is_named and resumed is None and any(run.done for run in candidates):
        logger.warning(f"The checkpoints in {folder} will be replaced, because --timestamp names this run.")
    return resumed


def start_run(config: TrainerConfig, resumes: bool) -> None:
    """Lock the folder of a run, then write its record and its configuration.

    Args:
        config: Configuration of the training.
        resumes: Whether it resumes an earlier one in the same folder.

    Raises:
        NopeSplatError: If another process trains in the folder; nothing is written then.
        OSError: If the folder cannot be written.
    """
    run, data = config.get_base_dir(), config.pipeline.datamanager.data
    assert data is not None
    reserve_run(run)
    run.mkdir(parents=True, exist_ok=True)
    record = RunRecord.read(run) if resumes else None
    # The checkpoint that a resumed run loads from its own folder is no part of its configuration.
    saved = replace(config, load_dir=None) if record and record.settings.get("load_dir") == "None" else config
    record = record or RunRecord.of(config, data)
    numbers = [other.record.number for other in read_runs(run.parent) if other.record is not None]
    record.numbered(1 + max(numbers, default=0)).write(run)
    with replacing(run / "config.yml", run / "config.yml.partial") as file:
        file.write(yaml.dump(saved).encode())


def read_runs(experiment: Path) -> list[SavedRun]:
    """Read all runs of an experiment.

    Args:
        experiment: The folder that contains the folders of the runs.
    """
    return [run for path in sorted(experiment.glob("*")) if (run := SavedRun.read(path)) is not None]


def reserve_run(run: Path) -> None:
    """Lock a run's folder until this process ends, or until the trainer of the run releases it.

    Args:
        run: The run's folder.

    Raises:
        NopeSplatError: If another process trains in the folder.
    """
    if run.absolute() not in _reserved:
        _reserved[run.absolute()] = take_lock(run)


def release_reserved() -> None:
    """Release the folders that no trainer has taken."""
    while _reserved:
        _reserved.popitem()[1].release()


def take_lock(run: Path) -> FileLock:
    """Return the lock of a folder that is reserved, or lock it.

    Args:
        run: The run's folder.

    Raises:
        NopeSplatError: If another process trains in the folder.
    """
    try:
        return _reserved.pop(run.absolute(), None) or lock_run(run)
    except Timeout as error:
        raise NopeSplatError(
            "run-in-use",
            f"another process is training in {run}; wait until it finishes, or pass another --timestamp",
        ) from error


def lock_run(run: Path) -> FileLock:
    """Keep other processes from training in a run folder, until the lock is released or this process ends.

    Args:
        run: The run folder.

    Returns:
        The lock. It is acquired, except on a file system without locks.

    Raises:
        Timeout: If another process trains in the folder.
    """
    lock = FileLock(run / "training.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # if the folder is not writable, saving the config reports it
        pass
    return lock


def _is_locked(run: Path) -> bool:
    """Check whether another process trains in a run's folder."""
    if run.absolute() in _reserved:
        return False
    try:
        lock_run(run).release()
    except Timeout:
        return True
    return False
