"""Runner of commands with time limits, one after another. A failed command does not stop the others."""

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
"""Results of earlier steps, by name of the step."""
Status = Literal["passed", "failed", "skipped", "not run"]

TAIL_LINES = 20
"""Number of log lines that are reported for a failed step."""


@dataclass(frozen=True)
class Step:
    """Step of a check: a command that writes its result to a JSON file."""

    name: str
    """Name of the step and of its folder."""
    command: Callable[[Results], list[str]]
    """Function that takes the results of earlier steps and returns the command line."""
    time_limit: float
    """Time limit in seconds, after which the command is killed."""
    needs: tuple[str, ...] = ()
    """Names of the steps that must have passed or been skipped before this step can run."""
    in_budget: bool = True
    """Whether the time of the step counts toward the time limit of all steps together."""
    skip: str | None = None
    """Reason for skipping the step; None to run it."""


@dataclass
class Outcome:
    """Outcome of a step."""

    status: Status
    """Status of the step. A "skipped" step does not apply, and later steps can still run; "not run" counts as
    a failure."""
    seconds: float = 0.0
    """Wall time of the step in seconds."""
    reason: str = ""
    """Reason for a failure or for not running the step, in one sentence; empty if the step passed."""
    log_tail: list[str] = field(default_factory=list)
    """Last log lines of a failed step."""
    result: dict[str, Any] = field(default_factory=dict)
    """Content of the JSON file that the step wrote; empty if there is none."""


@dataclass(frozen=True)
class Runner:
    """Runner of the steps of a check, with one subfolder per step."""

    work_dir: Path
    """Work folder. Each step has a subfolder with `log.txt`, `result.json` and `outcome.json`."""
    environment: Callable[[Results], Mapping[str, str]]
    """Function that takes the results of earlier steps and returns the environment variables of a step."""
    time_limit: float
    """Time limit in seconds for all steps together that count toward it."""
    chosen: frozenset[str] | None = None
    """Names of the steps to run; None to run all steps. All other steps keep the outcome of an earlier
    run."""
    report: Callable[[dict[str, Outcome]], None] = lambda outcomes: None
    """Function that is called after every step with the outcomes of all steps up to now."""

    def run(self, steps: Sequence[Step]) -> dict[str, Outcome]:
        """Run the steps in order. A failed step does not raise an exception.

        Args:
            steps: Steps to run. Each step must come after the steps that it needs.

        Returns:
            The outcome of every step, by name.
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
        except Exception as error:  # continue with the next step
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
    """Determine the outcome of a command.

    Args:
        folder: Folder of the step, with `log.txt` and perhaps `result.json`.
        status: Exit status of the command; None if it was killed at the time limit.
        limit: Time limit in seconds.
    """
    file = folder / "result.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    if status == 0 and file.exists():
        return Outcome("passed", result=result)
    if status is None:
        reason = f"it was stopped after its time limit of {limit:.0f} s"
    elif status:
        reason = f"it ended with status {status}"
    else:
        reason = f"it did not write {file.name}"
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return Outcome("failed", reason=reason, log_tail=lines[-TAIL_LINES:], result=result)


def run_command(command: list[str], log: Path, environment: Mapping[str, str], limit: float) -> int | None:
    """Run a command, and kill it with all its child processes at a time limit.

    Args:
        command: Command line.
        log: File for the command line and the output of the command.
        environment: All environment variables of the command.
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
