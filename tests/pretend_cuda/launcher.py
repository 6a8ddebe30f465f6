"""Run a command on the pretend GPU.

    python -m pretend_cuda [--count FILE] [--exact] [--no-kernels] COMMAND ...

COMMAND is one of nerfstudio's (`ns-train`, `ns-eval`, `ns-export`, `ns-render`, `ns-viewer`), `nope-splat`,
or a Python file, each with its arguments.

--count FILE   write synchronizations by phase of the training and by line to FILE (`-` for the terminal)
--exact        composite exactly as gsplat does (slow)
--no-kernels   gsplat has no kernels, as where it finds no compiler
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from pathlib import Path

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


def main() -> None:
    """Read the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m pretend_cuda", description=__doc__, add_help=False)
    parser.add_argument("--count", metavar="FILE")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--no-kernels", action="store_true")
    parser.add_argument("command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    install(kernels=not options.no_kernels, exact=options.exact)
    if options.count:
        SYNCHRONIZATIONS.watch(STOCK_PHASES + PRODUCT_PHASES)
    sys.argv = [options.command, *options.arguments]
    try:
        if options.command in ENTRY_POINTS:
            module, function = ENTRY_POINTS[options.command]
            getattr(importlib.import_module(module), function)()
        else:
            sys.path.insert(0, str(Path(options.command).resolve().parent))
            runpy.run_path(options.command, run_name="__main__")
    finally:
        if options.count == "-":
            print(SYNCHRONIZATIONS.table())
        elif options.count:
            Path(options.count).write_text(SYNCHRONIZATIONS.table())
