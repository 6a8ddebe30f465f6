"""Progress bars on stderr, so that stdout contains only results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONSOLE = Console(stderr=True)
"""Console of progress bars, log messages and summary tables."""


def progress_bar(
    items: Iterable[T], description: str, total: int | Callable[[], int] | None = None
) -> Iterator[T]:
    """Yield items while displaying a progress bar on stderr.

    If stderr is not a terminal, the number of items and the time are logged at the end instead.

    Args:
        items: The items to process.
        description: Name of the stage, for example `"Matching pairs"`.
        total: Number of items. None means `len(items)` if `items` has a length, else an unknown number. If
            items are added during the iteration, pass a function that returns the current number.

    Yields:
        The items, unchanged.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True, compact=True),
    )
    count = 0
    with Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal) as progress:
        current_total = total if callable(total) else lambda: total
        task = progress.add_task(description, total=current_total())
        for count, item in enumerate(items, start=1):
            yield item
            progress.update(task, completed=count, total=current_total())
    if not CONSOLE.is_terminal:
        logger.info(f"{description}: {count} in {time.perf_counter() - start:.1f} s")
