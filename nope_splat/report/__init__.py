"""What became of a training, as one HTML page that needs nothing else."""

from nope_splat.report.page import render_page

__all__ = ["render_page"]
