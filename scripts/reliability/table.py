"""Print Markdown tables of all image sets, for one file of results or for two side by side.

python -m scripts.reliability.table OUT/before.jsonl OUT/after.jsonl
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import tyro

from nope_splat.errors import NopeSplatError
from nope_splat.utils.terminal import set_up_terminal
from scripts.reliability.judge import GOOD, Verdict
from scripts.reliability.results import Row, read_rows

COLUMNS = ("registered", "wrong", "AUC@5", "ATE %", "focal %", "error px", "notices", "trust", "verdict", "s")


def main(
    results: Annotated[tuple[Path, ...], tyro.conf.Positional], columns: tuple[str, ...] = COLUMNS
) -> None:
    """Print the tables of verdicts and of image sets.

    Args:
        results: One file of results, or two files to compare (before and after a change).
        columns: Columns of the tables of image sets.
    """
    if not 1 <= len(results) <= 2:
        raise NopeSplatError("invalid-option", f"pass one or two files of results, not {len(results)}")
    for path in results:
        if not path.exists():
            raise NopeSplatError("missing-file", f"there is no file of results {path}")
    for name in columns:
        if name not in COLUMNS:
            raise NopeSplatError(
                "invalid-option", f"no column is called {name}; there are {', '.join(COLUMNS)}"
            )
    print(markdown([read_rows(path) for path in results], [path.stem for path in results], columns))


def markdown(results: Sequence[list[Row]], labels: Sequence[str], columns: Sequence[str] = COLUMNS) -> str:
    """Format the tables of verdicts and of image sets.

    Args:
        results: Rows of each file of results.
        labels: Name of each file of results.
        columns: Columns of the tables of image sets.
    """
    by_name = [{row["name"]: row for row in rows} for rows in results]
    names = list(dict.fromkeys(name for rows in by_name for name in rows))
    families = list(dict.fromkeys(rows[name]["family"] for name in names for rows in by_name if name in rows))
    lines = [*_verdicts(results, labels), "", *_seconds(by_name, labels)]
    for family in families:
        chosen = [name for name in names if any(name in r and r[name]["family"] == family for r in by_name)]
        lines += ["", f"### {family}", "", *_family(chosen, by_name, labels, columns)]
    return "\n".join(lines)


def _verdicts(results: Sequence[list[Row]], labels: Sequence[str]) -> list[str]:
    """Format the table of how often each verdict occurs, separately for traps and for honest sets."""
    titles = [f"{label}, {kind}" for label in labels for kind in ("traps", "honest")]
    counts = [
        Counter(row["verdict"] for row in rows if row["honest"] == honest)
        for rows in results
        for honest in (False, True)
    ]
    rows = []
    for name in get_args(Verdict):
        if any(count[name] for count in counts):
            label = name if name in GOOD else f"**{name}**"
            rows.append([label, *(str(count[name] or "") for count in counts)])
    rows.append(["sets", *(str(count.total()) for count in counts)])
    return table(["verdict", *titles], rows)


def _seconds(by_name: Sequence[dict[str, Row]], labels: Sequence[str]) -> list[str]:
    """Format the sum of the seconds over the sets that all files contain without a crash."""
    common = [
        name for name in by_name[0] if all(name in rows and not rows[name]["crashed"] for rows in by_name)
    ]
    sums = [sum(rows[name]["seconds"] for name in common) for rows in by_name]
    lines = [
        f"Seconds over {len(common)} sets: "
        + ", ".join(f"{label} {total:.0f}" for label, total in zip(labels, sums, strict=True))
        + "."
    ]
    if len(by_name) == 2 and common:
        ratios = [by_name[1][name]["seconds"] / by_name[0][name]["seconds"] for name in common]
        lines.append(f"Median ratio of the seconds of a set: {statistics.median(ratios):.3f}.")
    return lines


def _family(
    names: list[str], by_name: Sequence[dict[str, Row]], labels: Sequence[str], columns: Sequence[str]
) -> list[str]:
    titles = ["set", "kind"]
    titles += [f"{label}: {title}" if len(labels) > 1 else title for label in labels for title in columns]
    rows = []
    for name in names:
        first = next(rows[name] for rows in by_name if name in rows)
        cells = [name, "honest" if first["honest"] else "trap"]
        for result in by_name:
            row = result.get(name)
            by_title: dict[str, str] = dict(zip(COLUMNS, row_cells(row), strict=True)) if row else {}
            cells += [by_title.get(title, "") for title in columns]
        rows.append(cells)
    return table(titles, rows)


def row_cells(row: Row) -> list[str]:
    """Format the cells of a row of results, one per column of `COLUMNS`."""
    accuracy, notices = row["accuracy"], ", ".join(row["notice_codes"])
    if row["refused"]:
        notices = f"refused: {row['refused']['code']}"
    figures = [""] * 4
    if accuracy:
        figures = [
            f"{len(accuracy['wrong_images'])} ({len(accuracy['wrong_rotations'])} rotated)",
            f"{accuracy['auc_5']:.1f}",
            f"{accuracy['ate']:.2f}",
            f"{accuracy['focal_error']:+.1f}",
        ]
    error, trust = row["reprojection_error"], row["trust"]
    return [
        f"{row['registered']}/{row['images']}" if row["images"] else "",
        *figures,
        "" if error is None else f"{error:.2f}",
        notices,
        "" if trust is None else f"{trust:.2f}",
        row["verdict"] if row["verdict"] in GOOD else f"**{row['verdict']}**",
        f"{row['seconds']:.0f}",
    ]


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Format a Markdown table, omitting columns whose cells are all empty.

    Args:
        titles: Titles of the columns.
        rows: Texts of the cells of each row.
    """
    used = [column for column in range(len(titles)) if any(row[column] for row in rows)]
    cells = [[row[column] for column in used] for row in [titles, ["---"] * len(titles), *rows]]
    return ["| " + " | ".join(row) + " |" for row in cells]


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(main)
