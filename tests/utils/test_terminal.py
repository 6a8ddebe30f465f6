"""A library is silent and raises; a program prints messages and ends with the sentence of an error."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from nope_splat.errors import NopeSplatError

START = """
import logging, threading
from nope_splat.errors import NopeSplatError
from nope_splat.utils.terminal import set_up_terminal, show_messages
logger = logging.getLogger("nope_splat.sfm")

def fail():
    raise NopeSplatError("missing-file", "there is no [file]; make one")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True)


def test_an_uncaught_error_is_its_sentence() -> None:
    done = run("set_up_terminal(); fail()")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nope-splat: there is no [file]; make one\n"


def test_an_error_in_a_thread_is_its_sentence() -> None:
    done = run("set_up_terminal(); thread = threading.Thread(target=fail); thread.start(); thread.join()")
    assert done.stderr == "nope-splat: there is no [file]; make one\n"


@pytest.mark.parametrize("start", ["1 / 0", "threading.Thread(target=lambda: 1 / 0).start()"])
def test_other_exceptions_keep_their_traceback(start: str) -> None:
    done = run(f"set_up_terminal(); {start}")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_without_a_program_there_is_a_traceback() -> None:
    assert "Traceback" in run("fail()").stderr


def test_messages_are_printed_once_and_as_they_are() -> None:
    done = run("logging.basicConfig(); show_messages(); set_up_terminal(); logger.info('[red]50 % left out')")
    assert done.stderr == "[red]50 % left out\n"
    assert done.stdout == ""


def test_a_library_warns_and_is_silent_otherwise() -> None:
    assert run("logger.info('working'); logger.warning('doubtful')").stderr == "doubtful\n"


def test_errors_survive_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(NopeSplatError("too-few-images", "one photo")))
    assert isinstance(error, NopeSplatError)
    assert (error.code, str(error)) == ("too-few-images", "one photo")
