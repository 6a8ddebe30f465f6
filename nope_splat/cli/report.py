"""`nope-splat report`."""

from __future__ import annotations

from pathlib import Path

from nope_splat.io.export import writing_to
from nope_splat.plugin.load_run import open_run
from nope_splat.report import render_page
from nope_splat.utils.terminal import printable


def report(load_config: Path, output: Path | None = None) -> None:
    """Write a self-contained HTML report of a training run.

    The report shows the images, the match graph, cameras and points, errors, curves, and held-out images with
    their renderings.

    Args:
        load_config: The `config.yml` of the training run.
        output: Output file; by default `report.html` next to the configuration.
    """
    output = output or load_config.parent / "report.html"
    page = render_page(open_run(load_config))
    with writing_to(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    print(printable(f"{output} ({output.stat().st_size / 1e6:.1f} MB)"))
