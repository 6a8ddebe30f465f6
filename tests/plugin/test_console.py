"""nerfstudio's console prints paths with square brackets as they are, and its own styles as styles."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nope_splat.plugin.console import print_brackets_literally


def printed(text: str) -> str:
    """Print on a terminal with colors."""
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system="standard", highlight=False)
    print_brackets_literally(console)
    print_brackets_literally(console)
    console.print(text)
    return file.getvalue().rstrip("\n")


@pytest.mark.parametrize("path", ["out [/old]x", "out [old]", "a/[2026]/b", "out [/bold]x", "[x", "[a][/b]"])
def test_paths_are_printed_as_they_are(path: str) -> None:
    assert printed(f"Saving config to: {path}") == f"Saving config to: {path}"


def test_styles_stay_styles() -> None:
    assert printed("[bold green]done") == "\x1b[1;32mdone\x1b[0m"
    assert printed("[bold]a[/bold] b[/old] [link=x]y[/]").startswith("\x1b[1ma\x1b[0m b[/old]")
    assert printed("\\[gen]") == "[gen]"
