"""`nope-splat report`."""

from __future__ import annotations

from pathlib import Path

from nope_splat.io.export import writing_to
from nope_splat.plugin.load_run import open_run
from nope_splat.report import render_page


def report(load_config: Path, output: Path | None = None) -> None:
    """Describe a training on one HTML page that opens anywhere, without a network.

    It shows the images, the match graph, cameras and points, errors, curves, and renderings of the
    held-out images beside these.

    Args:
        load_config: The `config.yml` of the training.
        output: The file to write; by default `report.html` beside the configuration.
    """
    output = output or load_config.parent / "report.html"
    page = render_page(open_run(load_config))
    with writing_to(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
