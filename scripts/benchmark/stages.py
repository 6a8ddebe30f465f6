"""Stages of the benchmark: commands whose result is kept, so that an interrupted run goes on where it was."""

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
"""Starts a command and writes down its peak memory in kilobytes: a small process, since Linux counts the
memory of the one that starts another as that one's too."""


class StageFailed(Exception):
    """A command ended with an error; the message is the end of what it said."""


@dataclass(frozen=True)
class Stage:
    """What running a command cost."""

    seconds: float
    """Wall time, start of the process included."""
    peak_gib: float
    """Peak memory."""


def run_stage(
    command: list[str], folder: Path, after: Sequence[Stage] = (), core: int | None = None
) -> Stage:
    """Run a command that writes into a folder, unless it has succeeded there before on the same inputs.

    Args:
        command: The command; a name without folders is looked up beside Python's own.
        folder: Emptied first; its `log.txt` gets what the command says, its `stage.json` what it cost.
        after: Stages whose results the command reads: where one of them has run again, so does this one.
        core: Run on one core, the how-manieth of those that this process may use; None for all.

    Returns:
        What it cost, now or then.

    Raises:
        StageFailed: The command failed.
    """
    record = folder / "stage.json"
    key = {"command": command, "after": [asdict(stage) for stage in after]}
    if record.exists():
        stored = json.loads(record.read_text())
        if stored["key"] == key:
            return Stage(**stored["stage"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start, peak = time.perf_counter(), folder / "peak.txt"
    with (folder / "log.txt").open("w") as log:
        words = [str(peak), "" if core is None else str(cores()[core]), _tool(command[0]), *command[1:]]
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, *words]
        process = subprocess.run(launch, stdout=log, stderr=subprocess.STDOUT, env=_environment(core))
    if process.returncode:
        tail = "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-15:])
        raise StageFailed(f"{' '.join(command)} failed; the end of {folder / 'log.txt'}:\n{tail}")
    stage = Stage(time.perf_counter() - start, int(peak.read_text()) / 2**20)
    record.write_text(json.dumps({"key": key, "stage": asdict(stage)}))
    return stage


def script(name: str) -> list[str]:
    """Command that runs a module of this package."""
    return ["python", "-m", f"scripts.benchmark.{name}"]


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def _environment(core: int | None) -> dict[str, str]:
    single = {} if core is None else {"OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", **single}
