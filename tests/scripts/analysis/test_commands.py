"""Test that forks of a process with all imports run console scripts like ordinary processes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from scripts.analysis import commands
from scripts.analysis.commands import Command, Fork, Process

TOOL = str(Path(sys.executable).parent / "nope-splat")


@pytest.mark.parametrize("kind", [Fork, Process])
def test_output_and_exit_status_are_those_of_the_script(
    kind: type[Fork] | type[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PRELOADED", ["nope_splat.cli"])
    log = tmp_path / "log"

    def start(*arguments: str) -> Command:
        return kind([TOOL, *arguments], log)

    assert start("--help").wait() == 0
    assert "usage: nope-splat COMMAND" in log.read_text()
    assert start("no-such-command").wait() == 2
    assert "usage: nope-splat COMMAND" in log.read_text()
    running = start("demo-scene", "--output-dir", str(tmp_path / "scene"))
    assert running.poll() is None
    running.kill()
    assert running.poll() == -signal.SIGKILL


def test_a_script_that_the_server_has_not_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PRELOADED", ["nope_splat.cli"])
    assert Fork([str(Path(TOOL).with_name("ns-export")), "--help"], tmp_path / "log").wait() == 1
    assert "the fork server has not imported nerfstudio.scripts.exporter" in (tmp_path / "log").read_text()
