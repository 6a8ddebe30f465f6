"""Configure Sphinx: `python -m sphinx -W -b html docs docs/_build/html`."""

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from nope_splat import __version__  # noqa: E402 (from this checkout, not from an installed package)

project = "nope-splat"
copyright = "the authors of nope-splat"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_help"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"  # for the single backticks of docstrings
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"nope-splat {release}"


def setup(app: Any) -> None:
    """Prevent napoleon from parsing the beginning of a field's docstring, up to a colon, as a type.

    Args:
        app: Sphinx application.
    """
    fields: dict[str, list[str]] = {}

    def keep(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what == "attribute":
            fields[name] = list(lines)

    def restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what == "attribute":
            lines[:] = fields[name]

    app.connect("autodoc-process-docstring", keep, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", restore, priority=600)
