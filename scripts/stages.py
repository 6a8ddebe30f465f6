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
    start = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [_tool(command[0]), *command[1:]], stdout=log, stderr=subprocess.STDOUT, env=_environment(core)
        )
        if core is not None:
            os.sched_setaffinity(process.pid, {cores()[core]})
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        tail = "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-15:])
        raise StageFailed(f"{' '.join(command)} failed; the end of {folder / 'log.txt'}:\n{tail}")
    stage = Stage(time.perf_counter() - start, usage.ru_maxrss / 2**20)
    record.write_text(json.dumps({"key": key, "stage": asdict(stage)}))
    return stage


def script(name: str) -> list[str]:
    """The command of a script beside this one."""
    return ["python", str(Path(__file__).with_name(name))]


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def _environment(core: int | None) -> dict[str, str]:
    single = {} if core is None else {"OMP_NUM_THREADS": "1"}
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **single}
