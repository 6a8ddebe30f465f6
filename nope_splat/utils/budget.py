"""A limit on what all threads together hold at a time, such as the pixels of decoded images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Semaphore on a sum of amounts. More than the whole budget is granted if nothing else is held.

    Args:
        total: Largest sum that is held at a time.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold an amount within a block, after waiting until it is free.

        A block must not hold a second amount, since two threads could wait for each other.

        Args:
            amount: At least 0.

        Yields:
            Nothing.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + amount <= self.total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
