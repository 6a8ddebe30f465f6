"""Progress of the long stages, on stderr so that results alone go to stdout."""

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


def track(items: Iterable[T], description: str, total: int | Callable[[], int] | None = None) -> Iterator[T]:
    """Yield the items of one stage under a progress bar; without a terminal, log one line at its end.

    Args:
        items: What the stage works through.
        description: Name of the stage, for example `"Matching pairs"`.
        total: Number of items, when `items` does not know its length; or what tells how many there are so
            far, when they become more.

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
        growing = total if callable(total) else lambda: total
        task = progress.add_task(description, total=growing())
        for count, item in enumerate(items, start=1):
            yield item
            progress.update(task, completed=count, total=growing())
    if not CONSOLE.is_terminal:
        logger.info(f"{description}: {count} in {time.perf_counter() - start:.1f} s")
