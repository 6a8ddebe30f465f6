"""Test the steps of the GPU check without a GPU."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.engine.trainer import Trainer

from nope_splat.io.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.trainer import NopeTrainer
from scripts.gpu import gpu_tests
from scripts.gpu.clock import Device, TrainingClock
from scripts.gpu.environment import (
    EnvironmentProblem,
    complete,
    download_command,
    first_problem,
    read_list,
    wheels_to_install,
    write_stand_ins,
)
from scripts.gpu.same_gaussians import Turn, summary, take_turns
from scripts.gpu.scene import at_size
from scripts.gpu.ssim_precision import deviations, pairs, value_and_gradient
from scripts.gpu.synchronizations import MESSAGE, counting, nearest_line, per_iteration
from scripts.gpu.timed_training import timing

# --- The clock ---


@dataclass
class FakeDevice:
    """A fake asynchronous device, whose work advances the clock only at synchronization."""

    seconds: float = 0.0
    pending: float = 0.0
    peak: int = 0
    waits: list[float] = field(default_factory=list)

    def work(self, seconds: float, memory: int = 0) -> None:
        """Queue work."""
        self.pending += seconds
        self.peak = max(self.peak, memory)

    def synchronize(self) -> None:
        """Finish the queued work."""
        self.seconds, self.pending = self.seconds + self.pending, 0.0
        self.waits.append(self.seconds)

    def reset(self) -> None:
        """Reset the peak."""
        self.peak = 0

    def as_device(self) -> Device:
        """Return the functions that the clock needs."""
        return Device(self.synchronize, lambda: self.peak, self.reset, lambda: self.seconds)


def train(clock: TrainingClock, device: FakeDevice, iterations: int, joint_at: int = -1) -> None:
    """Simulate iterations (1 s, 0.5 s at half size), joint refinement (30 s) and a checkpoint (7 s)."""
    device.work(5.0, memory=100)
    for step in range(iterations):
        downscale = 2 if step < 4 else 1
        clock.begin_iteration(step, 10 * step, downscale)
        device.work(1.0 / downscale, memory=200)
        if step == joint_at:
            with clock.span("joint refinement"):
                device.work(30.0, memory=700)
    clock.finish(iterations)
    with clock.span("checkpoints"):
        device.work(7.0, memory=900)


def test_windows_contain_only_plain_iterations() -> None:
    device = FakeDevice()
    clock = TrainingClock(4, device.as_device())
    train(clock, device, iterations=14, joint_at=9)
    assert [window.first_step for window in clock.windows] == [0, 4, 8, 12]
    assert [window.iterations for window in clock.windows] == [4, 4, 4, 2]
    assert [window.seconds for window in clock.windows] == [2.0, 4.0, 4.0, 2.0]
    assert [window.downscale for window in clock.windows] == [2, 1, 1, 1]
    assert [window.gaussians for window in clock.windows] == [0, 40, 80, 120]


def test_report_separates_phases() -> None:
    device = FakeDevice()
    clock = TrainingClock(4, device.as_device())
    train(clock, device, iterations=14, joint_at=9)
    report = clock.report()
    assert report["iterations"] == 14
    assert report["iterations_per_second"] == report["full_resolution"] == 1.0
    assert report["seconds"] == {"setup": 5.0, "iterations": 12.0, "joint refinement": 30.0}
    assert report["share_joint_refinement"] == pytest.approx(30 / 42)
    memory = {name: round(gib * 2**30) for name, gib in report["peak_gib"].items()}
    assert memory == {"setup": 100, "iterations": 200, "joint refinement": 700}


def test_clock_synchronizes_only_between_windows() -> None:
    device = FakeDevice()
    train(TrainingClock(4, device.as_device()), device, iterations=14)
    assert len(device.waits) == 1 + 3 + 2  # before the first iteration, after windows, and at the end


def test_nested_spans_count_toward_the_outer_one() -> None:
    device = FakeDevice()
    clock = TrainingClock(2, device.as_device())
    clock.begin_iteration(0, 1, 1)
    with clock.span("joint refinement"):
        device.work(3.0)
        with clock.span("checkpoints"):
            device.work(4.0)
    device.work(1.0)
    clock.begin_iteration(2, 1, 1)
    assert clock.seconds["joint refinement"] == 7.0
    assert "checkpoints" not in clock.seconds
    assert clock.windows[0].seconds == 1.0


def test_rate_needs_a_second_window() -> None:
    clock = TrainingClock(4, FakeDevice().as_device())
    clock.begin_iteration(0, 1, 1)
    clock.finish(1)
    assert clock.report()["iterations_per_second"] is None


def test_trainers_report_to_the_clock_and_are_restored() -> None:
    def methods() -> list[Callable]:
        return [
            *(Trainer.train_iteration, Trainer._after_train, Trainer.save_checkpoint),
            *(NopeTrainer._after_train, NopeTrainer.save_checkpoint, NopePipeline.adjust_cameras),
        ]

    before = methods()
    with timing(TrainingClock(4)):
        assert not set(before) & set(methods())
    assert methods() == before


# --- The environment ---


def test_wheels_are_unique_and_appear_in_the_command() -> None:
    requirements = read_list()
    names = [requirement.name for requirement in requirements]
    assert len(set(names)) == len(names)
    assert {"nerfstudio", "gsplat", "poselib"} <= {
        requirement.name for requirement in requirements if not requirement.only_if_missing
    }
    command = download_command(requirements[0], Path("wheels"), "3.11")
    assert command[-1] == "nerfstudio==1.1.5"
    assert command[command.index("--python-version") + 1] == "3.11"
    assert "manylinux_2_28_x86_64" in command
    assert "manylinux2014_x86_64" in command


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_optional_wheels_are_skipped_if_installed(tmp_path: Path) -> None:
    touch(tmp_path, "nerfstudio-1.1.5-py3-none-any.whl", "docstring_parser-1-py3-none-any.whl")
    touch(tmp_path, "pytest-9.2.0-py3-none-any.whl", "notes.txt")
    names = [file.name.split("-")[0] for file in wheels_to_install(tmp_path, {"pytest", "nerfstudio"})]
    assert names == ["docstring_parser", "nerfstudio"]
    assert len(wheels_to_install(tmp_path, set())) == 3


def test_missing_and_duplicate_wheels_raise(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no wheels"):
        wheels_to_install(tmp_path, set())
    touch(tmp_path, "tyro-1.0-py3-none-any.whl", "tyro-1.1-py3-none-any.whl")
    with pytest.raises(EnvironmentProblem, match="two wheels of tyro"):
        wheels_to_install(tmp_path, set())


def test_stand_ins_are_written_only_for_missing_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_stand_ins(tmp_path, ("json", "no_such_module")) == ["no_such_module"]
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("no_such_module") is not None
    assert not (tmp_path / "json").exists()


def test_incomplete_environment_raises_with_the_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_problem(("json", "pathlib")) is None
    assert (
        first_problem(("json", "no_such_module")) == "ModuleNotFoundError: No module named 'no_such_module'"
    )
    monkeypatch.setattr("scripts.gpu.environment.first_problem", lambda: None)
    assert complete(tmp_path, None) == {"installed": [], "stand_ins": []}
    monkeypatch.setattr("scripts.gpu.environment.first_problem", lambda: "No module named 'gsplat'")
    with pytest.raises(EnvironmentProblem, match=r"gsplat.*--wheels"):
        complete(tmp_path, None)


# --- Tests, synchronizations, turns, precision, scene ---


TESTS = """
import pytest
pytestmark = pytest.mark.gpu
def test_passes(): pass
@pytest.mark.parametrize("number", [1, 2])
def test_fails(number): assert number == 1
def test_skips(): pytest.skip("no reason")
def test_has_no_fixture(nothing): pass
"""


def test_gpu_tests_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_other.py").write_text("def test_needs_no_gpu(): assert False")
    (folder / "test_broken.py").write_text("import no_such_module")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\naddopts = -m 'not gpu'\n")
    with pytest.raises(SystemExit, match="2 tests failed, 2 passed"):
        gpu_tests.run(folder, tmp_path / "result.json")
    counts = gpu_tests.summary(tmp_path / "junit.xml")
    assert counts["passed"] == 2
    assert sorted(name.split("::")[-1] for name in counts["failed"]) == [
        "test_fails[2]",
        "test_has_no_fixture",
    ]
    assert list(counts["skipped"].values()) == ["no reason"]
    (reason,) = counts["not_collected"].values()
    assert "no_such_module" in reason


def test_waits_are_counted_by_innermost_package_line(tmp_path: Path) -> None:
    package = tmp_path / "site" / "nope_splat" / "deep.py"
    code = compile(f"import warnings\ndef wait():\n    warnings.warn({MESSAGE!r})\n", str(package), "exec")
    names: dict = {}
    exec(code, names)
    with counting() as lines:
        for _ in range(3):
            names["wait"]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("of something else", stacklevel=1)
    assert lines == {"nope_splat/deep.py:3": 3}
    assert nearest_line(sys._getframe()) is None


def test_counts_are_per_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    counts = per_iteration(Counter({"a.py:1": 10, "b.py:2": 40}), 20)
    assert counts == {"per_iteration": 2.5, "lines": {"b.py:2": 2.0, "a.py:1": 0.5}}


def test_tasks_alternate_and_do_every_piece_once() -> None:
    done: list[tuple[str, int]] = []
    works = {
        "nope-splat": lambda number: done.append(("ours", number)),
        "splatfacto": lambda number: done.append(("theirs", number)),
    }
    turns = take_turns(works, rounds=3, per_turn=2)  # pyright: ignore[reportArgumentType]
    assert [name for name, _ in done[::2]] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [number for name, number in done if name == "ours"] == list(range(6))
    assert [len(times) for times in turns.values()] == [3, 3]


def test_ratio_is_the_median_over_rounds() -> None:
    ours, theirs = (
        [Turn(1.0, 2.0), Turn(1.0, 30.0), Turn(1.0, 4.4)],
        [Turn(1.0, milliseconds) for milliseconds in (2.0, 20.0, 4.0)],
    )
    figures = summary({"nope-splat": ours, "splatfacto": theirs})
    assert figures["ms_per_iteration"] == {"nope-splat": 4.4, "splatfacto": 4.0}
    assert figures["ratio"] == pytest.approx(1.1)


def test_ssim_is_compared_with_double_precision() -> None:
    image = np.random.default_rng(1).random((40, 50, 3))
    for name, pair in pairs(image).items():
        rendered, target = map(torch.from_numpy, pair)
        exact = value_and_gradient(rendered, target, reference=True)
        assert deviations(exact, exact) == {"value": 0.0, "gradient_max": 0.0, "gradient_rms": 0.0}
        errors = deviations(value_and_gradient(rendered.float(), target.float()), exact)
        assert 0 < errors["value"] < 1e-4, name
        assert 0 < errors["gradient_rms"] < 1e-2, name
    twice = exact[0], 2 * exact[1]
    assert deviations(twice, exact)["gradient_max"] == pytest.approx(1.0)


def test_a_colmap_model_scales_with_its_images() -> None:
    camera = ColmapCamera("SIMPLE_PINHOLE", 300, 200, (240.0, 151.0, 99.0))
    image = ColmapImage("a/b.jpg", 1, np.eye(4), np.array([[150.0, 100.0]]), np.array([1]))
    points = ColmapPoints(
        np.zeros((1, 3)), np.zeros((1, 3), np.uint8), np.zeros(1), np.array([0, 1]), np.array([[1, 0]])
    )
    model = at_size(ColmapModel({1: camera}, {1: image}, points), {(300, 200): (100, 67)})
    small = model.cameras[1]
    assert (small.model, small.width, small.height) == ("PINHOLE", 100, 67)
    np.testing.assert_allclose(small.params, (80.0, 80.4, 151 / 3, 99 * 0.335))
    assert model.images[1].name == "a/b.png"
    np.testing.assert_allclose(model.images[1].xy, [[50.0, 33.5]])
