"""Draw the figures of the HTML report with matplotlib, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nope_splat.plugin.history import History
from nope_splat.sfm import Reconstruction

TRAINING_COLOR, HELD_OUT_COLOR, UNREGISTERED_COLOR, GRAY = "#2f6fb0", "#d9822b", "#c23b3b", "#9aa3ad"
"""Hexadecimal RGB colors of images by category, and of secondary lines such as match graph edges."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
}
"""matplotlib settings of all figures."""
TITLES = {
    "focal_change_percent": "Change of the focal length (%)",
    "principal_point_x_px": "Principal point, x from the image center (px)",
    "principal_point_y_px": "Principal point, y from the image center (px)",
    "distortion_k1": "Distortion k1",
    "distortion_k2": "Distortion k2",
    "reprojection_error_px": "Mean reprojection error (px)",
    "photometric": "Photometric loss",
    "track_2d": "Track reprojection loss, weighted",
    "track_3d": "Track backprojection loss, weighted",
    "scale": "Track Gaussian scale loss, weighted",
    "psnr": "PSNR of the training photos (dB)",
    "gaussian_count": "Gaussians",
    "camera_rotation_mean_deg": "Mean rotation of the cameras (degrees)",
    "camera_translation_mean": "Mean translation of the cameras (median depth = 1)",
}
"""Titles of the plotted metrics of the training history, in the order of the report."""
MIN_AGREEMENT = 0.5
"""Image pairs whose value in `Trust.pairs` (0 to 1) is below this limit contradict the cameras, and are drawn
as red lines."""
NOISY_METRICS = frozenset({"photometric", "psnr"})
"""Metrics that vary strongly between iterations, because each iteration trains on a single image. Their plots
also contain a running mean."""


def image_colors(scene: Reconstruction) -> list[str]:
    """Return the color of each of the N images: the color of training, held-out or unregistered images.

    Args:
        scene: The reconstruction.

    Returns:
        Hexadecimal RGB colors such as "#2f6fb0". (N,).
    """
    held_out = np.where(scene.held_out, HELD_OUT_COLOR, TRAINING_COLOR)
    return np.where(scene.registered, held_out, UNREGISTERED_COLOR).tolist()


def match_graph(scene: Reconstruction) -> bytes:
    """Draw the match graph: images on a circle, and verified pairs as lines.

    Pairs with more matches have wider lines. Pairs that contradict the cameras are red, and pairs in the
    maximum spanning tree are bold.

    Args:
        scene: The reconstruction.

    Returns:
        Content of an SVG file.
    """
    count, graph = len(scene.image_names), scene.graph
    angle = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    place = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    with matplotlib.rc_context(STYLE):
        figure, axes = _empty(5, 5)
        strength = np.sqrt(graph.weights / max(graph.weights.max(initial=1), 1))
        lines = LineCollection(
            list(place[graph.edges]), linewidths=0.3 + 1.7 * strength, colors=GRAY, alpha=0.6
        )
        axes.add_collection(lines)
        if scene.trust is not None:
            contradicting = np.flatnonzero(scene.trust.pairs < MIN_AGREEMENT)
            axes.add_collection(
                LineCollection(
                    list(place[graph.edges[contradicting]]), linewidths=1.5, colors=UNREGISTERED_COLOR
                )
            )
        tree = LineCollection(list(place[graph.edges[graph.tree]]), linewidths=2.2, colors="#2b3138")
        axes.add_collection(tree)
        axes.scatter(*place.T, s=_marker_size(count), c=image_colors(scene), zorder=3)
        for number, (x, y) in enumerate(place.tolist(), start=1):
            if count <= 100 or number % 10 == 1:
                axes.annotate(str(number), (1.09 * x, 1.09 * y), ha="center", va="center", fontsize=9)
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
        return _svg(figure)


