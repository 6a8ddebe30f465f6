"""The command line program `nope-splat`. Each command is a module that is imported when the command runs."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence

import tyro

from nope_splat.errors import NopeSplatError
from nope_splat.utils.terminal import print_error, show_messages

COMMANDS = {
    "reconstruct": "Reconstruct cameras and track points from a folder of photos, or a video.",
    "export-cameras": "Export optimized cameras as transforms.json and COLMAP model.",
    "compare-cameras": "Measure the accuracy of cameras against reference cameras.",
    "report": "Write an HTML report of a training run.",
    "demo-scene": "Render photos of a procedural scene.",
}
"""Descriptions by command name. The command `demo-scene`, for example, runs the function `demo_scene` of the
module `demo_scene`."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command of `nope-splat`.

    Args:
        args: Command line arguments, starting with the name of the command; None for `sys.argv[1:]`.

    Raises:
        SystemExit: With status 2 for invalid arguments, 1 for a `NopeSplatError`, and 0 after `--help`.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0 if args else 2)
    if args[0] not in COMMANDS:
        print(f"nope-splat: there is no command {args[0]!r}\n\n{_help()}", file=sys.stderr)
        raise SystemExit(2)
    # Users cannot act on torch's FutureWarnings, which concern nerfstudio's code.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|nerfstudio")
    show_messages()
    name = args[0].replace("-", "_")
    try:
        command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        tyro.cli(command, prog=f"nope-splat {args[0]}", args=args[1:])
    except NopeSplatError as error:
        print_error(error)
        raise SystemExit(1) from error


def _help() -> str:
    """Return the help text of `nope-splat` with the list of commands."""
    commands = "\n".join(f"  {name:<17}{purpose}" for name, purpose in COMMANDS.items())
    return (
        "usage: nope-splat COMMAND [OPTIONS]\n\n"
        f"{commands}\n\n"
        "`nope-splat COMMAND --help` lists the options of a command, `ns-train nope-splat --help` those of"
        " training."
    )
