"""The command line `nope-splat`: one module per command, imported only when it is called."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence

import tyro

from nope_splat.errors import NopeSplatError
from nope_splat.utils.terminal import print_error, show_messages

COMMANDS = {
    "reconstruct": "Cameras and track points from a folder of photos, for any other tool.",
    "export-cameras": "Optimized cameras of a training as transforms.json and COLMAP model.",
    "compare-cameras": "Accuracy of cameras against others: transforms.json, COLMAP model, ground truth.",
    "report": "What became of a training, as one HTML page.",
    "demo-scene": "Photos of a procedural scene, to try things on.",
}
"""Name and purpose of each command; `demo-scene` is the function `demo_scene` of the module of that name."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Command line arguments; those of the process if None.

    Raises:
        SystemExit: The arguments do not fit (status 2), or a `NopeSplatError` was raised (status 1).
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0 if args else 2)
    if args[0] not in COMMANDS:
        print(f"nope-splat: there is no command {args[0]!r}\n\n{_help()}", file=sys.stderr)
        raise SystemExit(2)
    # What torch says to nerfstudio's authors is none of the user's business.
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
    commands = "\n".join(f"  {name:<17}{purpose}" for name, purpose in COMMANDS.items())
    return (
        "usage: nope-splat COMMAND [OPTIONS]\n\n"
        f"{commands}\n\n"
        "`nope-splat COMMAND --help` lists the options of a command, `ns-train nope-splat --help` those of"
        " training."
    )
