"""Run commands one after another with time limits; record failures without stopping."""

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
"""Results of the steps so far, by name."""
Status = Literal["passed", "failed", "skipped", "not run"]

TAIL_LINES = 20
"""Number of log lines to keep of a failed step."""


@dataclass(frozen=True)
class Step:
    """A command that writes a JSON file."""

    name: str
    """Name of the step and of its folder."""
    command: Callable[[Results], list[str]]
    """Function from the results of earlier steps to the command line."""
    time_limit: float
    """Seconds after which the command is killed."""
    needs: tuple[str, ...] = ()
    """Steps that must pass first."""
    in_budget: bool = True
    """Whether the seconds of the step count toward the overall time limit."""
    skip: str | None = None
    """Reason for skipping the step; None to run it."""


@dataclass
class Outcome:
    """Outcome of a step."""

    status: Status
    """A "skipped" step does not apply, and counts as passed for later steps; "not run" is a failure."""
    seconds: float = 0.0
    """Wall time."""
    reason: str = ""
    """Reason for the failure, in one sentence."""
    log_tail: list[str] = field(default_factory=list)
    """Last log lines of a failed step."""
    result: dict[str, Any] = field(default_factory=dict)
    """Result that the step wrote."""


@dataclass(frozen=True)
class Runner:
    """Runner of steps in a work folder."""

    work_dir: Path
    """Work folder; each step has a subfolder with `log.txt`, `result.json` and `outcome.json`."""
    environment: Callable[[Results], Mapping[str, str]]
    """Function from the results of earlier steps to the environment variables of a step."""
    time_limit: float
    """Time limit, in seconds, for all steps that count toward it."""
    chosen: frozenset[str] | None = None
    """Names of the steps to run, None for all; others keep the outcome of an earlier run."""
    report: Callable[[dict[str, Outcome]], None] = lambda outcomes: None
    """Callback after every step, with the outcomes so far."""

    def run(self, steps: Sequence[Step]) -> dict[str, Outcome]:
        """Run the steps in order; failures of steps do not raise.

        Args:
            steps: Steps to run; a step comes after those that it needs.

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

    def _run(self, step: Step, outcomes: dict[str, Outcome], seconds_left: float) -> Outcome:
        if step.skip is not None:
            return Outcome("skipped", reason=step.skip)
        for name in step.needs:
            if outcomes[name].status not in ("passed", "skipped"):
                return Outcome("not run", reason=f"it needs {name}, which has not passed")
        if step.in_budget and seconds_left < 1:
            return Outcome("not run", reason=f"the {self.time_limit:.0f} s for all steps are spent")
        limit = min(step.time_limit, seconds_left) if step.in_budget else step.time_limit
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
    """Determine the outcome of a command from its exit status (None at the time limit) and its result."""
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
    """Run a command with its output in a file; at the time limit, kill it with all its child processes.

    Args:
        command: Command line.
        log: File for the output.
        environment: All environment variables.
        limit: Time limit in seconds.

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
