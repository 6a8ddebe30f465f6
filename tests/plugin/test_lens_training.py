"""Test trainings that learn lenses, on distorted images.

- Joint refinement finds principal point and distortion, and gradient steps on them reduce the loss.
- Held-out images, checkpoints, renderings and exported cameras use the learned lens; pycolmap agrees on the
  reprojection errors.
- Learning starts at the distortion of the reconstruction, and images are not undistorted.
- Both methods train with both options, from a folder of images.
- Reconstruction and training together recover a known lens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from fixtures.splat_scene import CAMERA, FOCAL, OFFSET, make_pipeline, set_to_truth
from nerfstudio.scripts.train import entrypoint

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.geometry.camera import Camera
from nope_splat.io.cameras import read_named_cameras
from nope_splat.io.export import write_colmap
from nope_splat.plugin.camera_adjustment import adjust_cameras
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.camera_refinement import CameraRefinement, GradientRefinement, JointRefinement
from nope_splat.plugin.load_run import optimized_scene
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.summary import training_rows

TRUTH = Camera(FOCAL, (OFFSET[0] + 1.0, OFFSET[1] - 1.5), (-0.1, 0.02, 0.0, 0.0, 0.0, 0.0))


def make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refinement: CameraRefinement, **settings: Any
) -> NopePipeline:
    """Create a pipeline that learns lenses, on images of `TRUTH`."""
    cameras = NopeCameraOptimizerConfig(
        mode="SE3",
        refinement=refinement,
        optimize_principal_point=True,
        optimize_distortion=True,
    )
    model = NopeSplatModelConfig(
        camera_optimizer=cameras, num_downscales=0, background_color="black", sh_degree=1
    )
    pipeline = make_pipeline(folder, monkeypatch, model=model, taken_with=TRUTH, **settings)
    set_to_truth(pipeline)
    pipeline.train()
    pipeline.model.step = pipeline.model.num_iterations - 1
    return pipeline


def learned(pipeline: NopePipeline) -> Camera:
    scene = pipeline.datamanager.dataparser.scene
    return pipeline.model.camera_optimizer.cameras(scene.cameras)[0]


def assert_close(camera: Camera, truth: Camera = TRUTH) -> None:
    """Check that corners project to the same pixels within 0.1."""
    corners = np.array([[-0.4, -0.3, 1], [0.4, -0.3, 1], [-0.4, 0.3, 1], [0.4, 0.3, 1], [0, 0, 1]])
    size = np.array([96, 72])
    np.testing.assert_allclose(camera.project(corners, size), truth.project(corners, size), atol=0.1)


def test_joint_refinement_finds_the_lens_and_all_outputs_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    pipeline = make(tmp_path, monkeypatch, JointRefinement())
    data = pipeline.datamanager
    before = float(pipeline.model.reprojection_errors().mean())
    for _ in range(2):
        adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    assert_close(learned(pipeline))
    assert float(pipeline.model.reprojection_errors().mean()) < 0.1 * before

    pipeline.align_held_out(9)
    assert pipeline.get_average_eval_image_metrics(step=9)["psnr"] > 30
    rows = training_rows(pipeline.model, pipeline.datamanager)
    assert rows["distortion"].startswith("k1 +0.0000, k2 +0.0000 -> k1 -0.")

    torch.save(pipeline.state_dict(), tmp_path / "checkpoint")
    model = pipeline.config.model
    loaded = make_pipeline(tmp_path, monkeypatch, model=model, taken_with=TRUTH, test_mode="inference")
    set_to_truth(loaded)
    loaded.load_pipeline(torch.load(tmp_path / "checkpoint", weights_only=True), step=9)
    assert_close(learned(loaded))
    for split in (loaded.datamanager, loaded.config.datamanager.setup(device="cpu", test_mode="test")):
        cameras = split.eval_dataset.cameras  # ns-render makes the second one
        assert cameras.metadata is not None
        assert cameras.metadata["distortion"][0].tolist() == pytest.approx(learned(loaded).distortion)
        assert float(cameras.cx[0]) == pytest.approx(48 + learned(loaded).offset[0], abs=1e-4)
    assert loaded.get_average_eval_image_metrics()["psnr"] > 30

    scene = optimized_scene(loaded)
    write_colmap(scene, tmp_path / "sparse" / "0")
    reconstruction = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    (camera,) = reconstruction.cameras.values()
    assert camera.model.name == "RADIAL"
    x, y = scene.cameras[0].principal_points(np.array([96, 72]))
    np.testing.assert_allclose(
        camera.params, [scene.cameras[0].focal, x, y, *scene.cameras[0].distortion[:2]]
    )
    written = {number: point.error for number, point in reconstruction.points3D.items()}
    reconstruction.update_point_3d_errors()
    for number, point in reconstruction.points3D.items():
        assert point.error == pytest.approx(written[number], rel=1e-6, abs=1e-9)
    errors = loaded.model.reprojection_errors().numpy()
    np.testing.assert_allclose(scene.reprojection_errors(), errors, atol=1e-3)


def test_gradient_steps_on_lenses_reduce_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(tmp_path, monkeypatch, GradientRefinement())
    lens = pipeline.model.camera_optimizer.learned_lens
    assert lens is not None
    for name in ("strategy", "strategy_state", "optimizers"):  # normally set up by a training
        monkeypatch.setattr(pipeline.model, name, Mock(), raising=False)
    optimizer = torch.optim.Adam([lens.principal_point, lens.distortion], lr=2e-3)
    camera, batch = pipeline.datamanager.next_train(0)
    losses = []
    for _ in range(12):
        outputs: Any = pipeline.model.get_outputs(camera)
        loss = pipeline.model.get_loss_dict(outputs, batch)["photometric"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]
    camera = learned(pipeline)
    assert camera.offset[0] - OFFSET[0] > 0.3
    assert camera.offset[1] - OFFSET[1] < -0.3
    assert camera.distortion[0] < 0


def test_learning_starts_at_the_reconstructed_distortion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make(tmp_path, monkeypatch, JointRefinement(), reconstructed=TRUTH)
    data = pipeline.datamanager
    assert_close(learned(pipeline))
    assert float(pipeline.model.reprojection_errors().max()) < 1e-3
    assert "mask" not in data.cached_train[0]  # the image is not undistorted
    adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    assert_close(learned(pipeline))
    pipeline.align_held_out(9)
    assert pipeline.get_average_eval_image_metrics(step=9)["psnr"] > 30


def test_without_the_options_images_are_undistorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, taken_with=TRUTH, reconstructed=TRUTH)
    scene = pipeline.datamanager.dataparser.scene
    assert not any(scene.cameras[0].distortion)
    assert optimized_scene(pipeline).cameras[0].distortion == TRUTH.distortion
    plain = make_pipeline(tmp_path / "plain", monkeypatch)
    assert plain.datamanager.dataparser.scene.cameras == (CAMERA,)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache for the reconstruction that both methods share."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("refinement", ["joint", "gradient"])
def test_both_methods_train_with_both_options(
    valley: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refinement: str
) -> None:
    cameras = "--pipeline.model.camera-optimizer."
    parser = "--pipeline.datamanager.dataparser."
    arguments = [f"{cameras}optimize-principal-point", True]
    arguments += [f"{cameras}optimize-distortion", True, f"{parser}cache-dir", cache]
    arguments += [f"refinement:{refinement}"]
    arguments += ["initialization:known-cameras", "--path", valley / "ground_truth.json"]
    state = train(valley, tmp_path, monkeypatch, 10, arguments)
    lens = "_model.camera_optimizer.learned_lens."
    for name in ("principal_point", "distortion"):
        moved = state[f"{lens}{name}"]
        assert 0 < float(moved.abs().max()) < 0.02
    row = state["history._extra_state"]["rows"][-1]
    assert {"principal_point_x_px", "distortion_k1"} < row.keys()


def test_a_known_lens_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corner error is below 5 % of the distortion; a pinhole's focal length would be 5 % too long."""
    k1 = -0.08
    render_demo_scene(
        tmp_path / "bent", DemoSceneConfig(9, (320, 240), distortion=(k1, 0.0, 0.0, 0.0, 0.0, 0.0))
    )
    truth = read_named_cameras(tmp_path / "bent" / "ground_truth.json")["photo_000.jpg"]
    options = ["--pipeline.model.camera-optimizer.optimize-distortion", True]
    state = train(tmp_path / "bent", tmp_path, monkeypatch, 20, options)
    row = state["history._extra_state"]["rows"][-1]
    square = (200 / 320 / truth.focal) ** 2  # relative to the corner's distance from the axis, at depth one
    displacement = row["distortion_k1"] * square + row["distortion_k2"] * square**2
    assert displacement == pytest.approx(k1 * square, rel=0.05)
    assert row["focal_px"] == pytest.approx(320 * truth.focal, rel=0.005)


def train(
    scene: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, iterations: int, options: list[Any]
) -> dict[str, Any]:
    """Run `ns-train`, and return the final state of the pipeline."""
    arguments = ["--data", scene / "images", "--output-dir", output_dir, "--vis", "tensorboard"]
    arguments += ["--max-num-iterations", iterations, "--experiment-name", "run", "--timestamp", "first"]
    arguments += ["--pipeline.datamanager.dataparser.seeds", "tracks", *options]
    monkeypatch.setattr(sys, "argv", ["ns-train", "nope-splat", *map(str, arguments)])
    entrypoint()
    (file,) = output_dir.rglob("*.ckpt")
    return torch.load(file, weights_only=True)["pipeline"]
