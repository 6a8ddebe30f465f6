"""Start console scripts such as `ns-train`, as ordinary processes or as forks of a process with all imports.

Importing torch and nerfstudio takes longer than the work of a small test. A fork server (see the start
methods of `multiprocessing`) imports the modules of the scripts once. Each fork starts in the state of an
ordinary process after its imports, and can be killed like one. Two things differ: a fork does not import, and
all forks have the same hash seed.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
from importlib.metadata import entry_points
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

PRELOADED = ["nerfstudio.scripts.train", "nerfstudio.scripts.eval", "nope_splat.cli.export_cameras"]
"""Modules that the fork server imports; they import nearly all other modules that the scripts use."""


class Command(Protocol):
    """Command that has been started."""

    def poll(self) -> int | None:
        """Return the exit status of the command; None while it runs."""
        ...

    def wait(self) -> int:
        """Wait until the command ends, and return its exit status."""
        ...

    def kill(self) -> None:
        """Kill the command with SIGKILL, and wait until it has ended."""
        ...


class Process:
    """Ordinary process of a command.

    Args:
        command: Program and arguments.
        log: File for the output of the command.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file)

    def poll(self) -> int | None:
        """Return the exit status of the process; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait until the process ends, and return its exit status."""
        return self._process.wait()

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait until it has ended."""
        self._process.kill()
        self._process.wait()


class Fork:
    """Console script in a fork of a process with all imports.

    The first fork starts the fork server, which keeps its environment variables and modules.

    Args:
        command: Path of the script, and arguments.
        log: File for the output of the script.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        log.write_bytes(b"")
        self._process = ForkServerProcess(target=run_script, args=(command, log))
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status of the fork; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """Wait until the fork ends, and return its exit status."""
        self._process.join()
        status = self._process.exitcode
        assert status is not None
        return status

    def kill(self) -> None:
        """Kill the fork with SIGKILL, and wait until it has ended."""
        self._process.kill()
        self._process.join()


def run_script(command: list[str], log: Path) -> None:
    """Run a console script in a fork of the fork server, as if it was the main program of the process.

    Args:
        command: Path of the script, and arguments.
        log: File for the output of the script.

    Raises:
        RuntimeError: If the server has not imported the script or has started threads. A fork does not
            inherit the threads, so the script could wait for them forever.
    """
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = command
    (script,) = entry_points(group="console_scripts", name=Path(command[0]).name)
    num_threads = len(os.listdir(f"/proc/{os.getppid()}/task"))
    if script.module not in sys.modules or num_threads != 1:
        raise RuntimeError(f"the fork server has not imported {script.module} or has {num_threads} threads")
    try:
        sys.exit(script.load()())
    finally:
        atexit._run_exitfuncs()  # a fork ends without them
