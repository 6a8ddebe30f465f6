"""Messages and errors of the package on a terminal: what a program sets up, and a library must not.

Without it, messages go to the handlers of the importing program, through the logger `nope_splat`: by
Python's defaults, warnings alone are printed.
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
"""Control characters (C0, C1) except tab and line feed, line separators, changes of the text direction, and
surrogates."""


def printable(text: str) -> str:
    r"""Escape characters that would control a terminal or break a line; file names may contain them.

    Args:
        text: Text with tabs and line feeds, which stay.

    Returns:
        The text with escapes such as `\x1b`.
    """
    return CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], text)


class ConsoleHandler(logging.Handler):
    """Print messages on stderr as they are, square brackets included, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message.

        Args:
            record: The message.
        """
        try:
            text = printable(self.format(record))
            progress.CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


def show_messages() -> None:
    """Print what the package logs on stderr, each message once however often this is called.

    What decoders print themselves about damaged images is silenced: the messages say it, with the file name.
    """
    _silence_decoders()
    logger = logging.getLogger("nope_splat")
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a dependency may have given the root logger a handler of its own


def print_error(error: NopeSplatError) -> None:
    """Print the message of an error to stderr, in one line.

    Args:
        error: The error.
    """
    sentence = printable(str(error)).replace("\n", r"\n")
    print(f"nope-splat: {sentence}", file=sys.stderr, flush=True)


def _silence_decoders() -> None:
    """Keep Pillow and its libtiff from printing warnings."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    with suppress(OSError, AttributeError):  # a libtiff that is not a shared library cannot be reached
        libtiff = ctypes.CDLL(_imaging.__file__)  # finds the symbols of the libraries that it is linked to
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(libtiff, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


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