def top_view(scene: Reconstruction) -> bytes:
    """Draw the registered cameras and the track points from above: their world coordinates x and y.

    Args:
        scene: The reconstruction, usually with the cameras and track points after training.

    Returns:
        Content of an SVG file, in which the track points are an embedded bitmap.
    """
    poses = scene.T_world_camera[scene.registered]
    numbers = np.flatnonzero(scene.registered) + 1
    colors = [
        color for color, registered in zip(image_colors(scene), scene.registered, strict=True) if registered
    ]
    low, high = np.percentile(scene.points[:, :2], [10, 90], axis=0)  # excludes outliers
    low, high = np.minimum(low, poses[:, :2, 3].min(0)), np.maximum(high, poses[:, :2, 3].max(0))
    margin = 0.06 * (high - low).max()
    low, high = low - margin, high + margin
    length = 0.07 * (high - low).max()
    half_width = (scene.image_sizes[:, 0] / (2 * scene.focals()))[scene.registered]
    corners = np.stack(
        [np.stack([side * half_width, 0 * half_width, np.ones(len(poses))], 1) for side in (-1, 1)], 1
    )
    corners = poses[:, None, :2, 3] + length * np.einsum("nij,nkj->nki", poses[:, :2, :3], corners)
    outlines = np.concatenate([poses[:, None, :2, 3], corners, poses[:, None, :2, 3]], axis=1)
    with matplotlib.rc_context(STYLE):
        height = float(np.clip(5.4 * (high - low)[1] / (high - low)[0], 3, 6.5))
        figure, axes = _empty(5.4, height)
        axes.scatter(*scene.points[:, :2].T, s=1.2, c=scene.colors / 255, linewidths=0, rasterized=True)
        axes.add_collection(LineCollection(list(outlines), colors=colors, linewidths=1.3))
        if len(poses) <= 100:
            behind = poses[:, :2, 3] - 0.4 * length * poses[:, :2, 2]
            for number, (x, y), color in zip(numbers, behind.tolist(), colors, strict=True):
                axes.annotate(str(number), (x, y), ha="center", va="center", color=color, fontsize=9)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        return _svg(figure)


def error_histogram(before: NDArray[np.floating], after: NDArray[np.floating]) -> bytes:
    """Draw histograms of the reprojection errors of all observations before and after training.

    The horizontal axis ends at the larger of the two 99th percentiles; the last bin counts all larger errors.

    Args:
        before: Reprojection errors of the reconstruction, in full-resolution pixels. (O,).
        after: Reprojection errors after training, in full-resolution pixels. (O,).

    Returns:
        Content of an SVG file.
    """
    most = float(max(np.percentile(before, 99), np.percentile(after, 99), 1e-3))
    bins = np.linspace(0, most, 60)
    with matplotlib.rc_context(STYLE):
        figure = Figure((5.4, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for errors, color, name in (
            (before, GRAY, "reconstruction"),
            (after, TRAINING_COLOR, "after training"),
        ):
            label = f"{name}: mean {errors.mean():.3f} px, median {np.median(errors):.3f} px"
            axes.hist(
                errors.clip(max=most), bins.tolist(), histtype="step", color=color, linewidth=1.5, label=label
            )
        axes.set(
            xlabel="reprojection error (px); the last bin includes all larger errors",
            ylabel="observations",
            xlim=(0, most),
        )
        axes.legend(frameon=False)
        return _svg(figure)


def curves(history: History) -> dict[str, bytes]:
    """Plot the metrics of the training history over the iterations, one figure per metric.

    Args:
        history: Training history.

    Returns:
        Contents of SVG files by figure title. Only metrics in `TITLES` that were recorded more than once are
        plotted.
    """
    plots = {}
    for name, title in TITLES.items():
        by_camera = history.curves(name)
        if any(len(steps) > 1 for steps, _ in by_camera.values()):
            plots[title] = _plot(title, by_camera, noisy=name in NOISY_METRICS)
    return plots


def _plot(title: str, by_camera: Mapping[str, tuple[Sequence[int], Sequence[float]]], noisy: bool) -> bytes:
    """Plot one or several curves of a metric.

    Args:
        title: Title of the figure.
        by_camera: Iterations and values of each curve, by curve label in the legend.
        noisy: Whether to draw the curves as thin gray lines, and to add their running means.

    Returns:
        Content of an SVG file.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure((5.2, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for number, (label, (steps, values)) in enumerate(by_camera.items()):
            color = GRAY if noisy else f"C{number}" if number else TRAINING_COLOR
            axes.plot(steps, values, color=color, linewidth=0.7 if noisy else 1.5, label=label)
            if noisy:
                axes.plot(steps, _running_mean(values), color=TRAINING_COLOR, linewidth=1.5)
        if len(by_camera) > 1:
            axes.legend(frameon=False)
        axes.set_title(title)
        axes.margins(x=0.01)
        axes.ticklabel_format(axis="y", useOffset=False)
        return _svg(figure)


def _running_mean(values: Sequence[float]) -> NDArray[np.floating]:
    """Compute the running mean of the n values of a curve. (n,).

    The window has n / 20 values, but at least five. Near both ends of the curve, it contains fewer values.
    """
    window = np.ones(min(len(values), max(5, len(values) // 20)))
    total = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones(len(values)), window, mode="same")


def _marker_size(count: int) -> float:
    """Return the area of the markers, in square points, in a match graph of `count` images."""
    return float(np.clip(3000 / count, 12, 90))


def _empty(width: float, height: float) -> tuple[Figure, Axes]:
    """Create a figure of `width` x `height` inches, with equal x and y scales, without axes or margins."""
    figure = Figure((width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_aspect("equal")
    return figure, axes


def _svg(figure: Figure) -> bytes:
    """Save a figure as the content of an SVG file."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=160, metadata={"Date": None})
    return file.getvalue()
