"""Progress bars of long stages."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from nope_splat.utils import progress


def capture_console(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> io.StringIO:
    """Redirect progress to a buffer that acts as a terminal or as a file."""
    output = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(file=output, force_terminal=terminal, width=100))
    return output


def test_without_a_terminal_a_stage_logs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = capture_console(monkeypatch, terminal=False)
    assert list(progress.progress_bar([3, 1, 2], "Sorting")) == [3, 1, 2]
    (line,) = caplog.messages
    assert line.startswith("Sorting: 3 in ")
    assert output.getvalue() == ""


def test_the_total_may_grow_during_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    output = capture_console(monkeypatch, terminal=True)
    queue = ["item"]

    def growing_items() -> Iterator[str]:
        for item in queue:
            if len(queue) < 5:
                queue.append(item)
            yield item

    assert len(list(progress.progress_bar(growing_items(), "Matching", lambda: len(queue)))) == 5
    assert "5/5" in output.getvalue()
