"""Test that successful stages are skipped and failed ones are run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark.stages import StageFailed, cores, run_stage


def python(code: str) -> list[str]:
    return ["python", "-c", code]


def test_a_stage_runs_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = python(f"open({str(count)!r}, 'a').write('x')")
    first = run_stage(command, tmp_path / "stage")
    assert run_stage(command, tmp_path / "stage") == first
    assert count.read_text() == "x"
    assert first.seconds > 0
    assert first.peak_gib > 0


def test_another_command_starts_from_an_empty_folder(tmp_path: Path) -> None:
    run_stage(python(f"open({str(tmp_path / 'stage' / 'old')!r}, 'w')"), tmp_path / "stage")
    run_stage(python("pass"), tmp_path / "stage")
    assert not (tmp_path / "stage" / "old").exists()


def test_a_stage_runs_again_after_one_that_it_reads(tmp_path: Path) -> None:
    first = run_stage(python("pass"), tmp_path / "first")
    second = run_stage(python("pass"), tmp_path / "second", [first])
    assert run_stage(python("pass"), tmp_path / "second", [first]) == second
    first = run_stage(python("0"), tmp_path / "first")
    assert run_stage(python("pass"), tmp_path / "second", [first]) != second


def test_a_failure_has_a_reason_and_is_retried(tmp_path: Path) -> None:
    code = f"import pathlib; assert pathlib.Path({str(tmp_path / 'now')!r}).exists(), 'not yet'"
    with pytest.raises(StageFailed, match="not yet"):
        run_stage(python(code), tmp_path / "stage")
    (tmp_path / "now").touch()
    run_stage(python(code), tmp_path / "stage")


def test_a_stage_can_run_on_a_single_core(tmp_path: Path) -> None:
    code = "import os; print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])"
    run_stage(python(code), tmp_path / "stage", core=0)
    assert (tmp_path / "stage" / "log.txt").read_text().strip() == f"{{{cores()[0]}}} 1"


def test_peak_memory_excludes_the_parent_process(tmp_path: Path) -> None:
    large = b"x" * 2**28  # in the measuring process
    assert run_stage(python("pass"), tmp_path / "small").peak_gib < 0.1
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'large = b\"x\" * 2**27'])"
    assert 0.125 < run_stage(python(code), tmp_path / "of its child").peak_gib < 0.225
    assert len(large) == 2**28
