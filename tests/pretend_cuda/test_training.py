"""Training and commands of nerfstudio on the pretend GPU.

A short training with the defaults for CUDA includes all events of a long one. It is interrupted by Ctrl-C and
resumed by the same command, with a client of its viewer. The commands for finished trainings follow.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from nope_splat.evaluation.compare_cameras import compare_cameras
from nope_splat.io.cameras import read_named_cameras
from nope_splat.plugin.load_run import open_run
from pretend_cuda.browser import wait_for_image
from pretend_cuda.events import Events
from pretend_cuda.subprocesses import command_line, environment, run

STEPS, SAVED, EVALUATED, INTERRUPTED, RESET = 80, 32, 30, 42, 32
"""Number of iterations, intervals of checkpoints and evaluations, interrupted iteration, reset interval."""
SIZE = (160, 120)
TIMEOUT = 400.0
MAX_SYNCHRONIZATIONS_PER_ITERATION = 6
"""Largest number of synchronizations, including callbacks. gsplat itself takes two: it inverts the view
matrix and reads the number of splats. `python -m pretend_cuda --count - COMMAND` lists all."""
RUN = Path("outputs/valley/nope-splat/run")


class Training(NamedTuple):
    """Outputs of the two parts of the training."""

    folder: Path
    """Working directory of the commands, which contains `RUN`."""
    first: Events
    """Events before the interruption."""
    second: Events
    """Events after the interruption."""
    log: str
    """Output of the second part."""
    viewer_image: NDArray[np.uint8] | None
    """Image that the viewer sent. (H, W, 3)."""


@pytest.fixture(scope="module")
def training(valley: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Run a training that is interrupted and resumed with a client of its viewer, then other commands."""
    folder = tmp_path_factory.mktemp("training")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    model = "--pipeline.model"
    train = [
        "ns-train", "nope-splat", "--data", valley / "images", "--output-dir", "outputs",
        "--experiment-name", "valley", "--timestamp", "run", "--max-num-iterations", STEPS,
        "--vis", "viewer+tensorboard", "--viewer.websocket-port", port,
        "--viewer.quit-on-train-completion", True, "--steps-per-save", SAVED,
        "--save-only-latest-checkpoint", False, "--steps-per-eval-image", EVALUATED,
        "--pipeline.datamanager.dataparser.max-image-size", SIZE[0], "--pipeline.alignment-steps", 2,
        f"{model}.densification.refine-every", 8, f"{model}.densification.stop-fraction", 0.9,
        f"{model}.densification.reset-alpha-fraction", RESET / STEPS,
        "refinement:joint", "--interval", 0.3,
    ]  # fmt: skip
    config = RUN / "config.yml"
    commands = [
        "ns-eval", "--load-config", config, "--output-path", "eval.json", "then",
        "ns-export", "gaussian-splat", "--load-config", config, "--output-dir", "export", "then",
        "nope-splat", "export-cameras", "--load-config", config, "--output-dir", "cameras", "then",
        "nope-splat", "report", "--load-config", config, "--output", "report.html",
    ]  # fmt: skip
    run(
        "--events", "first.json", "--count", "table.txt", "--interrupt", INTERRUPTED, *train,
        cwd=folder, fails=True,
    )  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command_line("--random-lpips", "--events", "second.json", *train, "then", *commands),
            cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            viewer_image = wait_for_image(port, process, TIMEOUT)
            process.wait(TIMEOUT)
        finally:
            process.kill()
    text = (folder / "log").read_text()
    assert process.returncode == 0, text[-5000:]
    first, second = (Events.read(folder / f"{name}.json") for name in ("first", "second"))
    return Training(folder, first, second, text, viewer_image)


def load_checkpoint(training: Training, step: int) -> dict[str, Any]:
    """Load the pipeline's state after an iteration, in a process without a GPU."""
    path = training.folder / RUN / "nerfstudio_models" / f"step-{step:09d}.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)["pipeline"]


def test_defaults_are_those_for_cuda(training: Training) -> None:
    config = yaml.unsafe_load((training.folder / RUN / "config.yml").read_text())
    assert config.machine.device_type == "cuda"
    assert config.pipeline.model.num_downscales == 2
    assert config.pipeline.datamanager.cache_images == "gpu"


def test_training_resumes_after_the_interruption(training: Training) -> None:
    assert [iteration.step for iteration in training.first.iterations] == list(range(INTERRUPTED + 1))
    assert [iteration.step for iteration in training.second.iterations] == list(range(INTERRUPTED + 1, STEPS))
    assert f"Resuming after {INTERRUPTED + 1} of {STEPS} iterations" in training.log
    assert training.second.iterations[0].num_gaussians == training.first.iterations[-1].num_gaussians


