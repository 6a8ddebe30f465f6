"""Interruption of a training by Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Interruption(KeyboardInterrupt):
    """Ctrl-C, deferred to the boundary between two iterations, where a checkpoint is consistent."""


class DeferredInterruption:
    """Handler of SIGINT that lets an iteration end, so that a consistent checkpoint can be saved."""

    def __init__(self) -> None:
        self.is_requested = False

    @contextmanager
    def deferred(self, training_state: Callable[[], str]) -> Iterator[None]:
        """Handle SIGINT within a block.

        Args:
            training_state: Returns nerfstudio's state of the training: "training", "paused" or "completed".

        Yields:
            Nothing.

        Raises:
            Interruption: If Ctrl-C is pressed while the training is paused.
            KeyboardInterrupt: If it is pressed for the second time, or after the training.
        """
        self.is_requested = False

        def interrupt(signal_number: int, frame: object) -> None:
            if training_state() == "paused":
                raise Interruption
            if training_state() == "completed" or self.is_requested:
                raise KeyboardInterrupt
            self.is_requested = True
            logger.info(
                "Interrupted: finishing this iteration and saving a checkpoint."
                " Press Ctrl-C again to stop at once."
            )

        previous_handler = signal.getsignal(signal.SIGINT)
        # Only the main thread receives signals. Background jobs of a shell script ignore SIGINT.
        if threading.current_thread() is not threading.main_thread() or previous_handler is signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous_handler)
