"""Draw the reliability diagram: predicted trust against the fraction of correct reconstructions.

    python -m scripts.reliability.diagram OUT/after.jsonl --output diagram.png

Trust is the probability that nope-splat assigns to its own reconstruction. A reconstruction is correct if the
AUC@5 over its registered images exceeds 90. Refused sets, sets without true cameras and results without trust
are omitted. The values are also printed as a Markdown table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from nope_splat.errors import NopeSplatError
from nope_splat.utils.terminal import set_up_terminal
from nope_splat.utils.typing import Array, Mask
from scripts.reliability.results import Row, read_rows
from scripts.reliability.table import table


@dataclass(frozen=True)
class Bin:
    """Results whose trust lies in one interval."""

    low: float
    """Lower end of the interval of trust, inclusive."""
    high: float
    """Upper end of the interval of trust; exclusive, except in the last interval."""
    count: int
    """Number of results in the interval."""
    predicted: float
    """Mean trust of the results; NaN if there are none."""
    observed: float
    """Fraction of correct reconstructions among the results; NaN if there are none."""


@dataclass(frozen=True)
class Calibration:
    """Measures of how well trust predicts that a reconstruction is correct."""

    bins: tuple[Bin, ...]
    """Results by interval of trust; the intervals have equal width and cover 0 to 1."""
    brier: float
    """Brier score: mean squared difference between trust and result (1 if correct, else 0); 0 is perfect."""
    expected_error: float
    """Expected calibration error: mean over all results of |observed - predicted| of the result's interval; 0
    is perfect."""


def calibration(trust: Array, right: Mask, num_bins: int) -> Calibration:
    """Compare the predicted trust with the observed fraction of correct reconstructions.

    Args:
        trust: Predicted probability that each reconstruction is correct, 0 to 1. (N,).
        right: True for correct reconstructions. (N,).
        num_bins: Number of intervals of equal width.
    """
    index = np.minimum((trust * num_bins).astype(np.int64), num_bins - 1)
    bins = []
    for i in range(num_bins):
        inside = index == i
        predicted, observed = (
            (float(trust[inside].mean()), float(right[inside].mean())) if inside.any() else (np.nan, np.nan)
        )
        bins.append(Bin(i / num_bins, (i + 1) / num_bins, int(inside.sum()), predicted, observed))
    gaps = [each.count * abs(each.observed - each.predicted) for each in bins if each.count]
    brier = float(((trust - right) ** 2).mean())
    return Calibration(tuple(bins), brier, float(sum(gaps) / len(trust)))


def main(
    results: Annotated[tuple[Path, ...], tyro.conf.Positional], output: Path, num_bins: int = 10
) -> None:
    """Draw the reliability diagram and print its values.

    Args:
        results: Files of results. Their rows are combined in one diagram.
        output: Path of the diagram, an image file.
        num_bins: Number of intervals of trust.
    """
    rows = usable(row for path in results for row in read_rows(path))
    if not rows:
        raise NopeSplatError(
            "invalid-option",
            f"{', '.join(map(str, results))} has no result with trust and true cameras; run"
            " scripts.reliability.run with a package that computes trust",
        )
    trust = np.array([row["trust"] for row in rows], dtype=np.float64)
    right = np.array([row["right"] for row in rows], dtype=bool)
    result = calibration(trust, right, num_bins)
    print(markdown(result))
    draw(result, output)


def usable(rows: Any) -> list[Row]:
    """Select the rows that have both trust and a judgment against true cameras."""
    return [row for row in rows if row["trust"] is not None and row["right"] is not None]


def markdown(result: Calibration) -> str:
    """Format the values of a diagram as a Markdown table."""
    rows = [
        [
            f"{each.low:.1f} to {each.high:.1f}",
            str(each.count),
            f"{each.predicted:.2f}",
            f"{each.observed:.2f}",
        ]
        for each in result.bins
        if each.count
    ]
    total = sum(each.count for each in result.bins)
    return "\n".join(
        [
            *table(["trust", "results", "mean trust", "share right"], rows),
            "",
            f"Brier score {result.brier:.3f}, expected calibration error {result.expected_error:.3f}, over"
            f" {total} results.",
        ]
    )


def draw(result: Calibration, path: Path) -> None:
    """Draw a reliability diagram, with the number of results per interval below.

    Args:
        result: Values of the diagram.
        path: Path of the diagram, an image file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(5, 6), sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    filled = [each for each in result.bins if each.count]
    top.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    top.plot([b.predicted for b in filled], [b.observed for b in filled], "o-", label="measured")
    for each in filled:
        top.annotate(str(each.count), (each.predicted, each.observed), (4, 5), textcoords="offset points")
    title = f"Brier score {result.brier:.3f}, expected calibration error {result.expected_error:.3f}"
    top.set(ylabel="share with AUC@5 > 90", ylim=(-0.03, 1.08), title=title)
    top.title.set_fontsize("medium")
    top.legend(fontsize="small", loc="upper left")
    width = 1 / len(result.bins)
    bottom.bar([each.low + width / 2 for each in result.bins], [b.count for b in result.bins], width * 0.9)
    bottom.set(xlabel="predicted trust", ylabel="results", xlim=(0, 1))
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(main)
