"""Set up the terminal output of a program: log messages and errors of the package.

Programs call these functions; importing the package as a library does not. Without these calls, messages go
through the logger `nope_splat` to the log handlers of the importing program. If there are no handlers, Python
prints only warnings and errors.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
import threading
import warnings
from contextlib import suppress
from types import TracebackType

from PIL import _imaging

from nope_splat.errors import NopeSplatError
from nope_splat.utils import progress

CONTROL_CHARACTERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that must not reach a terminal: control characters (C0 and C1) except tab and line feed, Unicode
line separators, text direction marks, and surrogates."""


def printable(text: str) -> str:
    r"""Escape control characters, which file names may contain, before a text is printed on a terminal.

    Args:
        text: The text. Tabs and line feeds are kept.

    Returns:
        The text, with escapes such as `\x1b` for the characters in `CONTROL_CHARACTERS`.
    """
    return CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], text)


class ConsoleHandler(logging.Handler):
    """Log handler that prints messages on stderr, above the progress bars. Rich markup is not interpreted."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one log record.

        Args:
            record: The log record.
        """
        try:
            text = printable(self.format(record))
            progress.CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


def show_messages() -> None:
    """Enable printing of the package's log messages on stderr; repeated calls have no further effect.

    The warnings that image decoders print about damaged images are silenced, because the log messages report
    these images with their file names.
    """
    _silence_decoders()
    logger = logging.getLogger("nope_splat")
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a dependency may have added a handler to the root logger


def print_error(error: NopeSplatError) -> None:
    """Print the message of an error on stderr as one line that starts with `nope-splat:`.

    Args:
        error: The error.
    """
    sentence = printable(str(error)).replace("\n", r"\n")
    print(f"nope-splat: {sentence}", file=sys.stderr, flush=True)


def _silence_decoders() -> None:
    """Prevent Pillow and its libtiff from printing warnings."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    with suppress(OSError, AttributeError):  # a statically linked libtiff exports no symbols
        libtiff = ctypes.CDLL(_imaging.__file__)  # also gives access to symbols of the linked libraries
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(libtiff, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def set_up_terminal() -> None:
    """Enable printing of log messages, and print an uncaught `NopeSplatError` as one line, without traceback.

    Use this function in programs that do not catch `NopeSplatError`, such as nerfstudio's commands. After an
    uncaught error, Python exits with status 1. Uncaught exceptions of other types go to the previous
    exception hooks.
    """
    show_messages()
    before, before_in_thread = sys.excepthook, threading.excepthook

    def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print_error(error) if isinstance(error, NopeSplatError) else before(kind, error, trace)

    def print_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        print_error(error) if isinstance(error, NopeSplatError) else before_in_thread(args)

    sys.excepthook, threading.excepthook = print_uncaught, print_uncaught_in_thread
