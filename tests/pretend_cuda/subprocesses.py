"""Commands and tests in subprocesses with the pretend GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
TIMEOUT = 600


def environment(*folders: Path) -> dict[str, str]:
    """Get the environment variables of a subprocess.

    Args:
        folders: Folders to prepend to PYTHONPATH.
    """
    path = os.pathsep.join(
        map(str, (*folders, TESTS, TESTS.parent, *filter(None, [os.getenv("PYTHONPATH")])))
    )
    settings = {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return os.environ | settings


def command_line(*arguments: object) -> list[str]:
    """Get the command line that runs commands on the device.

    Args:
        arguments: Arguments of `launcher`.
    """
    return [sys.executable, "-m", "pretend_cuda", *map(str, arguments)]


def run(*arguments: object, cwd: Path, fails: bool = False) -> str:
    """Run commands on the device.

    Args:
        arguments: Arguments of `launcher`.
        cwd: Working directory.
        fails: Whether a nonzero exit status is expected.

    Returns:
        Output of the commands.
    """
    process = subprocess.run(
        command_line(*arguments),
        cwd=cwd,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
    )
    assert (process.returncode != 0) == fails, process.stdout[-5000:]
    return process.stdout


def run_tests(*arguments: object, first_on_path: Path | None = None) -> dict[str, int]:
    """Run tests on the device, including those marked `gpu`.

    Args:
        arguments: Files, relative to `tests/`, and options of pytest.
        first_on_path: Folder whose modules override installed ones.

    Returns:
        Number of tests per outcome, such as `passed` or `skipped`.
    """
    options = ["-p", "pretend_cuda.plugin", "-m", "not slow", "-q", "-rs", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, arguments)],
        cwd=TESTS,
        env=environment(*filter(None, [first_on_path])),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
    )
    assert process.returncode == 0, process.stdout[-8000:]
    return {
        outcome: int(count) for count, outcome in re.findall(r"(\d+) (\w+)", process.stdout.splitlines()[-1])
    }
