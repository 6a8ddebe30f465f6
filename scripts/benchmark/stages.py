"""Run the commands of a benchmark and keep their results, so that an interrupted run can continue."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LAUNCHER = """
import os, resource, subprocess, sys
peak, core, *command = sys.argv[1:]
if core:
    os.sched_setaffinity(0, {int(core)})
status = subprocess.call(command)
with open(peak, "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status if status >= 0 else 128 - status)
"""
"""Run a command and record its peak memory in kilobytes. A small separate process is needed, since
Linux counts the memory of the parent process toward its child."""


class StageFailed(Exception):
    """A command failed; the message holds the end of its output."""


@dataclass(frozen=True)
class Stage:
    """Time and memory of a command."""

    seconds: float
    """Wall time, including the start of the process."""
    peak_gib: float
    """Peak memory."""


def run_stage(
    command: list[str],
    folder: Path,
    after: Sequence[Stage] = (),
    core: int | None = None,
    root: Path = ROOT,
) -> Stage:
    """Run a command that writes into a folder, unless it has succeeded there before on the same inputs.

    Args:
        command: The command; a program without a folder is taken from the folder of the Python interpreter.
        folder: Cleared first; receives the output of the command as `log.txt`, and time and
            memory as `stage.json`.
        after: Stages whose results the command reads; the command runs again after any of them does.
        core: Index of the single core to run on, among those available to this process; None for all.
        root: Checkout that the command imports from.

    Returns:
        Time and memory of the run, or of the earlier run whose result is reused.

    Raises:
        StageFailed: The command failed.
    """
    record = folder / "stage.json"
    key = {"command": command, "after": [asdict(stage) for stage in after]}
    key |= {} if root == ROOT else {"root": str(root)}
    if record.exists():
        stored = json.loads(record.read_text())
        if stored["key"] == key:
            return Stage(**stored["stage"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start, peak = time.perf_counter(), folder / "peak.txt"
    with (folder / "log.txt").open("w") as log:
        arguments = [str(peak), "" if core is None else str(cores()[core]), _tool(command[0]), *command[1:]]
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, *arguments]
        process = subprocess.run(launch, stdout=log, stderr=subprocess.STDOUT, env=_environment(core, root))
    if process.returncode:
        tail = "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-15:])
        raise StageFailed(f"{' '.join(command)} failed; the end of {folder / 'log.txt'}:\n{tail}")
    stage = Stage(time.perf_counter() - start, int(peak.read_text()) / 2**20)
    record.write_text(json.dumps({"key": key, "stage": asdict(stage)}))
    return stage


def script(name: str) -> list[str]:
    """Return the command that runs a module of this package."""
    return ["python", "-m", f"scripts.benchmark.{name}"]


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def _environment(core: int | None, root: Path) -> dict[str, str]:
    single = {} if core is None else {"OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(root), *filter(None, [os.getenv("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", **single}
