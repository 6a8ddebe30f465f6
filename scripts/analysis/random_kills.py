"""Kill trainings, evaluations and exports at random times, rerun them, and compare the results bitwise.

    python -m scripts.analysis.random_kills --kills 200 --output-dir kills

Renders a small scene, and runs `ns-train`, `ns-eval` and `export-cameras` on it without interruption. Then
kills these commands (SIGKILL) at random times and reruns them until they complete:

- A training is killed up to four times, at any time after its first output or while a checkpoint is written.
After it has completed, the last checkpoint and the cached reconstruction must be bitwise equal to those of
the uninterrupted training, and exactly one run folder and no partial file may be left.
- Evaluations and exports of the uninterrupted training are killed once. Their results must be bitwise equal,
and photos, run and cache must not change.

Prints a line per kill and a summary. The times of the kills depend on `--seed` and on the speed of the
machine. The exit status is 1 if any result differs. On one free core, 200 kills take about an hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from scripts.same_results import digests

BEGUN = b"Reading photos"
"""Text that every command prints when its imports are done and its work begins."""
EXPERIMENT = Path("outputs") / "scene"
POLL = 0.002
"""Seconds between two checks of a process."""
TIMES = ("fps", "num_rays_per_sec")
"""Prefixes of the names of results in `eval.json` that depend on the speed of the machine."""
Digests = dict[str, str]


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
    saving_share: float = 0.3
    """Fraction of the kills of trainings that occur while a checkpoint is written, 0 to 1."""
    other_share: float = 0.15
    """Fraction of the trials that kill `ns-eval`, and fraction of the trials that kill `export-cameras`, 0 to
    1."""


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
        self.seconds["train"] = _complete(self.train_command(folder), folder)
        return folder

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that the uninterrupted commands took after their imports, by name of the command."""

    def eval_command(self, folder: Path) -> list[str]:
        """Return the command that evaluates the uninterrupted training.

        Args:
            folder: Folder of the evaluation's results.
        """
        config = str(_newest_run(self.undisturbed) / "config.yml")
        output = ["--output-path", str(folder / "eval.json"), "--render-output-path", str(folder / "renders")]
        return [_tool("ns-eval"), "--load-config", config, *output]

    def export_command(self, folder: Path) -> list[str]:
        """Return the command that exports the cameras of the uninterrupted training.

        Args:
            folder: Folder of the exported files.
        """
        config = str(_newest_run(self.undisturbed) / "config.yml")
        output = ["--output-dir", str(folder / "cameras"), "--copy-images"]
        return [_tool("nope-splat"), "export-cameras", "--load-config", config, *output]

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
            self.seconds[name] = _complete(command(folder), folder)
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
            killed = self.kill(
                "train", self.train_command(folder), folder, "checkpoint" if saving else "time"
            )
            if not killed:  # the training has completed
                break
        else:
            _complete(self.train_command(folder), folder)
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
        if self.kill(name, make(folder), folder, "time"):
            _complete(make(folder), folder)
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

    def kill(
        self, name: str, command: list[str], folder: Path, moment: Literal["time", "checkpoint"]
    ) -> bool:
        """Start a command, and kill it at a random time.

        Args:
            name: Name of the command.
            command: The command.
            folder: Folder of the command's outputs.
            moment: "time" for a random time after the command has begun its work; "checkpoint" for a random
                time after it has begun to write one of its checkpoints.

        Returns:
            True if the command was killed; False if it completed before.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        start = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=_environment())
        begun = _wait(process, lambda: BEGUN in log.read_bytes())
        if begun and moment == "checkpoint":
            partial = _newest_run(folder) / "checkpoint.partial"
            for _ in range(self.random.randint(1, self.settings.iterations // self.settings.steps_per_save)):
                _wait(process, lambda: not partial.exists(), poll=0)
                _wait(process, partial.exists, poll=0)
            time.sleep(self.random.uniform(0, 0.02))
        elif begun:
            until = time.perf_counter() + self.random.uniform(0, 0.7 * self.seconds[name])
            _wait(process, lambda: time.perf_counter() > until)
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"{name} failed: {log.read_text(errors='replace')[-2000:]}")
            return False
        process.send_signal(signal.SIGKILL)
        process.wait()
        where = (
            progress(folder) if name == "train" else ", ".join(sorted(os.listdir(folder))) or "nothing yet"
        )
        self.kills.append(Kill(name, time.perf_counter() - start, where))
        print(f"{len(self.kills):4d}  {name:15}{self.kills[-1].seconds:6.1f} s  {where}", flush=True)
        return True


def progress(folder: Path) -> str:
    """Describe the results that a killed training has left.

    Args:
        folder: Folder of the training's outputs.

    Returns:
        Text such as "12 iterations, 4 checkpoints".
    """
    experiment = folder / EXPERIMENT
    checkpoints = sorted(experiment.rglob("*.ckpt"))
    partial = ", writing a checkpoint" if any(experiment.rglob("checkpoint.partial")) else ""
    if checkpoints:
        count = f", {len(checkpoints)} checkpoints" if len(checkpoints) > 1 else ""
        return f"{int(checkpoints[-1].stem[5:]) + 1} iterations{count}{partial}"
    stages = sorted({path.name.split("-")[0] for path in (experiment / "cache").glob("*.npz")})
    return (", ".join(stages) or "nothing") + " kept" + partial


def training_digests(folder: Path) -> Digests:
    """Hash the last checkpoint and the cached reconstruction of a training.

    Args:
        folder: Folder of the training's outputs.
    """
    checkpoints = sorted((folder / EXPERIMENT).rglob("*.ckpt"))
    if not checkpoints:
        return {"checkpoint": "none"}
    state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
    results = dict(digests(state, "checkpoint"))
    for path in (folder / EXPERIMENT / "cache").glob("*.npz"):
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        if "plain" in values:  # JSON of a reconstruction
            values["plain"] = np.array(repr({**json.loads(values["plain"].item()), "seconds": None}))
        for name, array in values.items():
            content = f"{array.dtype}{array.shape}".encode() + array.tobytes()
            results[f"{path.name}.{name}"] = hashlib.sha256(content).hexdigest()
    return results


def file_digests(folder: Path) -> Digests:
    """Hash all files in a folder and its subfolders; timings in `eval.json` are ignored.

    Args:
        folder: The folder.

    Returns:
        Hashes by relative path or name of the result.
    """
    return dict(_file_digests(folder))


def _file_digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.name == "eval.json":
            results = json.loads(path.read_text())["results"]
            untimed = {name: value for name, value in results.items() if not name.startswith(TIMES)}
            yield from digests(untimed, path.name)
        elif path.is_file():
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def _newest_run(folder: Path) -> Path:
    """Return the folder of a training's most recently modified run."""
    return max((folder / EXPERIMENT / "nope-splat").iterdir(), key=lambda run: run.stat().st_mtime).absolute()


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], bool], poll: float = POLL) -> bool:
    """Wait until a condition holds or a process ends. Returns whether the condition held first."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(poll)
    return False


def _complete(command: list[str], folder: Path) -> float:
    """Run a command until it ends. Returns the seconds that it took after its imports."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_environment())
    _wait(process, lambda: BEGUN in log.read_bytes())
    start = time.perf_counter()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return time.perf_counter() - start


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def main(settings: Settings) -> int:
    """Kill and rerun commands, compare their results, and print a summary.

    Args:
        settings: Settings of the test.

    Returns:
        The exit status: 1 if any result differs, else 0.
    """
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
