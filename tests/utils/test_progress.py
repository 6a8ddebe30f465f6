"""Long stages show how far they are."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from nope_splat.utils import progress


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> io.StringIO:
    """Where progress is written to: a terminal, or a file."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(file=written, force_terminal=terminal, width=100))
    return written


def test_without_a_terminal_a_stage_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = shown(monkeypatch, terminal=False)
    assert list(progress.track([3, 1, 2], "Sorting")) == [3, 1, 2]
    (line,) = caplog.messages
    assert line.startswith("Sorting: 3 in ")
    assert written.getvalue() == ""


def test_a_stage_may_find_more_to_do_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = shown(monkeypatch, terminal=True)
    todo = ["one"]

    def work() -> Iterator[str]:
        for item in todo:
            if len(todo) < 5:
                todo.append(item)
            yield item

    assert len(list(progress.track(work(), "Walking", lambda: len(todo)))) == 5
    assert "5/5" in written.getvalue()
