"""Stages of a benchmark: commands whose results are kept, so that an interrupted run can continue."""

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
"""Program that runs a command and records its peak memory in kilobytes. It runs in a small separate process,
because Linux counts the memory of a parent process toward its child."""


class StageFailed(Exception):
    """A stage's command failed. The message contains the end of the command's output."""


@dataclass(frozen=True)
class Stage:
    """Time and memory of a command that has succeeded."""

    seconds: float
    """Wall time in seconds, including the start of the process."""
    peak_gib: float
    """Peak memory in GiB."""


def run_stage(
    command: list[str],
    folder: Path,
    after: Sequence[Stage] = (),
    core: int | None = None,
    root: Path = ROOT,
) -> Stage:
    """Run a command that writes its results into a folder, unless the results already exist.

    Results are reused if the same command has succeeded in this folder on results of the same earlier stages.

    Args:
        command: Program and its arguments. The program is taken from the folder of the Python interpreter.
        folder: Output folder, cleared before the command runs. The output of the command is written to
            `log.txt`, time and memory to `stage.json`.
        after: Stages whose results the command reads. If one of them runs again, the command also runs again.
        core: Index, among the cores of this process, of the only core to run on; None for all cores.
        root: Checkout of the repository from which the command imports.

    Returns:
        Time and memory of the run, or of the earlier run whose result is reused.

    Raises:
        StageFailed: If the command fails.
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
    """Return the command that runs the module `name` of this package."""
    return ["python", "-m", f"scripts.benchmark.{name}"]


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def cores() -> list[int]:
    """Return the indices of the cores that this process may use, ascending."""
    return sorted(os.sched_getaffinity(0))


def _environment(core: int | None, root: Path) -> dict[str, str]:
    single = {} if core is None else {"OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(root), *filter(None, [os.getenv("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", **single}
