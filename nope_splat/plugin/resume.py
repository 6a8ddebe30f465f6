"""Find the earlier run to resume, log why other runs are not resumed, and lock the folder of a run.

Each training run has its own folder. All runs of an experiment have the same parent folder. A run is resumed
if its settings and photos are the same as those of the new training run (see `run_record`).
"""

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
"""Maximum number of unfinished runs that are logged individually, latest first."""
_reserved: dict[Path, FileLock] = {}
"""Locks by absolute path of the run's folder. `reserve_run` adds a lock, and `take_lock` removes it."""


@dataclass(frozen=True)
class CheckpointOrigin:
    """Identity of the training run that saved a checkpoint."""

    training_id: str | None
    """`RunRecord.id` of the training run; None if unknown."""
    held_out: list[str]
    """Names of the photos that were held out in the training run."""


@dataclass(frozen=True)
class SavedRun:
    """Folder of an earlier run, with its record and checkpoints."""

    path: Path
    """The run's folder."""
    record: RunRecord | None
    """Settings and photos of the run; None if its record is missing or damaged."""

    @classmethod
    def read(cls, path: Path) -> SavedRun | None:
        """Read the folder of a run.

        Args:
            path: A file or folder.

        Returns:
            The run; None if `path` is not the folder of a run.
        """
        record = RunRecord.read(path)
        return cls(path, record) if record or os.path.isfile(path / "config.yml") else None

    @cached_property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files of the run, intact or damaged, latest first."""
        return find_checkpoints(self.path / "nerfstudio_models")

    @cached_property
    def iterations_and_origin(self) -> tuple[int, CheckpointOrigin]:
        """Number of iterations in the latest loadable checkpoint, and the identity of its training run.

        The number is 0 if no checkpoint can be loaded.
        """
        for checkpoint in self.checkpoints:
            try:
                state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
                held_out = [str(name) for name in state.get("continuation", {}).get("held_out", [])]
                return checkpoint_step(checkpoint) + 1, CheckpointOrigin(state.get("training_id"), held_out)
            except Exception:  # a damaged file can raise any exception; the trainer reports it
                continue
        return 0, CheckpointOrigin(None, [])

    @property
    def num_iterations(self) -> int:
        """Number of iterations in the latest loadable checkpoint; 0 if there is none."""
        return self.iterations_and_origin[0]

    @property
    def max_num_iterations(self) -> int:
        """Number of iterations after which the training run is complete; 0 if unknown."""
        if self.record is not None:
            return self.record.max_num_iterations
        try:
            text = (self.path / "config.yml").read_text("utf8", "replace")
        except OSError:
            return 0
        match = re.search(r"^max_num_iterations: (\d+)$", text, re.MULTILINE)
        return int(match[1]) if match else 0

    @property
    def is_complete(self) -> bool:
        """Whether the latest checkpoint contains all iterations of the training run."""
        return 0 < self.max_num_iterations <= self.num_iterations

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Sort key, latest run last: `RunRecord.number` (0 if unknown), iterations done, and folder name."""
        return self.record.number if self.record else 0, self.num_iterations, self.path.name

    def difference(self, record: RunRecord) -> str | None:
        """Describe the first difference between this run and a training run that is about to start.

        Photos are compared only if the run has a loadable checkpoint.

        Args:
            record: Settings and photos of the training run that is about to start.

        Returns:
            Sentence without period; None if there is no difference.
        """
        if self.record is None:
            return f"its {RECORD_FILE} is missing, damaged or from another version"
        if (setting := record.different_setting(self.record)) is not None:
            return setting
        if not self.num_iterations:  # nothing was trained on the photos
            return None
        origin = self.iterations_and_origin[1]
        if origin.training_id != self.record.id:
            return "its checkpoint belongs to another training run"
        return record.different_photo(self.record, origin.held_out)


def find_resumable_run(runs: Iterable[SavedRun], record: RunRecord) -> SavedRun | None:
    """Find the earlier run to resume for given settings and photos, and reserve its folder.

    Only runs with the same settings and photos are considered:

    - If none of them has a checkpoint, the latest run is chosen.
    - If the latest run with a checkpoint is incomplete, this run is chosen.
    - If the latest run with a checkpoint is complete, the user has repeated the command to train once more.
      The latest run without a checkpoint is chosen, provided that it was started after the complete run.

    Args:
        runs: Runs that may be resumed.
        record: Settings and photos of the training run that is about to start.

    Returns:
        The run. None if no run is chosen, or if another process is training in the folder of the chosen run.
    """
    same = sorted((run for run in runs if run.difference(record) is None), key=lambda run: run.sort_key)
    latest = max((run for run in same if run.num_iterations), key=lambda run: run.sort_key, default=None)
    if latest is None or latest.is_complete:
        not_begun = [
            run
            for run in same
            if not run.num_iterations and (latest is None or run.sort_key > latest.sort_key)
        ]
        latest = not_begun[-1] if not_begun else None
    if latest is None:
        return None
    try:
        reserve_run(latest.path)
    except NopeSplatError:
        return None
    return latest


