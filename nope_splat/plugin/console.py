"""Fix for nerfstudio's console, which parses paths such as `out [/old]` as rich markup, and then fails."""

from __future__ import annotations

from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE
from rich.console import Console
from rich.errors import MarkupError, MissingStyle
from rich.markup import RE_TAGS
from rich.text import Text


def print_brackets_literally(console: Console = CONSOLE) -> None:
    """Make a rich `Console` print text in square brackets literally, unless the text is a style or link.

    Args:
        console: The console, modified in place; repeated calls have no further effect.
    """
    if "render_str" in vars(console):
        return
    render_markup = console.render_str

    def render_str(text: str, **options: Any) -> Text:
        if options.get("markup") is False:
            return render_markup(text, **options)
        escaped = RE_TAGS.sub(
            lambda tag: tag[0] if tag[2] or _is_style(console, tag[3]) else f"\\{tag[0]}", text
        )
        try:
            return render_markup(escaped, **options)
        except MarkupError:  # a closing tag without an opening tag
            return render_markup(text, **{**options, "markup": False})

    console.render_str = render_str


def _is_style(console: Console, tag: str) -> bool:
    """Check whether `tag`, the text inside square brackets, is rich markup: a style, link or closing tag."""
    name = tag.removeprefix("/")
    if not name or name.startswith(("link", "@")):
        return True
    try:
        console.get_style(name)
    except MissingStyle:
        return False
    return True
