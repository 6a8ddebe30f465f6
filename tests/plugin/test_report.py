"""Test the report, a self-contained HTML page.

- Every image appears with its status; held-out images appear next to their renderings.
- The page loads no external resource, and no file name breaks it.
- Figures are correct, also for scenes with few images or points.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.splat_scene import make_pipeline, set_to_truth

from nope_splat.plugin.history import History
from nope_splat.plugin.load_run import LoadedRun
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.report import figures, render_page
from nope_splat.scene.tracks import MatchGraph
from nope_splat.sfm import Reconstruction

UNREGISTERED = 3


class Page(HTMLParser):
    """Parser that collects the images and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        """Record text."""
        self.texts.append(data)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRun:
    """Create a finished training with one unregistered and two held-out images."""
    pipeline = make_pipeline(tmp_path, monkeypatch, unregistered=(UNREGISTERED,), test_mode="inference")
    set_to_truth(pipeline)
    scene = pipeline.datamanager.dataparser.scene
    scene.failures[scene.image_names[UNREGISTERED]] = "<script>alert('no matches')</script>"
    for step in range(0, 100, 10):
        values = {"photometric": 1 / (step + 1), "focal_change_percent": 0.1, "psnr": 20 + step}
        pipeline.history.record(step, values)
    pipeline.load_pipeline(pipeline.state_dict(), step=99)
    (tmp_path / "config.yml").write_text("seed: <42>\n")
    return LoadedRun(tmp_path / "config.yml", NopeTrainerConfig(experiment_name="Vase & <b>"), pipeline, 99)


def test_page_is_complete_and_self_contained(run: LoadedRun) -> None:
    page = Page(render_page(run))
    text = " ".join(page.texts)
    for name in run.pipeline.datamanager.dataparser.scene.image_names:
        assert name in text
    for phrase in (
        "Vase & <b>, iteration 100",
        "<script>alert('no matches')</script>",
        "<42>",
        "6 trained on",
    ):
        assert phrase in text
    scores = re.findall(r"PSNR (\d\d\.\d+) dB, SSIM [01]\.\d+", text)
    assert len(scores) == 2
    assert all(float(score) > 20 for score in scores)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all((image["src"] or "").startswith("data:image/") for image in page.images)
    # Thumbnails, pairs of image and rendering, the figures and the curves.
    assert len(page.images) == 9 + 2 * 2 + 3 + 3


def test_another_reconstruction_raises(run: LoadedRun) -> None:
    run.pipeline.same_reconstruction = False
    with refused("checkpoint-mismatch"):
        render_page(run)


def labels(svg: bytes) -> list[str]:
    """Return all text of a figure."""
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.fixture
def scene(run: LoadedRun) -> Reconstruction:
    edges = np.array([[1, 2], [2, 4], [1, 4]])
    graph = MatchGraph(9, edges, np.array([50, 40, 20]), np.array([0, 1]))
    return replace(run.pipeline.datamanager.dataparser.scene, graph=graph)


def test_match_graph(scene: Reconstruction) -> None:
    assert [str(number) for number in range(1, 10)] == labels(figures.match_graph(scene))
    assert figures.image_colors(scene)[UNREGISTERED] == figures.UNREGISTERED_COLOR
    assert figures.image_colors(scene)[0] == figures.HELD_OUT_COLOR


def test_top_view_numbers_the_cameras_as_the_contact_sheet_does(scene: Reconstruction) -> None:
    numbers = sorted(map(int, labels(figures.top_view(scene))))
    assert numbers == [number for number in range(1, 10) if number != UNREGISTERED + 1]


def test_histogram_shows_the_means() -> None:
    text = " ".join(labels(figures.error_histogram(np.full(100, 0.5), np.linspace(0, 0.5, 101))))
    assert "reconstruction: mean 0.500 px" in text
    assert "after training: mean 0.250 px" in text
    figures.error_histogram(np.zeros(10), np.zeros(10))


def test_curves_show_recorded_quantities() -> None:
    history = History()
    assert not figures.curves(history)
    for step in (0, 10):
        history.record(step, {"focal_change_percent": 0.1 * step, "unknown": 1.0})
    title = "Change of the focal length (%)"
    plots = figures.curves(history)
    assert list(plots) == [title]
    assert title in labels(plots[title])


@pytest.mark.parametrize("count", [1, 3, 5, 30, 500])
def test_running_mean_is_smoother_and_as_long(count: int) -> None:
    jumping = np.arange(count) + (-1.0) ** np.arange(count)
    mean = figures._running_mean(jumping.tolist())
    assert len(mean) == count
    if count >= 30:
        inner = slice(count // 5, -count // 5)
        np.testing.assert_allclose(mean[inner], np.arange(count)[inner], atol=0.25)
