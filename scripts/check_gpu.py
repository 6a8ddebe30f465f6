"""Check nope-splat on a GPU with one command, and compare it with splatfacto.

    python scripts/check_gpu.py --data PHOTOS
    python scripts/check_gpu.py collect WHEELS              # on a machine with internet access
    python scripts/check_gpu.py --data PHOTOS --wheels WHEELS   # on the GPU machine, without internet access

Runs the tests that need a GPU, trains nope-splat and stock splatfacto on the same cameras and images, times
iterations of both methods with the same Gaussians, checks the precision of SSIM, and counts how often Python
waits for the GPU. `docs/gpu-check.md` explains every reported value. Each step runs in its own process; a
step that fails does not stop the others. Writes a JSON file after every step, and exits with status 1 if a
step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.gpu.environment import EnvironmentProblem, collect
from scripts.gpu.plan import Device, Settings, build_steps, environment
from scripts.gpu.report import content, failures, table
from scripts.gpu.steps import Outcome, Runner


def main(arguments: Sequence[str]) -> int:
    """Check the GPU, or collect wheels.

    Args:
        arguments: Command line arguments, without the program name.

    Returns:
        The exit status.
    """
    if arguments and arguments[0] == "collect":
        return _collect(arguments[1:])
    parser = _parser()
    parsed = vars(parser.parse_args(arguments))
    chosen = parsed.pop("steps")
    for name in ("output", "work_dir", "data", "wheels"):
        if parsed[name] is not None:
            parsed[name] = parsed[name].resolve()
    settings = Settings(**parsed)
    if settings.data is not None and not settings.data.is_dir():
        parser.error(f"there is no photo folder {settings.data}; check --data")
    steps = build_steps(settings)
    names = [step.name for step in steps]
    unknown = set(chosen or ()) - set(names)
    if unknown:
        parser.error(f"there is no step {min(unknown)}; choose --steps from {', '.join(names)}")
    runner = Runner(
        settings.work_dir,
        lambda results: environment(settings, results, os.environ),
        settings.time_limit,
        None if chosen is None else frozenset(chosen),
        lambda outcomes: _report(settings, outcomes),
    )
    outcomes = runner.run(steps)
    print(f"\n{table(outcomes)}\n{settings.output}")
    ran = outcomes if chosen is None else {name: outcomes[name] for name in chosen}
    return 1 if failures(ran) else 0


def _report(settings: Settings, outcomes: dict[str, Outcome]) -> None:
    """Write the results of all steps up to now, and print the outcome of the last step."""
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(content(vars(settings), outcomes), indent=1) + "\n")
    name, outcome = list(outcomes.items())[-1]
    print(f"{name}: {outcome.status}, {outcome.seconds:.1f} s {outcome.reason}".rstrip(), flush=True)
    for line in outcome.log_tail:
        print(f"    {line}", flush=True)


def _collect(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="check_gpu.py collect",
        description="Download the wheels to carry to a machine without a network.",
    )
    parser.add_argument("output_dir", type=Path, help="folder for the wheels")
    parser.add_argument("--python-version", default="3.12", help="CPython of the other machine (%(default)s)")
    parsed = parser.parse_args(arguments)
    try:
        collect(parsed.output_dir, parsed.python_version)
    except EnvironmentProblem as problem:
        print(f"nope-splat: {problem}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of photos; without it nothing is trained")
    parser.add_argument(
        "--output", type=Path, default=Path("check_gpu.json"), help="the json file (%(default)s)"
    )
    parser.add_argument(
        "--work-dir", type=Path, default=Path("outputs", "check_gpu"), help="logs and trainings (%(default)s)"
    )
    parser.add_argument("--wheels", type=Path, help="folder of carried wheels, where packages are missing")
    parser.add_argument("--iterations", type=int, default=2000, help="length of both trainings (%(default)s)")
    parser.add_argument(
        "--timed-iterations",
        type=int,
        default=200,
        help="iterations of each method with the same Gaussians (%(default)s)",
    )
    parser.add_argument(
        "--max-image-size",
        type=int,
        default=1600,
        help="longer side of the training images in pixels; photos are never enlarged (%(default)s)",
    )
    parser.add_argument(
        "--eval-interval",
        type=int,
        default=8,
        help="every how many photos one is held out (%(default)s)",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=480.0,
        help="seconds for all steps together, without compiling kernels and installing wheels (%(default)s)",
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        help="run only these steps; others keep the outcome of the last run in the work folder",
    )
    parser.add_argument(
        "--device",
        choices=get_args(Device),
        default="cuda",
        help="cpu is to try the script itself without a GPU (with --iterations 20 --max-image-size 160)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
