"""A limit on a resource that threads share, such as the number of decoded pixels in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Semaphore that limits the total amount of a resource that is held by all threads together.

    A request for more than `total` is granted when no other thread holds anything.

    Args:
        total: Maximum total amount, in any unit.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until an amount is available, and hold this amount for the duration of a `with` block.

        A thread must not nest such blocks, since two threads could then wait for each other.

        Args:
            amount: Amount to hold, at least 0, in the unit of `total`.

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
