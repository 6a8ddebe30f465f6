"""Tables and plots of the benchmark."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], float], int]
"""Column of a table: title, function that reads the value from a row, and number of decimal places."""


def _camera(name: str) -> Callable[[Row], float]:
    return lambda row: row["cameras"][name]


def _view(name: str) -> Callable[[Row], float]:
    return lambda row: row["held_out"][name]


def with_views(rows: list[Row]) -> list[Row]:
    """Add means over the held-out images, as `held_out`, to the rows of trainings.

    The means of a scene use only the images that every training has registered, so that no method gains by
    failing on difficult images. The tables show the number of registered images.

    Args:
        rows: One row per scene, method and seed. Rows of trainings have metrics by image as
            `images_held_out`.

    Returns:
        Copies of the rows with `held_out`: the mean of each metric, empty without held-out images.
    """
    result = []
    for group in _by(rows, "scene").values():
        registered = [set(row["images_held_out"]) for row in group if row.get("images_held_out")]
        common = sorted(set.intersection(*registered)) if registered else []
        for row in group:
            images = [row["images_held_out"][name] for name in common if row.get("images_held_out")]
            metrics = list(images[0]) if images else []
            means = {name: statistics.mean(image[name] for image in images) for name in metrics}
            result.append({**row, "held_out": means})
    return result


def total_seconds(row: Row) -> float:
    """Compute the wall time in seconds from the images to the cameras or, for a training, to the splat."""
    return sum(row["seconds"].values())


CAMERAS: list[Column] = [
    ("focal error %", _camera("focal_error"), 2),
    ("AUC@5", _camera("auc_5"), 1),
    ("AUC@30", _camera("auc_30"), 1),
    ("RRA@5", _camera("rra_5"), 1),
    ("RTA@5", _camera("rta_5"), 1),
    ("ATE %", _camera("ate"), 3),
]
VIEWS: list[Column] = [
    ("PSNR", _view("psnr"), 2),
    ("SSIM", _view("ssim"), 3),
    ("PSNR covered", _view("psnr_covered"), 2),
    ("PSNR t95", _view("psnr_trimmed"), 2),
    ("LPIPS", _view("lpips"), 3),
]
COSTS: list[Column] = [("seconds", total_seconds, 0), ("GiB", lambda row: row["peak_gib"], 1)]
MEANS: list[Column] = [*VIEWS, ("AUC@5", _camera("auc_5"), 1), ("ATE %", _camera("ate"), 3), COSTS[0]]


def write_report(rows: list[Row], methods: dict[str, Any], settings: Row, output_dir: Path) -> None:
    """Write `benchmark.json`, `benchmark.md` and the plots `views.png` and `time.png`.

    Args:
        rows: One row per scene, method and seed.
        methods: Methods in `configs/benchmark.json`, by name.
        settings: Settings of the benchmark.
        output_dir: Output folder.
    """
    rows = with_views(rows)
    content = {"settings": settings, "methods": methods, "rows": rows}
    (output_dir / "benchmark.json").write_text(json.dumps(content, indent=1, default=str))
    (output_dir / "benchmark.md").write_text(markdown(rows, methods, settings))
    trained = [row for row in rows if row.get("held_out")]
    if trained:
        plot_views(trained, output_dir / "views.png")
        plot_time(trained, methods, output_dir / "time.png")


def markdown(rows: list[Row], methods: dict[str, Any], settings: Row) -> str:
    """Format one table per scene with the metrics of every method, and a table of means over the scenes.

    Args:
        rows: One row per scene, method and seed, from `with_views`.
        methods: Methods in `configs/benchmark.json`, by name.
        settings: Settings of the benchmark.

    Returns:
        Markdown text. Values are means and standard deviations over the seeds.
    """
    lines = [
        f"{settings['iterations']} iterations at {settings['max_image_size']} pixels with at most"
        f" {settings['max_gaussians']} Gaussians; every {settings['eval_interval']}th photo held out;"
        f" seeds {', '.join(map(str, settings['seeds']))}.",
        f"Seconds are those of {settings['jobs']} trainings side by side, each on one core."
        if settings["jobs"] > 1
        else "Seconds are those of one training at a time, on all cores.",
        "Views are those held-out photos of a scene that every training could register.",
        "",
        *(f"- {name}: {method['description']}" for name, method in methods.items()),
    ]
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    if len(scenes) > 1:
        lines += ["", "### Means over the scenes", "", *_table(_mean_lines(rows, scenes))]
    for scene in scenes:
        lines += ["", f"### {scene}", "", *_table(_lines([row for row in rows if row["scene"] == scene]))]
    return "\n".join([*lines, ""])


def _lines(rows: list[Row]) -> list[dict[str, str]]:
    """Format the table lines of one scene: for each method, cell texts by column title."""
    lines = []
    for method, group in _by(rows, "method").items():
        good = [row for row in group if "error" not in row]
        failed = f" ({len(group) - len(good)} of {len(group)} failed)" if len(good) < len(group) else ""
        line = {"method": method + failed}
        if good:
            line["registered"] = f"{min(row['registered'] for row in good)} of {good[0]['images']}"
            line["held out"] = str(min(row["held_out_registered"] for row in good))
        for title, pick, digits in [*CAMERAS, *VIEWS, *COSTS]:
            line[title] = spread(_picked(good, pick), digits)
        lines.append(line)
    return lines


def _mean_lines(rows: list[Row], scenes: list[str]) -> list[dict[str, str]]:
    """Format the table lines of the means over all scenes: for each method, cell texts by column title.

    Only seeds with which a method succeeded on all scenes are used; methods without such a seed are omitted.
    """
    lines = []
    for method, group in _by(rows, "method").items():
        seeds = [seed for seed in _by(group, "seed").values() if len(seed) == len(scenes)]
        seeds = [seed for seed in seeds if all("error" not in row for row in seed)]
        if not seeds:
            continue
        line = {"method": method}
        for title, pick, digits in MEANS:
            values = [_picked(seed, pick) for seed in seeds]
            line[title] = spread(
                [statistics.mean(by_scene) for by_scene in values if len(by_scene) == len(scenes)], digits
            )
        lines.append(line)
    return lines


def spread(values: Sequence[float], digits: int) -> str:
    """Format the mean of values and, for several values, their standard deviation.

    Args:
        values: One value per seed. Without values, the text is empty.
        digits: Number of decimal places.
    """
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _picked(rows: list[Row], pick: Callable[[Row], float]) -> list[float]:
    """Collect a value of every row that has it; rows of reconstructions without a training have no views."""
    values = []
    for row in rows:
        try:
            values.append(pick(row))
        except KeyError:
            continue
    return values


def _by(rows: list[Row], key: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _table(lines: list[dict[str, str]]) -> list[str]:
    if not lines:
        return ["nothing measured"]
    titles = list(dict.fromkeys(title for line in lines for title, cell in line.items() if cell))
    cells = [titles, ["---"] * len(titles), *([line.get(title, "") for title in titles] for line in lines)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def plot_views(rows: list[Row], path: Path) -> None:
    """Plot mean PSNR and SSIM of every method and scene, with the standard deviation over the seeds.

    Args:
        rows: Rows of successful trainings.
        path: Path of the plot, an image file.
    """
    plt = _pyplot()
    scenes, methods = _by(rows, "scene"), list(_by(rows, "method"))
    figure, axes = plt.subplots(2, len(scenes), figsize=(4 * len(scenes), 6), squeeze=False, sharex=True)
    for column, (scene, group) in enumerate(scenes.items()):
        axes[0, column].set_title(scene)
        for axis, (title, pick, _) in zip(axes[:, column], VIEWS[:2], strict=True):
            for place, method in enumerate(methods):
                values = [pick(row) for row in group if row["method"] == method]
                if values:
                    axis.errorbar(place, statistics.mean(values), yerr=_deviation(values), fmt="o", capsize=3)
            axis.set_ylabel(title)
            axis.set_xticks(range(len(methods)), methods, rotation=60, ha="right")
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_time(rows: list[Row], methods: dict[str, Any], path: Path) -> None:
    """Plot PSNR against the seconds from images to splat.

    Lines connect trainings of the same method with different numbers of iterations.

    Args:
        rows: Rows of successful trainings.
        methods: Methods in `configs/benchmark.json`, by name.
        path: Path of the plot, an image file.
    """
    plt = _pyplot()
    scenes = _by(rows, "scene")
    figure, axes = plt.subplots(1, len(scenes), figsize=(5 * len(scenes), 4), squeeze=False)
    for axis, (scene, group) in zip(axes[0], scenes.items(), strict=True):
        families: dict[str, list[tuple[float, float, float]]] = {}
        for method, measured in _by(group, "method").items():
            psnr = [row["held_out"]["psnr"] for row in measured]
            point = statistics.mean(map(total_seconds, measured)), statistics.mean(psnr), _deviation(psnr)
            families.setdefault(methods[method].get("shortens", method), []).append(point)
        for family, points in families.items():
            seconds, means, deviations = zip(*sorted(points), strict=True)
            axis.errorbar(seconds, means, yerr=deviations, fmt="o-", capsize=3, label=family)
        axis.set(title=scene, xlabel="seconds from photos to splat", ylabel="held-out PSNR in dB")
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
