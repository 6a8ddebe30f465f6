"""Feed randomly damaged files to every reader, which must either read or refuse them.

    python -m scripts.analysis.fuzz_readers --seconds 60

Valid files of a small demo scene are created first, and copies of them are mutated. Every reader runs in a
separate process. A reader refuses a file by raising a `NopeSplatError`. Other exceptions, crashes, exceeded
time limits and exceeded memory limits are failures: their inputs are kept in the output folder, and the exit
status is 1.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.console import Console
from rich.table import Table

from nope_splat.errors import NopeSplatError
from scripts.analysis.fuzz_seeds import Seeds, make_seeds
from scripts.analysis.fuzz_targets import READERS, Reader


@dataclass(frozen=True)
class Settings:
    """Settings of a test of readers with damaged files."""

    seconds: float = 60.0
    """Time for testing each reader, in seconds."""
    readers: tuple[str, ...] = tuple(READERS)
    """Names of the readers to test."""
    seed: int = 0
    """Seed of the random mutations."""
    output_dir: Path = Path("outputs/fuzz_readers")
    """Folder in which the inputs of failures are kept."""
    max_memory: float = 4.0
    """Maximum growth of a process's memory, in GB; larger growth is a failure. An image of the largest
    accepted size takes 1.2 GB."""
    max_seconds: float = 30.0
    """Maximum time for a single input, in seconds; a longer time is a failure."""


@dataclass
class Outcome:
    """Outcome of testing one reader with damaged files."""

    accepted: int = 0
    """Number of damaged inputs that were read without an error."""
    refused: int = 0
    """Number of inputs that were refused with a one-line error message."""
    failures: dict[str, str] = field(default_factory=dict)
    """Traceback or explanation of each distinct failure, by a key of its kind and place."""
    memory: float = 0.0
    """Growth of the process's peak memory during the test, in GB."""
    slowest: float = 0.0
    """Time of the slowest input, in seconds."""


def try_input(reader: Reader, seeds: Seeds, folder: Path, rng: random.Random, outcome: Outcome) -> str | None:
    """Write a damaged input to a folder, and try to read it.

    Args:
        reader: The reader.
        seeds: Valid files.
        folder: Folder for the input; emptied first.
        rng: Random number generator of the mutation.
        outcome: Outcome of the test, updated in place.

    Returns:
        Key of the failure; None without a failure, or if the same failure occurred before.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reader.write(seeds, folder, rng)
    try:
        reader.read(seeds, folder)
    except NopeSplatError as error:
        if "\n" not in str(error):
            outcome.refused += 1
            return None
        key, text = f"a message of several lines: {error.code}", str(error)
    except Exception as error:
        key, text = failure_key(error), traceback.format_exc()
    else:
        outcome.accepted += 1
        return None
    is_new = key not in outcome.failures
    outcome.failures.setdefault(key, text)
    return key if is_new else None


def failure_key(error: Exception) -> str:
    """Describe the kind of an exception, and the last line of this package in its traceback.

    Args:
        error: The exception.

    Returns:
        Text such as "ValueError at images.py:12".
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "nope_splat" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
    return f"{type(error).__name__} at {place}"


def fuzz(reader: Reader, seeds: Seeds, settings: Settings, folder: Path) -> Outcome:
    """Feed damaged files to a reader for the time in the settings.

    Args:
        reader: The reader.
        seeds: Valid files.
        settings: Settings of the test.
        folder: Folder for the inputs.

    Returns:
        The outcome. If the process crashes, there is no return value, and the parent process reports the
        failure.
    """
    outcome, rng = Outcome(), random.Random(settings.seed)
    reader.read(seeds, reader.write_valid(seeds, folder / "valid"))
    before, end = _peak_memory(), time.monotonic() + settings.seconds
    while time.monotonic() < end:
        faulthandler.dump_traceback_later(settings.max_seconds, exit=True)
        start = time.monotonic()
        key = try_input(reader, seeds, folder / "input", rng, outcome)
        outcome.slowest = max(outcome.slowest, time.monotonic() - start)
        outcome.memory = _peak_memory() - before
        if outcome.memory > settings.max_memory:
            key = f"{outcome.memory:.1f} GB of memory"
            outcome.failures[key] = "see the input"
        if key is not None:
            shutil.copytree(folder / "input", folder / key.replace(" ", "_").replace(":", "_"))
        if outcome.memory > settings.max_memory:
            break
    faulthandler.cancel_dump_traceback_later()
    return outcome


def _peak_memory() -> float:
    """Return the peak resident memory of this process in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def _run_child(name: str, seeds: Seeds, settings: Settings, folder: Path, results: Connection) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    CONSOLE.quiet = True
    random.seed(settings.seed)
    outcome = fuzz(READERS[name], seeds, settings, folder)
    results.send(vars(outcome))


def fuzz_in_process(name: str, seeds: Seeds, settings: Settings) -> Outcome:
    """Test a reader in a separate process, which may crash.

    Args:
        name: Name of the reader.
        seeds: Valid files.
        settings: Settings of the test.
    """
    folder = settings.output_dir / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_child, args=(name, seeds, settings, folder, sender))
    process.start()
    sender.close()
    try:
        outcome = Outcome(**receiver.recv())
    except EOFError:
        outcome = Outcome()
    process.join()
    if process.exitcode:
        key = f"exit status {process.exitcode}"
        outcome.failures[key] = "the process ended; see the input"
        shutil.copytree(folder / "input", folder / "last_input", dirs_exist_ok=True)
    shutil.rmtree(folder / "input", ignore_errors=True)
    shutil.rmtree(folder / "valid", ignore_errors=True)
    return outcome


def main(settings: Settings) -> None:
    """Test the readers one after the other, and print a table.

    Args:
        settings: Settings of the test.

    Raises:
        SystemExit: Always; with status 1 if there was a failure, else 0.
    """
    table = Table("reader", "inputs", "refused", "read", "failures", "memory", "slowest")
    outcomes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        for name in settings.readers:
            outcome = fuzz_in_process(name, seeds, settings)
            outcomes[name] = vars(outcome)
            table.add_row(
                name,
                str(outcome.accepted + outcome.refused + len(outcome.failures)),
                str(outcome.refused),
                str(outcome.accepted),
                str(len(outcome.failures)),
                f"{outcome.memory:.2f} GB",
                f"{outcome.slowest:.1f} s",
            )
            for key, text in outcome.failures.items():
                print(f"{name}: {key}\n{text}", file=sys.stderr)
    (settings.output_dir / "outcomes.json").write_text(json.dumps(outcomes, indent=1))
    Console().print(table)
    raise SystemExit(any(outcome["failures"] for outcome in outcomes.values()))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
