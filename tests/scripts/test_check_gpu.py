"""Test the GPU check without a GPU: steps, commands, JSON file and table."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from nope_splat.plugin.config import nope_splat
from scripts import check_gpu
from scripts.benchmark.splatfacto_peer import Settings as PeerSettings
from scripts.gpu.plan import Settings, build_steps, environment
from scripts.gpu.report import content, failures, summary, table
from scripts.gpu.steps import Outcome, Results, Runner, Step

# --- Running steps ---


def python(folder: Path, name: str, code: str, **options) -> Step:
    """Create a step that runs a program, with `result` as its result file."""
    result = folder / name / "result.json"
    start = f"import json, pathlib, time; result = pathlib.Path({str(result)!r})\n"
    limit = options.pop("time_limit", 60)
    return Step(name, lambda results: [sys.executable, "-c", start + code], limit, **options)


def writes(folder: Path, name: str, **options) -> Step:
    return python(folder, name, f"result.write_text(json.dumps({{'name': {name!r}}}))", **options)


def runner(folder: Path, time_limit: float = 100, **options) -> Runner:
    return Runner(folder, lambda results: os.environ, time_limit, **options)


def test_a_step_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    fails = python(tmp_path, "fails", "print('one'); print('two'); raise SystemExit(3)")
    steps = [fails, writes(tmp_path, "next")]
    outcomes = runner(tmp_path).run(steps)
    assert outcomes["fails"].status == "failed"
    assert outcomes["fails"].reason == "it ended with status 3"
    assert outcomes["fails"].log_tail[-2:] == ["one", "two"]
    assert outcomes["next"].status == "passed"
    assert outcomes["next"].result == {"name": "next"}
    assert failures(outcomes) == ["fails"]


def test_a_step_needs_its_predecessors(tmp_path: Path) -> None:
    steps = [
        python(tmp_path, "fails", "1 / 0"),
        writes(tmp_path, "needy", needs=("fails",)),
        writes(tmp_path, "needier", needs=("needy",)),
        writes(tmp_path, "skipped", skip="it needs a GPU"),
        writes(tmp_path, "after", needs=("skipped",)),
    ]
    outcomes = runner(tmp_path).run(steps)
    assert [outcome.status for outcome in outcomes.values()] == [
        *("failed", "not run", "not run", "skipped", "passed")
    ]
    assert "needy" in outcomes["needier"].reason
    assert failures(outcomes) == ["fails", "needy", "needier"]


def test_at_the_time_limit_a_step_is_killed_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(alive)!r}).touch()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.perf_counter()
    outcomes = runner(tmp_path).run([python(tmp_path, "slow", code, time_limit=1)])
    assert time.perf_counter() - start < 3
    assert outcomes["slow"].status == "failed"
    assert outcomes["slow"].reason == "it was stopped after its time limit of 1 s"
    time.sleep(3)
    assert not alive.exists()


def test_the_overall_time_limit_exempts_some_steps(tmp_path: Path) -> None:
    steps = [
        python(tmp_path, "compiles", "time.sleep(2); result.write_text('{}')", in_budget=False),
        python(tmp_path, "long", "time.sleep(60)"),
        writes(tmp_path, "late"),
    ]
    outcomes = runner(tmp_path, time_limit=1.5).run(steps)
    assert [outcome.status for outcome in outcomes.values()] == ["passed", "failed", "not run"]
    assert outcomes["long"].seconds < 30


def test_a_step_without_a_result_has_failed(tmp_path: Path) -> None:
    def broken(results: Results) -> list[str]:
        return [str(results["silent"]["no such figure"])]

    steps = [
        python(tmp_path, "silent", "pass"),
        Step("broken", broken, 10),
        Step("missing", lambda results: ["/no/such/program"], 10),
    ]
    outcomes = runner(tmp_path).run(steps)
    assert outcomes["silent"].reason == "it did not write result.json"
    assert outcomes["broken"].reason.startswith("KeyError")
    assert outcomes["missing"].reason.startswith("FileNotFoundError")


def test_result_of_a_failed_step_is_kept(tmp_path: Path) -> None:
    step = python(tmp_path, "tests", "result.write_text('{\"passed\": 3}'); raise SystemExit(1)")
    assert runner(tmp_path).run([step])["tests"].result == {"passed": 3}


def test_unselected_steps_keep_their_outcome(tmp_path: Path) -> None:
    steps = [
        writes(tmp_path, "first"),
        writes(tmp_path, "second", needs=("first",)),
        writes(tmp_path, "third"),
    ]
    before = runner(tmp_path).run(steps[:1])
    outcomes = runner(tmp_path, chosen=frozenset(["second"])).run(steps)
    assert outcomes["first"] == before["first"]
    assert outcomes["second"].status == "passed"
    assert outcomes["third"].status == "not run"


# --- Commands ---


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "check.json", tmp_path / "work", data=tmp_path)


RESULTS: Results = {"scene": {"max_gaussians": 12345}, "machine": {"architecture": "9.0"}}


def command(settings: Settings, name: str) -> list[str]:
    (step,) = (step for step in build_steps(settings) if step.name == name)
    return step.command(RESULTS)


def flags_after(arguments: list[str], argument: str) -> list[str]:
    return arguments[arguments.index(argument) + 1 :]


def test_steps_come_after_their_predecessors(settings: Settings) -> None:
    earlier: set[str] = set()
    for step in build_steps(settings):
        assert set(step.needs) <= earlier
        earlier.add(step.name)


def test_every_step_writes_to_its_result_file(settings: Settings) -> None:
    for step in build_steps(settings):
        arguments = step.command(RESULTS)
        assert arguments[:2] == [sys.executable, "-m"]
        assert (Path(check_gpu.__file__).parents[1] / f"{arguments[2].replace('.', '/')}.py").exists()
        result = settings.work_dir / step.name / "result.json"
        assert arguments[arguments.index("--output") + 1] == str(result)


def test_without_a_gpu_or_images_there_are_fewer_steps(settings: Settings) -> None:
    skipped = {step.name for step in build_steps(replace(settings, device="cpu")) if step.skip}
    assert skipped == {"kernels", "tests"}
    skipped = {step.name for step in build_steps(replace(settings, data=None)) if step.skip}
    assert skipped >= {"scene", "train_nope_splat", "train_splatfacto", "same_gaussians", "synchronizations"}
    assert not {step.name for step in build_steps(settings) if step.skip}


def test_training_commands_agree_for_both_methods(settings: Settings) -> None:
    ours: Any = tyro.cli(
        type(nope_splat.config),
        default=nope_splat.config,
        args=flags_after(command(settings, "train_nope_splat"), "nope-splat"),
    )
    arguments = command(settings, "train_splatfacto")
    theirs = tyro.cli(PeerSettings, args=flags_after(arguments, "splatfacto"))
    assert ours.max_num_iterations == theirs.max_num_iterations == 2000
    assert ours.pipeline.model.max_gaussians == theirs.max_gaussians == 12345
    dataparser = ours.pipeline.datamanager.dataparser
    assert (dataparser.max_image_size, dataparser.eval_interval) == (1600, 8)
    assert ours.steps_per_eval_image == ours.steps_per_eval_all_images == 0
    assert theirs.data == settings.work_dir / "scene" / "splat"
    assert arguments[arguments.index("--window") + 1] == "50"


def test_evaluations_read_the_trainings(settings: Settings) -> None:
    ours = command(settings, "evaluate_nope_splat")
    assert ours[3] == "nope-splat"
    config = Path(ours[ours.index("--config") + 1])
    training = command(settings, "train_nope_splat")
    folder = Path(training[training.index("--output-dir") + 1])
    assert config == folder / "scene" / "nope-splat" / "run" / "config.yml"
    theirs = command(settings, "evaluate_splatfacto")
    assert theirs[3] == "splatfacto"
    training = flags_after(command(settings, "train_splatfacto"), "splatfacto")
    assert [flag.replace("--run.", "--") for flag in theirs if flag.startswith("--run.")] == training[::2]


def test_environment_finds_this_checkout_and_local_wheels(settings: Settings) -> None:
    variables = environment(settings, RESULTS, {"PATH": "/bin", "PYTHONPATH": "mine", "HOME": "/home"})
    root, site, inherited = variables["PYTHONPATH"].split(os.pathsep)
    assert (Path(root) / "nope_splat" / "plugin" / "model.py").exists()
    assert (site, inherited) == (str(settings.site), "mine")
    assert variables["PATH"].split(os.pathsep) == [str(settings.site / "bin"), "/bin"]
    assert variables["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert "CUDA_VISIBLE_DEVICES" not in variables
    assert environment(replace(settings, device="cpu"), {}, {})["CUDA_VISIBLE_DEVICES"] == ""


# --- The JSON file and the table ---


def training(rate: float, share: float) -> Outcome:
    result = {
        "iterations_per_second": rate,
        "full_resolution": rate / 2,
        "share_joint_refinement": share,
        "peak_gib": {"setup": 0.5, "iterations": 1.5},
    }
    return Outcome("passed", 20.0, result=result)


@pytest.fixture
def outcomes() -> dict[str, Outcome]:
    errors = {"value": 1e-6, "gradient_max": 1e-4, "gradient_rms": 1e-5}
    results = {
        "machine": {"gpu": "A GPU", "driver": "1.2", "cuda": "13.0", "versions": {"torch": "2.14.1"}},
        "tests": {"passed": 7, "failed": ["tests.some::test"], "skipped": {}, "not_collected": {}},
        "ssim": {"device": "cuda", "close": {"ssim": 0.9, "tf32": errors, "no_tf32": errors}},
        "same_gaussians": {
            "gaussians": {"nope-splat": 500, "splatfacto": 500},
            "ms_per_iteration": {"nope-splat": 10.4, "splatfacto": 10.0},
            "ratio": 1.04,
            "ratio_quartiles": [1.03, 1.05],
        },
        "synchronizations": {"nope-splat": {"per_iteration": 6.0}, "splatfacto": {"per_iteration": 23.0}},
        "evaluate_nope_splat": {"gaussians": 700, "psnr": 25.0, "ssim": 0.85},
    }
    outcomes = {name: Outcome("passed", 1.0, result=result) for name, result in results.items()}
    outcomes["tests"].status = "failed"
    return outcomes | {"train_nope_splat": training(100.0, 0.2), "train_splatfacto": training(110.0, 0.0)}


def test_summary_has_the_figures_of_both_methods(outcomes: dict[str, Outcome]) -> None:
    figures = summary(outcomes)
    assert figures["nope-splat"] == {
        "iterations_per_second": 100.0,
        "full_resolution": 50.0,
        "share_joint_refinement": 0.2,
        "peak_gib": 1.5,
        "gaussians": 700,
        "psnr": 25.0,
        "ssim": 0.85,
        "waits_per_iteration": 6.0,
    }
    assert figures["splatfacto"]["psnr"] is None
    assert (figures["same_gaussians_ratio"], figures["fast_enough"]) == (1.04, True)
    assert summary({})["fast_enough"] is None


def test_json_file_is_complete(outcomes: dict[str, Outcome], settings: Settings) -> None:
    report = json.loads(json.dumps(content(vars(settings), outcomes)))
    assert list(report) == ["time", "settings", "machine", "summary", "steps"]
    assert report["machine"]["gpu"] == "A GPU"
    assert report["settings"]["iterations"] == 2000
    assert list(report["steps"]["tests"]) == ["status", "seconds", "reason", "log_tail", "result"]
    assert list(report["steps"]) == list(outcomes)


def test_table_shows_the_measurements(outcomes: dict[str, Outcome]) -> None:
    lines = table(outcomes).splitlines()
    assert lines[0] == "A GPU, driver 1.2, CUDA 13.0, torch 2.14.1"
    (psnr,) = (line for line in lines if line.startswith("held-out PSNR"))
    assert psnr.split()[2:] == ["25.00", "dB", "-"]
    assert any("ratio 1.040" in line for line in lines)
    assert any("7 passed, 1 failed: tests.some::test" in line for line in lines)
    assert table({}).startswith("unknown machine")


def test_command_line_runs_the_steps_and_exits_with_their_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    steps = [python(work, "fails", "print('the end'); 1 / 0"), writes(work, "passes")]
    monkeypatch.setattr(check_gpu, "build_steps", lambda settings: steps)
    output = tmp_path / "check.json"
    arguments = ["--output", str(output), "--work-dir", str(work)]
    assert check_gpu.main(arguments) == 1
    report = json.loads(output.read_text())
    assert [step["status"] for step in report["steps"].values()] == ["failed", "passed"]
    assert "ZeroDivisionError" in report["steps"]["fails"]["log_tail"][-1]
    printed = capsys.readouterr().out
    assert "fails: failed" in printed
    assert "ZeroDivisionError" in printed
    assert check_gpu.main([*arguments, "--steps", "passes"]) == 0
    assert check_gpu.main([*arguments, "--steps", "fails"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--steps", "nothing"], "choose --steps from"), (["--data", "no/such/folder"], "check --data")],
)
def test_an_invalid_argument_exits_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        check_gpu.main([*arguments, "--output", str(tmp_path / "check.json")])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "check.json").exists()


@pytest.mark.slow
def test_the_whole_check_runs_without_a_gpu(valley: Path, tmp_path: Path) -> None:
    output = tmp_path / "check.json"
    sizes = ["--iterations", "20", "--timed-iterations", "8", "--max-image-size", "160"]
    paths = ["--data", str(valley), "--output", str(output), "--work-dir", str(tmp_path / "work")]
    status = check_gpu.main(
        ["--device", "cpu", "--eval-interval", "4", "--time-limit", "1500", *sizes, *paths]
    )
    report = json.loads(output.read_text())
    assert status == 0, report["steps"]
    assert report["steps"]["scene"]["result"]["train"] == 6
    assert report["steps"]["scene"]["result"]["training_size"] == [160, 120]
    timing = report["steps"]["same_gaussians"]["result"]
    assert timing["gaussians"]["nope-splat"] == timing["gaussians"]["splatfacto"]
    assert timing["rendering_difference"] < 1e-4
    for method in ("nope-splat", "splatfacto"):
        assert report["summary"][method]["psnr"] > 10
        assert report["summary"][method]["iterations_per_second"] > 0
        assert timing["ms_per_iteration"][method] > 0
