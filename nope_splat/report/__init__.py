"""Self-contained HTML report of a training run."""

from nope_splat.report.page import render_page

__all__ = ["render_page"]
