"""Handling of Ctrl-C (SIGINT) during training."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Interruption(KeyboardInterrupt):
    """Exception that is raised between two iterations after Ctrl-C, so that a checkpoint can be saved."""


class DeferredInterruption:
    """Handler of Ctrl-C (SIGINT) that requests an interruption after the current iteration.

    After Ctrl-C, `is_requested` is True. The training loop then raises `Interruption` before the next
    iteration, when the state of the training run is consistent.
    """

    def __init__(self) -> None:
        self.is_requested = False

    @contextmanager
    def deferred(self, training_state: Callable[[], str]) -> Iterator[None]:
        """Handle Ctrl-C within a `with` block.

        The first Ctrl-C during training raises nothing; it only sets `is_requested`.

        Args:
            training_state: Function that returns nerfstudio's training state: "training", "paused" or
                "completed".

        Yields:
            Nothing.

        Raises:
            Interruption: If Ctrl-C is pressed while the training run is paused.
            KeyboardInterrupt: If Ctrl-C is pressed for the second time, or after training is completed.
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
