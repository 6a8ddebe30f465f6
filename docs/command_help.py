"""Sphinx directive that shows the help of a command.

    ```{command-help} nope-splat reconstruct
    ```

Supports `nope-splat`, `nope-splat COMMAND` and `ns-train nope-splat`.
"""

import contextlib
import io
import os
import textwrap
from typing import Any

import tyro
from docutils import nodes
from docutils.parsers.rst import Directive

from nope_splat.cli import COMMANDS as COMMANDS_OF_NOPE_SPLAT
from nope_splat.cli import main

COLUMNS = 124
"""Terminal width for the command, in characters, so that lines of docstrings are not broken."""
COMMANDS = (
    "nope-splat",
    *(f"nope-splat {name}" for name in COMMANDS_OF_NOPE_SPLAT),
    "ns-train nope-splat",
)
"""Supported commands."""
WIDTH = 90
"""Width of the page, in characters."""
INDENT = 8 * " "
"""Indentation of descriptions by tyro."""


def help_of(command: str) -> str:
    """Run a command with `--help`.

    Args:
        command: The command with its subcommand, as typed in a shell.

    Returns:
        The help text.
    """
    program, *arguments = command.split()
    os.environ |= {"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        if program == "nope-splat":
            main([*arguments, "--help"])
        else:
            from nope_splat.plugin.config import nope_splat

            config = nope_splat.config
            # The markers of `ns-train`.
            markers = tyro.conf.SuppressFixed, tyro.conf.FlagConversionOff
            tyro.cli(type(config), default=config, prog=command, args=["--help"], config=markers)
    text = printed.getvalue().strip()
    if "usage:" not in text:
        raise RuntimeError(f"`{command} --help` printed no usage: {text[:200]!r}")
    return wrapped(text)


def wrapped(text: str) -> str:
    """Fit a help text to the page.

    Args:
        text: Help text.

    Returns:
        The text with lines of each description joined and wrapped again.
    """
    lines: list[str] = []
    described = False
    for line in map(str.rstrip, text.splitlines()):
        describes = line.startswith(INDENT)
        if set(line.strip()) == {"-"}:  # a rule
            lines.append(line[:WIDTH])
        elif describes and described:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
        described = describes
    broken = (
        textwrap.fill(line, WIDTH, subsequent_indent=INDENT if line.startswith(" ") else "") for line in lines
    )
    return "\n".join(broken)


_texts: dict[str, str] = {}


def collect(app: Any, env: Any, names: list[str]) -> None:
    """Make all texts, before autodoc of older Sphinx replaces annotations that options are made of.

    Args:
        app: Sphinx.
        env: Not used.
        names: Pages that are out of date.
    """
    if names:
        _texts.update((command, help_of(command)) for command in COMMANDS)


class CommandHelp(Directive):
    """The help of the command that is its argument, as a literal block."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make the block."""
        text = _texts[self.arguments[0]]
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive.

    Args:
        app: Sphinx.
    """
    app.add_directive("command-help", CommandHelp)
    app.connect("env-before-read-docs", collect)
    return {"parallel_read_safe": True}
