"""Trainings with options that take different code paths, a few iterations each, on the pretend GPU.

All trainings run in one process and share the cached matches. The last one reintroduces a bug that once broke
every training on CUDA and that tests on a CPU do not detect.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fixtures.depth_sources import write_maps
from PIL import Image

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from pretend_cuda.events import Events
from pretend_cuda.subprocesses import run

STEPS = 12
MODEL, DATA = "--pipeline.model", "--pipeline.datamanager.dataparser"
CAMERAS = f"{MODEL}.camera-optimizer"
LENS: list[object] = [f"{CAMERAS}.optimize-principal-point", True, f"{CAMERAS}.optimize-distortion", True]
DEPTH = [f"{MODEL}.{name}-weight" for name in ("depth", "chamfer")]
BUG = """
from nerfstudio.scripts.train import entrypoint
from nope_splat.plugin import model

model.intrinsic_matrices = lambda cameras: cameras.get_intrinsics_matrices()
entrypoint()
"""
"""nerfstudio's intrinsic matrices are always on the CPU."""


class Outcome(NamedTuple):
    """Outputs of the trainings."""

    outputs: Path
    """Output folder."""
    events: Events
    """Events of all trainings."""
    log: str
    """Output of the trainings."""


@pytest.fixture(scope="module")
def outcome(valley: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Run all trainings."""
    folder = tmp_path_factory.mktemp("variants")
    maps = write_maps(valley, folder / "maps", "disparity", 0.03, 0)
    depth: list[object] = [part for name in DEPTH for part in (name, 0.1)]
    depth += [f"{DATA}.depth.maps", maps, f"{DATA}.depth.kind", "disparity"]
    (folder / "bug.py").write_text(BUG)
    sparse: list[object] = [
        f"{DATA}.seeds",
        "tracks",
    ]  # few Gaussians, with renderings too inaccurate to refine cameras
    variants: dict[str, list[object]] = {
        "lens": [*LENS],
        "lens-by-adam": [*LENS, *sparse, f"{MODEL}.track-points", "tied"],
        "depth": [*depth, f"{MODEL}.rasterize-mode", "antialiased"],
        "depth-by-adam": [*depth, *sparse],
        "fisheye": [],
        "masks": [*LENS],  # with learned distortion, few tracks suffice for joint refinement
        "bug": [*sparse],
    }
    commands: list[object] = []
    for name, options in variants.items():
        data, start = valley / "images", []
        if name == "masks":
            data = write_masked_images(valley, folder / "masked")
        elif name == "fisheye":
            fisheye = DemoSceneConfig(9, (320, 240), projection="fisheye", field_of_view=70)
            data = render_demo_scene(folder / "fisheye", fisheye)
            start = ["initialization:known-cameras", "--path", data.parent / "ground_truth.json"]
        script = [folder / "bug.py"] if name == "bug" else ["ns-train"]
        refinement = (
            ["refinement:gradient"] if name.endswith("by-adam") else ["refinement:joint", "--interval", 1]
        )
        commands += [
            *script,
            "nope-splat",
            "--data",
            data,
            *common_options(name),
            *options,
            *refinement,
            *start,
            "then",
        ]
    log = run("--events", "events.json", *commands[:-1], cwd=folder, fails=True)
    events = Events.read(folder / "events.json")
    return Outcome(folder / "outputs" / "scene" / "nope-splat", events, log)


def common_options(name: str) -> list[object]:
    """Get the options of all trainings: twelve iterations with one joint refinement."""
    return [
        "--output-dir", "outputs", "--experiment-name", "scene", "--timestamp", name, "--vis", "tensorboard",
        "--max-num-iterations", STEPS, "--steps-per-eval-image", 1000, f"{DATA}.max-image-size", 96,
        "--pipeline.alignment-steps", 1,
    ]  # fmt: skip


def write_masked_images(valley: Path, folder: Path) -> Path:
    """Copy the images, with masks of a quarter of each."""
    shutil.copytree(valley / "images", folder / "images")
    (folder / "masks").mkdir()
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            mask = np.full((image.height, image.width), 255, np.uint8)
        mask[:, : mask.shape[1] // 4] = 0
        Image.fromarray(mask).save(folder / "masks" / f"{path.stem}.png")
    return folder


def load_checkpoint(outcome: Outcome, name: str) -> dict[str, Any]:
    """Load the pipeline's state after a training."""
    path = outcome.outputs / name / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt"
    assert path.exists(), outcome.log[-5000:]
    return torch.load(path, map_location="cpu", weights_only=True)["pipeline"]


def last_row(state: dict[str, Any]) -> dict[str, float]:
    """Get the last row of the history."""
    return state["history._extra_state"]["rows"][-1]


@pytest.mark.parametrize("name", ["lens", "lens-by-adam"])
def test_distortion_is_learned(name: str, outcome: Outcome) -> None:
    row = last_row(load_checkpoint(outcome, name))
    curves = (
        "principal_point_x_px",
        "principal_point_y_px",
        "distortion_k1",
        "distortion_k2",
        "focal_change_percent",
    )
    assert all(np.isfinite(row[curve]) and row[curve] != 0 for curve in curves), row


def test_tied_track_points_move(outcome: Outcome) -> None:
    tied, separate = load_checkpoint(outcome, "lens-by-adam"), load_checkpoint(outcome, "lens")
    assert "_model.track_params.means" in tied
    assert "_model.track_points" not in tied
    assert "_model.track_points" in separate
    row = last_row(tied)
    assert row["track_2d"] > 0
    assert row["scale"] > 0


@pytest.mark.parametrize("name", ["depth", "depth-by-adam"])
def test_depth_losses_are_applied(name: str, outcome: Outcome) -> None:
    state = load_checkpoint(outcome, name)
    row = last_row(state)
    assert all(0 < row[term] < 1 for term in ("depth", "chamfer")), row
    assert (state["_model.depth_supervision.corrections"] != 0).any()


@pytest.mark.parametrize("name", ["lens", "lens-by-adam", "depth", "depth-by-adam", "fisheye", "masks"])
def test_cameras_move(name: str, outcome: Outcome) -> None:
    state = load_checkpoint(outcome, name)
    assert state["_model.camera_optimizer.pose_adjustment"].abs().max() > 0
    assert all(value.isfinite().all() for value in state.values() if isinstance(value, torch.Tensor))
    row = last_row(state)
    if "adam" not in name:
        assert row["adjustment_photometric_share"] > 0, "the photometric term is used"


def test_fisheye_cameras_are_rendered_as_such(outcome: Outcome) -> None:
    assert load_checkpoint(outcome, "fisheye")["_extra_state"]["is_fisheye"] == [True]


def test_masked_pixels_give_no_gaussians(outcome: Outcome) -> None:
    """Masked pixels have neither track points nor seeds."""
    lens, _, _, _, _, with_masks = (
        iteration.num_gaussians for iteration in outcome.events.iterations if iteration.step == 0
    )
    assert 0 < with_masks < 0.85 * lens


def test_intrinsics_on_the_cpu_are_detected(outcome: Outcome) -> None:
    error = outcome.log[outcome.log.rindex("Traceback (most recent call last)") :]
    assert "DeviceError" in error
    assert "Expected all tensors to be on the same device" in error
    assert "nope_splat/plugin/model.py" in error
    steps = [iteration.step for iteration in outcome.events.iterations]
    assert steps == 6 * list(range(STEPS)), "the training with the bug renders nothing"