def log_unfinished_runs(runs: Iterable[SavedRun], record: RunRecord, reason: str) -> None:
    """Log a warning for each unfinished run, with the reason why this run is not resumed.

    Only the latest `MAX_NAMED_RUNS` runs are logged individually; the others are counted.

    Args:
        runs: Runs that are not resumed. Complete runs and runs without a checkpoint are not logged.
        record: Settings and photos of the training run that is about to start.
        reason: Reason to log for runs that have the same settings and photos, and in whose folder no other
            process is training.
    """
    unfinished = [run for run in runs if run.num_iterations and not run.is_complete]
    unfinished.sort(key=lambda run: run.sort_key, reverse=True)
    for run in unfinished[:MAX_NAMED_RUNS]:
        why = run.difference(record)
        if why is None:
            why = "another process is training in this folder" if _is_locked(run.path) else reason
        logger.warning(
            f"The unfinished training run in {run.path} ({run.num_iterations} iterations) is not resumed:"
            f" {why}."
        )
    if len(unfinished) > MAX_NAMED_RUNS:
        logger.warning(f"{len(unfinished) - MAX_NAMED_RUNS} other unfinished training runs are not resumed.")


def choose_run(config: TrainerConfig, resume: str) -> SavedRun | None:
    """Choose the earlier run to resume, reserve its folder, and log why other runs are not resumed.

    Args:
        config: Configuration of the training run that is about to start. If the option `timestamp` names an
            earlier run, only that run can be resumed.
        resume: Value of the option `resume`, "auto" or "never".

    Returns:
        The run to resume; None to start a new run.
    """
    folder, data = config.get_base_dir(), config.pipeline.datamanager.data
    runs = read_runs(folder.parent)
    if not runs or data is None or not data.exists():
        return None
    record = RunRecord.from_config(config, data)
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
        logger.info(f"Reusing the folder {resumed.path} of an earlier run that saved no checkpoint.")
    if is_named and resumed is None and any(run.num_iterations for run in candidates):
        logger.warning(
            f"An earlier run has the same --timestamp: its checkpoints in {folder} will be replaced. To keep"
            " them, stop now and choose another --timestamp."
        )
    return resumed


def start_run(config: TrainerConfig, resumes: bool) -> None:
    """Lock the folder of a run, and write its record and `config.yml`.

    Args:
        config: Configuration of the training run.
        resumes: Whether the training run resumes an earlier training run in the same folder. If True, the
            record of the earlier training run is kept.

    Raises:
        NopeSplatError: If another process is training in the folder; in this case nothing is written.
        OSError: If the folder cannot be written.
    """
    run, data = config.get_base_dir(), config.pipeline.datamanager.data
    assert data is not None
    reserve_run(run)
    run.mkdir(parents=True, exist_ok=True)
    record = RunRecord.read(run) if resumes else None
    # `load_dir` is the run's own folder if the run is resumed, and must not be saved in its configuration.
    saved = replace(config, load_dir=None) if record and record.settings.get("load_dir") == "None" else config
    record = record or RunRecord.from_config(config, data)
    numbers = [other.record.number for other in read_runs(run.parent) if other.record is not None]
    record.with_number(1 + max(numbers, default=0)).write(run)
    with replacing(run / "config.yml", run / "config.yml.partial") as file:
        file.write(yaml.dump(saved).encode())


def read_runs(experiment: Path) -> list[SavedRun]:
    """Read all runs of an experiment.

    Args:
        experiment: Folder that contains the folders of the runs.

    Returns:
        The runs, sorted by folder name.
    """
    return [run for path in sorted(experiment.glob("*")) if (run := SavedRun.read(path)) is not None]


def reserve_run(run: Path) -> None:
    """Lock a run's folder, and keep the lock until the trainer of the run takes it with `take_lock`.

    Args:
        run: The run's folder.

    Raises:
        NopeSplatError: If another process is training in the folder.
    """
    if run.absolute() not in _reserved:
        _reserved[run.absolute()] = take_lock(run)


def release_reserved() -> None:
    """Release the locks from `reserve_run` that no trainer has taken."""
    while _reserved:
        _reserved.popitem()[1].release()


def take_lock(run: Path) -> FileLock:
    """Take the lock of a run's folder: the lock from `reserve_run` if it exists, else a new lock.

    Args:
        run: The run's folder.

    Returns:
        The lock, which the caller has to release.

    Raises:
        NopeSplatError: If another process is training in the folder.
    """
    try:
        return _reserved.pop(run.absolute(), None) or lock_run(run)
    except Timeout as error:
        raise NopeSplatError(
            "run-in-use",
            f"another process is training in {run}; wait until it finishes, or pass another --timestamp",
        ) from error


def lock_run(run: Path) -> FileLock:
    """Lock a run's folder, so that other processes do not train in it.

    Args:
        run: The run's folder.

    Returns:
        The lock, which is held until it is released or this process ends. If the folder is not writable or
        the file system does not support locks, the result is a lock that is not held.

    Raises:
        Timeout: If another process is training in the folder.
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
    """Check whether another process is training in a run's folder."""
    if run.absolute() in _reserved:
        return False
    try:
        lock_run(run).release()
    except Timeout:
        return True
    return False
