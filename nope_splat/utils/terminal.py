"""Messages and errors of the package on a terminal: what a program sets up, and a library must not.

Without it, messages go to the handlers of the importing program, through the logger `nope_splat`: by
Python's defaults, warnings alone are printed.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

from nope_splat.errors import NopeSplatError
from nope_splat.utils import progress


class ConsoleHandler(logging.Handler):
    """Print messages on stderr as they are, square brackets included, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message.

        Args:
            record: The message.
        """
        try:
            progress.CONSOLE.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


def show_messages() -> None:
    """Print what the package logs on stderr, each message once however often this is called."""
    logger = logging.getLogger("nope_splat")
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a dependency may have given the root logger a handler of its own


def print_error(error: NopeSplatError) -> None:
    """Print the message of an error to stderr.

    Args:
        error: The error.
    """
    print(f"nope-splat: {error}", file=sys.stderr, flush=True)


def set_up_terminal() -> None:
    """Print messages, and an uncaught `NopeSplatError` as its sentence; Python then exits with status 1.

    Other exceptions go to the hooks that were there before. For programs that do not catch the error
    themselves, such as those of nerfstudio.
    """
    show_messages()
    before, before_in_thread = sys.excepthook, threading.excepthook

    def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print_error(error) if isinstance(error, NopeSplatError) else before(kind, error, trace)

    def print_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        print_error(error) if isinstance(error, NopeSplatError) else before_in_thread(args)

    sys.excepthook, threading.excepthook = print_uncaught, print_uncaught_in_thread
