"""Run commands with a time limit one after another; failures are recorded and do not stop the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Results = dict[str, dict[str, Any]]
"""What the steps so far wrote, by their names."""
Status = Literal["passed", "failed", "skipped", "not run"]

TAIL_LINES = 20
"""How many of the last lines of a failed step's log are kept."""


@dataclass(frozen=True)
class Step:
    """A command that writes a json file."""

    name: str
    """Name of the step and of its folder."""
    command: Callable[[Results], list[str]]
    """From the results of earlier steps to the command line."""
    time_limit: float
    """Seconds after which the command is killed."""
    needs: tuple[str, ...] = ()
    """Steps that have to pass first."""
    in_budget: bool = True
    """Whether its seconds count toward the time limit of the whole."""
    skip: str | None = None
    """Why the step does not apply here, if it does not."""


@dataclass
class Outcome:
    """What became of a step."""

    status: Status
    """A skipped step does not apply and counts as passed for those that need it; "not run" is a failure."""
    seconds: float = 0.0
    """Wall time."""
    reason: str = ""
    """Why it did not pass, in one sentence."""
    log_tail: list[str] = field(default_factory=list)
    """The last lines of the log of a failed step."""
    result: dict[str, Any] = field(default_factory=dict)
    """What the step wrote."""


@dataclass(frozen=True)
class Runner:
    """Where and how steps run."""

    work_dir: Path
    """Every step gets a folder in here, with its `log.txt`, `result.json` and `outcome.json`."""
    environment: Callable[[Results], Mapping[str, str]]
    """Environment variables of a step, from the results of earlier ones."""
    time_limit: float
    """Seconds that all steps of the budget have together."""
    chosen: frozenset[str] | None = None
    """Steps to run; others keep the outcome of an earlier run in the same folder. None for all."""
    report: Callable[[dict[str, Outcome]], None] = lambda outcomes: None
    """Called after every step with the outcomes so far."""

    def run(self, steps: Sequence[Step]) -> dict[str, Outcome]:
        """Run the steps in order; none raises.

        Args:
            steps: What to run; a step comes after those that it needs.

        Returns:
            The outcome of every step.
        """
        outcomes: dict[str, Outcome] = {}
        spent = 0.0
        for step in steps:
            if self.chosen is not None and step.name not in self.chosen:
                outcomes[step.name] = self._earlier(step)
            else:
                outcomes[step.name] = outcome = self._run(step, outcomes, self.time_limit - spent)
                spent += outcome.seconds if step.in_budget else 0.0
            self.report(outcomes)
        return outcomes

    def _run(self, step: Step, outcomes: dict[str, Outcome], left: float) -> Outcome:
        if step.skip is not None:
            return Outcome("skipped", reason=step.skip)
        for name in step.needs:
            if outcomes[name].status not in ("passed", "skipped"):
                return Outcome("not run", reason=f"it needs {name}, which has not passed")
        if step.in_budget and left < 1:
            return Outcome("not run", reason=f"the {self.time_limit:.0f} s for all steps are spent")
        limit = min(step.time_limit, left) if step.in_budget else step.time_limit
        folder = self.work_dir / step.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        results = {name: outcome.result for name, outcome in outcomes.items()}
        start = time.perf_counter()
        try:
            command, environment = step.command(results), self.environment(results)
            status = run_command(command, folder / "log.txt", environment, limit)
            outcome = _judge(folder, status, limit)
        except Exception as error:  # the next step runs all the same
            outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}")
        outcome.seconds = round(time.perf_counter() - start, 2)
        (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))
        return outcome

    def _earlier(self, step: Step) -> Outcome:
        file = self.work_dir / step.name / "outcome.json"
        if file.exists():
            return Outcome(**json.loads(file.read_text()))
        if step.skip is not None:
            return Outcome("skipped", reason=step.skip)
        return Outcome("not run", reason="it was not chosen, and has no outcome of an earlier run")


def _judge(folder: Path, status: int | None, limit: float) -> Outcome:
    """The outcome of a command, by its exit status (None after the time limit) and what it wrote."""
    file = folder / "result.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    if status == 0 and file.exists():
        return Outcome("passed", result=result)
    if status is None:
        reason = f"it was stopped after its time limit of {limit:.0f} s"
    elif status:
        reason = f"it ended with status {status}"
    else:
        reason = f"it wrote no {file.name}"
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return Outcome("failed", reason=reason, log_tail=lines[-TAIL_LINES:], result=result)


def run_command(command: list[str], log: Path, environment: Mapping[str, str], limit: float) -> int | None:
    """Run a command with its output in a file; at the time limit it is killed with all that it started.

    Args:
        command: The command.
        log: The file.
        environment: All environment variables.
        limit: Seconds.

    Returns:
        The exit status; None if the limit was reached.
    """
    with log.open("w") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
