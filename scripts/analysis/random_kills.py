"""Kill trainings, evaluations and exports at random times, rerun them, and compare the results bitwise.

    python -m scripts.analysis.random_kills --kills 200 --output-dir kills

Renders a small scene, and runs `ns-train`, `ns-eval` and `export-cameras` on it without interruption. Then
kills these commands (SIGKILL) at random times and reruns them until they complete:

- A training is killed up to four times: at any time after its first output, while a checkpoint is written, or
during its imports. After it has completed, the last checkpoint and the cached reconstruction must be bitwise
equal to those of the uninterrupted training, and exactly one run folder and no partial file may be left.
- Evaluations and exports of the uninterrupted training are killed once. Their results must be bitwise equal,
and photos, run and cache must not change.

To save time, most commands are forks of a process that has imported all modules (see `commands`). The
uninterrupted commands, the commands that are killed during their imports, and a share of the others are
ordinary processes. Not covered: forks have the same hash seed, and only ordinary processes are killed during
their imports.

Prints a line per kill and a summary. The times of the kills depend on `--seed` and on the speed of the
machine. The exit status is 1 if any result differs. On one free core, 200 kills take less than an hour.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import tyro

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from scripts.analysis.commands import Command, Fork, Process
from scripts.analysis.training_results import (
    EXPERIMENT,
    Digests,
    file_digests,
    newest_run,
    progress,
    training_digests,
)

BEGUN = b"Reading photos"
"""Text that every command prints when its imports are done and its work begins."""
POLL = 0.002
"""Seconds between two checks of a process."""
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
"""Environment variables of all commands."""
Moment = Literal["import", "time", "checkpoint"]
"""When a command is killed: during its imports, at a random time after it has begun its work, or after it has
begun to write one of its checkpoints."""


@dataclass(frozen=True)
class Settings:
    """Settings of a test with killed processes."""

    output_dir: Path
    """Folder of the scene and of all runs; the contents of an earlier test are removed."""
    kills: int = 200
    """Total number of kills."""
    seed: int = 0
    """Seed of the random times and of the order of commands."""
    iterations: int = 30
    """Number of iterations of each training."""
    steps_per_save: int = 3
    """Number of iterations between checkpoints."""
    max_chain: int = 4
    """Maximum number of times that one training is killed."""
    import_share: float = 0.05
    """Fraction of the kills that occur while a command imports its modules, 0 to 1."""
    saving_share: float = 0.3
    """Fraction of the other kills of trainings that occur while a checkpoint is written, 0 to 1."""
    other_share: float = 0.15
    """Fraction of the trials that kill `ns-eval`, and fraction of the trials that kill `export-cameras`, 0 to
    1."""
    process_share: float = 0.1
    """Fraction of the other commands that run as ordinary processes instead of forks, 0 to 1."""


@dataclass(frozen=True)
class Kill:
    """Record of one kill."""

    command: str
    """Name of the command that was killed."""
    seconds: float
    """Seconds from the start of the command to the kill."""
    where: str
    """Progress of the command when it was killed, derived from its files."""


@dataclass
class Lab:
    """Commands on the scene, their uninterrupted results, and the results of the test."""

    settings: Settings
    """Settings of the test."""
    kills: list[Kill] = field(default_factory=list)
    """Kills up to now."""
    differences: list[str] = field(default_factory=list)
    """Descriptions of the differences found up to now."""
    random: random.Random = field(init=False)
    """Random number generator of times and commands."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.settings.seed)

    @cached_property
    def photos(self) -> Path:
        """Folder of the scene's photos, which are rendered on first use."""
        config = DemoSceneConfig(num_images=9, size=(200, 150))
        return render_demo_scene(self.settings.output_dir / "scene", config).absolute()

    def train_command(self, folder: Path) -> list[str]:
        """Return the command of a training.

        Args:
            folder: Folder of the training's outputs.
        """
        settings = self.settings
        options = {
            "--data": self.photos,
            "--output-dir": folder.absolute() / "outputs",
            "--machine.device-type": "cpu",
            "--vis": "tensorboard",
            "--max-num-iterations": settings.iterations,
            "--steps-per-save": settings.steps_per_save,
            "--steps-per-eval-image": 0,
            "--pipeline.model.num-downscales": 1,
            "--pipeline.model.densification.refine-every": 5,
            "--pipeline.datamanager.dataparser.max-image-size": 96,
        }
        return [_tool("ns-train"), "nope-splat", *(str(x) for pair in options.items() for x in pair)]

    @cached_property
    def undisturbed(self) -> Path:
        """Output folder of the uninterrupted training, which runs on first use."""
        folder = self.settings.output_dir / "undisturbed"
        self.measure("train", self.train_command(folder), folder)
        return folder

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that the uninterrupted commands took after their imports, by name of the command."""
    import_seconds: float = 0.0
    """Seconds that the imports of the last uninterrupted command took."""

    def eval_command(self, folder: Path) -> list[str]:
        """Return the command that evaluates the uninterrupted training.

        Args:
            folder: Folder of the evaluation's results.
        """
        config = str(newest_run(self.undisturbed) / "config.yml")
        output = ["--output-path", str(folder / "eval.json"), "--render-output-path", str(folder / "renders")]
        return [_tool("ns-eval"), "--load-config", config, *output]

    def export_command(self, folder: Path) -> list[str]:
        """Return the command that exports the cameras of the uninterrupted training.

        Args:
            folder: Folder of the exported files.
        """
        config = str(newest_run(self.undisturbed) / "config.yml")
        output = ["--output-dir", str(folder / "cameras"), "--copy-images"]
        return [_tool("nope-splat"), "export-cameras", "--load-config", config, *output]

    def measure(self, name: str, command: list[str], folder: Path) -> None:
        """Run a command as an ordinary process, without interruption, and measure its times.

        Args:
            name: Name of the command.
            command: The command.
            folder: Folder of the command's outputs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log, start = folder.with_suffix(".log"), time.perf_counter()
        process = Process(command, log)
        _wait(process, lambda: BEGUN in log.read_bytes())
        begun = time.perf_counter()
        _check(process.wait(), command, folder)
        self.import_seconds, self.seconds[name] = begun - start, time.perf_counter() - begun

    @cached_property
    def expected_training(self) -> Digests:
        """Hashes of the results of the uninterrupted training."""
        return training_digests(self.undisturbed)

    @cached_property
    def expected_results(self) -> dict[str, Digests]:
        """Hashes of the results of the uninterrupted evaluation and export, by name of the command."""
        results = {}
        for name, command in (("ns-eval", self.eval_command), ("export-cameras", self.export_command)):
            folder = self.settings.output_dir / name
            self.measure(name, command(folder), folder)
            results[name] = file_digests(folder)
        return results

    def disturb_training(self, folder: Path, num_kills: int) -> None:
        """Kill a training several times, let it complete, and compare its results.

        Args:
            folder: Folder of the training's outputs.
            num_kills: Maximum number of kills.
        """
        for _ in range(num_kills):
            saving = self.random.random() < self.settings.saving_share
            moment = self.moment("checkpoint" if saving else "time")
            if not self.kill("train", self.train_command(folder), folder, moment):
                break  # the training has completed
        else:
            self.complete(self.train_command(folder), folder)
        runs = list((folder / EXPERIMENT / "nope-splat").glob("*/config.yml"))
        if len(runs) != 1:
            self.differences.append(f"{folder}: {len(runs)} run folders")
        self.compare(folder, training_digests(folder), self.expected_training)
        for path in folder.rglob("*partial*"):
            if (
                path.suffix != ".partial" or "cache" not in path.parts
            ):  # partial files in the cache are removed when they are old
                self.differences.append(f"the partial file {path} was not removed")

    def disturb_other(self, name: Literal["ns-eval", "export-cameras"], folder: Path) -> None:
        """Kill an evaluation or export of the uninterrupted training, rerun it, and compare its results.

        Args:
            name: Name of the command.
            folder: Folder of the command's results.
        """
        make = self.eval_command if name == "ns-eval" else self.export_command
        kept = [self.undisturbed / EXPERIMENT, self.photos]
        before = [file_digests(path) for path in kept]
        if self.kill(name, make(folder), folder, self.moment("time")):
            self.complete(make(folder), folder)
        self.compare(folder, file_digests(folder), self.expected_results[name])
        for path, digest in zip(kept, before, strict=True):
            self.compare(path, file_digests(path), digest)

    def compare(self, folder: Path, results: Digests, expected: Digests) -> None:
        """Record and print the differences between results and expected results.

        Args:
            folder: Folder of the results, named in the report.
            results: Hashes of the results, by name.
            expected: Hashes of the uninterrupted results, by name.
        """
        different = sorted(
            name for name in {**results, **expected} if results.get(name) != expected.get(name)
        )
        self.differences += [f"{folder}: {name}" for name in different[:5]]
        print(
            f"      {folder.name}: {'DIFFERENT: ' + different[0] if different else 'same bits'}", flush=True
        )

    def moment(self, other: Moment) -> Moment:
        """Draw whether a command is killed during its imports or at another moment."""
        return "import" if self.random.random() < self.settings.import_share else other

    def start(self, command: list[str], folder: Path, moment: Moment = "time") -> Command:
        """Start a command, as a fork or as an ordinary process.

        Args:
            command: The command. Only console scripts are started as forks.
            folder: Folder of the command's outputs; the log has the same name.
            moment: When the command will be killed. Forks do not import, so commands that are killed during
                their imports are ordinary processes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        can_fork = moment != "import" and command[0] != sys.executable
        is_fork = can_fork and self.random.random() >= self.settings.process_share
        return (Fork if is_fork else Process)(command, folder.with_suffix(".log"))

    def complete(self, command: list[str], folder: Path) -> None:
        """Run a command until it ends.

        Args:
            command: The command.
            folder: Folder of the command's outputs.
        """
        _check(self.start(command, folder).wait(), command, folder)

    def kill(self, name: str, command: list[str], folder: Path, moment: Moment) -> bool:
        """Start a command, and kill it at a random time.

        Args:
            name: Name of the command.
            command: The command.
            folder: Folder of the command's outputs.
            moment: When the command is killed.

        Returns:
            True if the command was killed; False if it completed before.
        """
        start = time.perf_counter()
        process = self.start(command, folder, moment)
        log, until = folder.with_suffix(".log"), start
        begun = moment != "import" and _wait(process, lambda: BEGUN in log.read_bytes())
        if begun and moment == "checkpoint":
            partial = newest_run(folder) / "checkpoint.partial"
            for _ in range(self.random.randint(1, self.settings.iterations // self.settings.steps_per_save)):
                _wait(process, lambda: not partial.exists(), poll=0)
                _wait(process, partial.exists, poll=0)
            until = time.perf_counter() + self.random.uniform(0, 0.02)
        elif begun:
            until = time.perf_counter() + self.random.uniform(0, 0.7 * self.seconds[name])
        elif moment == "import":
            until = start + self.random.uniform(0, self.import_seconds)
        _wait(process, lambda: time.perf_counter() > until)
        status = process.poll()
        if status is not None:
            _check(status, command, folder)
            return False
        process.kill()
        where = (
            progress(folder) if name == "train" else ", ".join(sorted(os.listdir(folder))) or "nothing yet"
        )
        self.kills.append(Kill(name, time.perf_counter() - start, where))
        print(f"{len(self.kills):4d}  {name:15}{self.kills[-1].seconds:6.1f} s  {where}", flush=True)
        return True


def _wait(process: Command, condition: Callable[[], bool], poll: float = POLL) -> bool:
    """Wait until a condition holds or a process ends. Returns whether the condition held first."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(poll)
    return False