def test_all_events_occur(training: Training) -> None:
    first, second, _ = training[1:4]
    sizes = {tuple(iteration.size) for iteration in first.iterations}
    assert sizes == {(SIZE[0] // factor, SIZE[1] // factor) for factor in (1, 2, 4)}
    assert {iteration.sh_degree for iteration in first.iterations} == {0, 1, 2, 3}
    for part in (first, second):
        assert max(part.grown) > 0
        assert max(part.pruned) > 0
        assert part.opacity_resets == 1
        assert len(part.joint_refinements) == 1
        assert part.joint_refinements[0] < 0, "the cost decreases"
        assert part.aligned, "held-out views are evaluated"


def test_history(training: Training) -> None:
    rows = load_checkpoint(training, STEPS - 1)["history._extra_state"]["rows"]
    assert [row["step"] for row in rows] == list(range(0, STEPS, 10))
    assert all(row["psnr"] > 10 for row in rows)
    assert len({row["gaussian_count"] for row in rows}) > 3
    assert rows[-1]["reprojection_error_px"] < 1


def test_checkpoints(training: Training) -> None:
    """Opacities are reset, harmonics of all degrees are nonzero, and cameras move by a small amount."""
    reset = load_checkpoint(training, RESET)
    assert torch.sigmoid(reset["_model.gauss_params.opacities"]).max() < 0.2 + 1e-6
    last = load_checkpoint(training, STEPS - 1)
    harmonics = last["_model.gauss_params.features_rest"].abs().amax((0, 2))
    assert (harmonics > 0).all()
    motions = last["_model.camera_optimizer.pose_adjustment"].abs()
    assert 0 < motions.max() < 0.1
    assert all(value.isfinite().all() for value in last.values() if isinstance(value, torch.Tensor))


def test_checkpoint_has_device_tags(training: Training) -> None:
    """As on a machine with CUDA, checkpoints contain the device of their tensors."""
    path = training.folder / RUN / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt"
    locations = set()

    def locate(storage: Any, location: str) -> Any:
        locations.add(location)
        return storage

    torch.load(path, map_location=locate, weights_only=True)
    assert "cuda:0" in locations


def test_viewer(training: Training) -> None:
    assert training.viewer_image is not None, training.log[-3000:]
    height, width = training.viewer_image.shape[:2]
    assert min(height, width) > 30


def test_viewer_client_does_not_change_the_background(training: Training) -> None:
    before, after = (
        load_checkpoint(training, step)["_model.background_color"] for step in (INTERRUPTED, STEPS - 1)
    )
    assert torch.equal(before, after)


def test_evaluation(training: Training) -> None:
    results = json.loads((training.folder / "eval.json").read_text())["results"]
    assert results["psnr"] > 15
    assert 0 < results["ssim"] < 1
    assert np.isfinite(results["lpips"])
    assert results["held_out_unregistered"] == 0


def test_exported_splat(training: Training) -> None:
    header = (training.folder / "export" / "splat.ply").read_bytes().split(b"end_header\n")[0].decode()
    count = int(next(line.split()[-1] for line in header.splitlines() if line.startswith("element vertex")))
    opacities = load_checkpoint(training, STEPS - 1)["_model.gauss_params.opacities"]
    assert 100 < count <= len(opacities)


def test_exported_cameras(training: Training, valley: Path) -> None:
    cameras = read_named_cameras(training.folder / "cameras")
    assert len(cameras) == 9
    assert compare_cameras(cameras, read_named_cameras(valley / "ground_truth.json")).auc_5 > 80


def test_report(training: Training) -> None:
    page = (training.folder / "report.html").read_text()
    assert "Pretend GPU" in page


def test_run_can_be_loaded_on_a_cpu(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has no GPU."""
    monkeypatch.chdir(training.folder)
    pipeline = open_run(RUN / "config.yml").pipeline
    assert pipeline.device.type == "cpu"
    results = json.loads((training.folder / "eval.json").read_text())["results"]
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(results["psnr"], abs=0.05)


def test_few_synchronizations(training: Training) -> None:
    table = (training.folder / "table.txt").read_text()
    count = re.search(r"per iteration, callbacks included: ([\d.]+)", table)
    assert count is not None
    assert 2 <= float(count.group(1)) <= MAX_SYNCHRONIZATIONS_PER_ITERATION, table
