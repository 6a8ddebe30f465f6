"""The command `nope-splat report`, which writes an HTML report of a training run."""

from __future__ import annotations

from pathlib import Path

from nope_splat.io.output import writing_to
from nope_splat.plugin.load_run import open_run
from nope_splat.report import render_page
from nope_splat.utils.files import replacing
from nope_splat.utils.terminal import printable


def report(load_config: Path, output: Path | None = None) -> None:
    """Write a self-contained HTML report of a training run.

    The report shows the images, the match graph, cameras and track points, reprojection errors, training
    curves, and the held-out images next to their renderings.

    Args:
        load_config: Path of the `config.yml` of the training run.
        output: HTML file to write; by default `report.html` in the folder of `config.yml`.
    """
    output = output or load_config.parent / "report.html"
    page = render_page(open_run(load_config))
    with writing_to(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists() and not output.is_file():  # a pipe
            output.write_text(page, encoding="utf-8")
        else:
            with replacing(output, output.with_name(f".{output.name}.partial")) as file:
                file.write(page.encode())
    print(printable(f"{output} ({output.stat().st_size / 1e6:.1f} MB)"))
