"""Report of a training, as a self-contained HTML page."""

from nope_splat.report.page import render_page

__all__ = ["render_page"]
