"""Run commands on the pretend GPU.

    python -m pretend_cuda [OPTIONS] COMMAND ... [then COMMAND ...]

COMMAND is a command of nerfstudio (`ns-train`, `ns-eval`, `ns-export`, `ns-render`, `ns-viewer`),
`nope-splat`, or a Python file, with arguments. Several commands run one after the other in this process,
which is faster than one process per command.

--count FILE      write synchronizations by phase of the training and by line to FILE (`-` for the terminal)
--events FILE     write the events of trainings to FILE, see `events`
--interrupt STEP  raise SIGINT during this iteration
--exact           truncate splats as gsplat does (slow)
--random-lpips    use random weights for LPIPS, to avoid a download; its values are meaningless
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretend_cuda.events import Events, interrupt_in
from pretend_cuda.installation import install
from pretend_cuda.synchronizations import PRODUCT_PHASES, STOCK_PHASES, SYNCHRONIZATIONS

ENTRY_POINTS = {
    "ns-train": ("nerfstudio.scripts.train", "entrypoint"),
    "ns-eval": ("nerfstudio.scripts.eval", "entrypoint"),
    "ns-export": ("nerfstudio.scripts.exporter", "entrypoint"),
    "ns-render": ("nerfstudio.scripts.render", "entrypoint"),
    "ns-viewer": ("nerfstudio.scripts.viewer.run_viewer", "entrypoint"),
    "nope-splat": ("nope_splat.cli", "main"),
}
SEPARATOR = "then"


def main() -> None:
    """Read the command line and run the commands."""
    parser = argparse.ArgumentParser(prog="python -m pretend_cuda", usage=__doc__, add_help=False)
    parser.add_argument("--count")
    parser.add_argument("--events")
    parser.add_argument("--interrupt", type=int)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--random-lpips", action="store_true")
    parser.add_argument("commands", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.commands:
        parser.error("there is no command")
    install(exact=options.exact)
    if options.random_lpips:
        use_random_lpips_weights()
    if options.interrupt is not None:
        interrupt_in(options.interrupt)
    with counting(options.count), recording(options.events):
        for command in split(options.commands):
            run(command)


def use_random_lpips_weights() -> None:
    """Make torchvision create the network of LPIPS without pretrained weights."""
    import torchvision

    alexnet = torchvision.models.alexnet
    torchvision.models.alexnet = lambda weights=None, **options: alexnet(weights=None, **options)


def split(arguments: list[str]) -> Iterator[list[str]]:
    """Split arguments into commands at separators."""
    command: list[str] = []
    for argument in [*arguments, SEPARATOR]:
        if argument == SEPARATOR:
            yield command
            command = []
        else:
            command.append(argument)


def run(command: list[str]) -> None:
    """Run a command as its script would.

    Args:
        command: Name and arguments of the command.
    """
    sys.argv = command
    if command[0] in ENTRY_POINTS:
        module, function = ENTRY_POINTS[command[0]]
        getattr(importlib.import_module(module), function)()
    else:
        sys.path.insert(0, str(Path(command[0]).resolve().parent))
        runpy.run_path(command[0], run_name="__main__")


@contextmanager
def counting(file: str | None) -> Iterator[None]:
    """Count synchronizations, and write the table even after an error. Does nothing without a file."""
    if file is not None:
        SYNCHRONIZATIONS.watch(STOCK_PHASES + PRODUCT_PHASES)
    try:
        yield
    finally:
        if file == "-":
            print(SYNCHRONIZATIONS.table())
        elif file is not None:
            Path(file).write_text(SYNCHRONIZATIONS.table())


@contextmanager
def recording(file: str | None) -> Iterator[None]:
    """Record events, and write them even after an error. Does nothing without a file."""
    events = Events()
    if file is not None:
        events.record()
    try:
        yield
    finally:
        if file is not None:
            events.write(Path(file))