def _check(status: int, command: list[str], folder: Path) -> None:
    """Stop if a command has failed, and print the end of its log."""
    if status:
        log = folder.with_suffix(".log").read_text(errors="replace")
        raise SystemExit(f"{' '.join(command)} failed with status {status}:\n{log[-3000:]}")


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def main(settings: Settings) -> int:
    """Kill and rerun commands, compare their results, and print a summary.

    Args:
        settings: Settings of the test.

    Returns:
        The exit status: 1 if any result differs, else 0.
    """
    os.environ.update(ENVIRONMENT)
    shutil.rmtree(settings.output_dir, ignore_errors=True)
    lab, start, trials = Lab(settings), time.perf_counter(), 0
    print(f"undisturbed: {len(lab.expected_training)} results of the training", end="", flush=True)
    print("".join(f", {len(digest)} of {name}" for name, digest in lab.expected_results.items()), flush=True)
    while len(lab.kills) < settings.kills:
        trials += 1
        left, draw = settings.kills - len(lab.kills), lab.random.random()
        folder = settings.output_dir / f"trial-{trials}"
        before = len(lab.differences)
        if draw < settings.other_share:
            lab.disturb_other("ns-eval", folder)
        elif draw < 2 * settings.other_share:
            lab.disturb_other("export-cameras", folder)
        else:
            lab.disturb_training(folder, min(left, lab.random.randint(1, settings.max_chain)))
        if len(lab.differences) == before:
            shutil.rmtree(folder)
            folder.with_suffix(".log").unlink()
    seconds = time.perf_counter() - start
    print(f"\n{len(lab.kills)} kills in {trials} trials, {seconds:.0f} s (seed {settings.seed})")
    for (command, where), count in sorted(Counter((kill.command, kill.where) for kill in lab.kills).items()):
        print(f"{count:4d}  {command}: {where}")
    print("\n".join(["", *lab.differences, f"{len(lab.differences)} differences"]))
    return 1 if lab.differences else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
