"""Test nerfstudio's commands end to end on images of a small scene.

All tests share one training that is interrupted and resumed: train, resume, evaluate, export, render.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import torch
import yaml
from fixtures.errors import refused
from nerfstudio.scripts.render import DatasetRender, RenderInterpolated
from nerfstudio.scripts.viewer import run_viewer
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nope_splat.cli import main
from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.evaluation.compare_cameras import compare_cameras
from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.geometry.axes import switch_axes
from nope_splat.io.cameras import read_ground_truth, read_named_cameras
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.viewer_shutdown import stop_viewer

NUM_IMAGES, SIZE = 9, (240, 180)
STEPS = 60
STAGES = (
    "Reading photos",
    "Extracting keypoints",
    "Matching pairs",
    "Registering photos",
    "Seeding photos",
    "Aligning held-out photos",
)
"""Titles of the progress bars."""
BIN = Path(sys.executable).parent


def run(command: str, *arguments: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of nerfstudio's commands, and capture its output."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200"}
    process = subprocess.run(
        [BIN / command, *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        env=os.environ | environment,
    )
    if check:
        assert process.returncode == 0, process.stdout[-5000:]
    return process


def train(cwd: Path, data: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    length = ["--max-num-iterations", STEPS, "--steps-per-eval-image", STEPS - 1, "--vis", "tensorboard"]
    return run("ns-train", "nope-splat", "--data", data, *length, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with `scene/` and the outputs of a training before and after resuming."""
    root = tmp_path_factory.mktemp("commands")
    render_demo_scene(root / "scene", DemoSceneConfig(num_images=NUM_IMAGES, size=SIZE))
    first = train(root, root / "scene" / "images", "--timestamp", "first")
    assert "cached reconstruction" not in first.stdout
    assert "registered photos" in first.stdout
    assert "camera rotation" in first.stdout
    for stage in STAGES:
        assert f"\n{stage}: " in first.stdout
    load = ["--load-dir", "outputs/scene/nope-splat/first/nerfstudio_models"]
    more = ["--max-num-iterations", 2 * STEPS]
    second = train(root, root / "scene", "--timestamp", "second", *load, *more)
    assert "cached reconstruction" in second.stdout
    return root


def config(runs: Path, name: str = "second") -> Path:
    return runs / "outputs" / "scene" / "nope-splat" / name / "config.yml"


def checkpoint(runs: Path, name: str) -> dict:
    (file,) = (config(runs, name).parent / "nerfstudio_models").glob("*.ckpt")
    return torch.load(file, weights_only=True)


def test_training_resumes_where_it_ended(runs: Path) -> None:
    first, second = checkpoint(runs, "first"), checkpoint(runs, "second")
    assert (first["step"], second["step"]) == (STEPS - 1, 2 * STEPS - 1)
    moved = ["gauss_params.means", "gauss_params.scales", "track_points", "camera_optimizer.pose_adjustment"]
    for name in moved:
        before, after = (state["pipeline"][f"_model.{name}"] for state in (first, second))
        assert not torch.equal(before, after)
        torch.testing.assert_close(before, after, rtol=0.5, atol=0.5)  # resumed, not restarted


def test_curves_continue_after_resuming(runs: Path) -> None:
    (first, second) = (
        checkpoint(runs, name)["pipeline"]["history._extra_state"] for name in ("first", "second")
    )
    assert [row["step"] for row in first["rows"]] == list(range(0, STEPS, 10))
    assert [row["step"] for row in second["rows"]] == list(range(0, 2 * STEPS, 10))
    assert second["rows"][: STEPS // 10] == first["rows"]
    for name in ("photometric", "focal_px", "reprojection_error_px", "camera_rotation_mean_deg"):
        assert name in second["rows"][-1]


def test_tensorboard_gets_the_same_curves(runs: Path) -> None:
    events = EventAccumulator(str(config(runs).parent)).Reload()
    rows = {
        row["step"]: row for row in checkpoint(runs, "second")["pipeline"]["history._extra_state"]["rows"]
    }
    tags = set(events.Tags()["scalars"])
    names = {name for row in rows.values() for name in row} - {"step"}
    assert {"reprojection_error_px", "photometric", "focal_px", "psnr", "gaussian_count"} <= names
    for name in names:
        (tag,) = {f"Train {kind} Dict/{name}" for kind in ("Metrics", "Loss")} & tags
        logged = {event.step: event.value for event in events.Scalars(tag)}
        expected = {step: row[name] for step, row in rows.items() if step >= STEPS and name in row}
        assert logged == pytest.approx(expected), name


def test_commands_write_to_no_cache(runs: Path, tmp_path: Path) -> None:
    """A config.yml from somebody else can name any folder."""
    original = config(runs, "first")
    elsewhere = original.with_name("elsewhere.yml")
    loaded = yaml.load(original.read_text(), yaml.Loader)
    cache = loaded.pipeline.datamanager.dataparser.cache_dir = tmp_path / "elsewhere"
    loaded.pipeline.datamanager.data = loaded.data = runs / "scene" / "images"
    elsewhere.write_text(yaml.dump(loaded))
    export = ["export-cameras", "--load-config", elsewhere, "--output-dir", tmp_path / "out"]
    printed = run("nope-splat", *export, cwd=tmp_path).stdout
    assert (tmp_path / "out" / "transforms.json").is_file()
    assert not cache.exists()
    assert str(cache) in printed


def test_evaluation(runs: Path) -> None:
    run("ns-eval", "--load-config", config(runs), "--output-path", "eval.json", cwd=runs)
    results = json.loads((runs / "eval.json").read_text())["results"]
    assert results["psnr"] > 15
    assert 0 < results["ssim"] < 1
    assert results["held_out_unregistered"] == 0
    assert results.get("lpips", 1) > 0


def test_exported_gaussians(runs: Path) -> None:
    run("ns-export", "gaussian-splat", "--load-config", config(runs), "--output-dir", "export", cwd=runs)
    header, body = (runs / "export" / "splat.ply").read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    count = next(int(line.split()[-1]) for line in lines if line.startswith("element vertex"))
    names = [line.split()[-1] for line in lines if line.startswith("property float")]
    values = np.frombuffer(body, np.float32).reshape(count, len(names))
    state = checkpoint(runs, "second")["pipeline"]
    visible = state["_model.gauss_params.opacities"][:, 0] > -5.5373  # ns-export's threshold
    assert count == int(visible.sum()) > 100
    assert np.isfinite(values).all()
    means = state["_model.gauss_params.means"][visible].numpy()
    np.testing.assert_allclose(values[:, [names.index(axis) for axis in "xyz"]], means, atol=1e-6)


def test_exported_cameras_are_the_optimized_ones(runs: Path) -> None:
    run("ns-export", "cameras", "--load-config", config(runs), "--output-dir", "cameras", cwd=runs)
    frames = json.loads((runs / "cameras" / "transforms_train.json").read_text())
    held_out = json.loads((runs / "cameras" / "transforms_eval.json").read_text())
    assert (len(frames), len(held_out)) == (NUM_IMAGES - 2, 2)
    state = checkpoint(runs, "second")["pipeline"]
    exported = torch.tensor([frame["transform"] for frame in frames])
    base = state["_model.camera_optimizer.base_poses"]
    assert 0 < (exported - base).abs().max() < 0.1
    torch.testing.assert_close(torch.tensor([frame["transform"] for frame in held_out]), state["eval_poses"])
    truth = read_ground_truth(runs / "scene" / "ground_truth.json")
    poses = {}
    for frame in frames + held_out:
        pose = np.eye(4)
        pose[:3] = switch_axes(torch.tensor(frame["transform"], dtype=torch.float64)).numpy()
        poses[Path(frame["file_path"]).name] = pose
    assert compare_poses(poses, truth.T_world_camera).auc_5 > 80


def test_export_cameras(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    main(["export-cameras", "--load-config", str(config(runs)), "--output-dir", "colmap"])
    assert {path.name for path in Path("colmap").iterdir()} == {
        ".nope-splat.json",
        "images",
        "report.json",
        "sparse",
        "sparse_pc.ply",
        "sparse_text",
        "transforms.json",
    }
    state = checkpoint(runs, "second")["pipeline"]
    focal = state["_model.camera_optimizer.base_focal"] * state["_model.camera_optimizer.log_focal"].exp()
    transforms = json.loads(Path("colmap/transforms.json").read_text())
    assert transforms["fl_x"] == pytest.approx(float(focal))
    by_file = {frame["file_path"]: np.array(frame["transform_matrix"]) for frame in transforms["frames"]}
    held_out = np.stack([by_file[file][:3] for file in transforms["test_filenames"]])
    np.testing.assert_allclose(held_out, state["eval_poses"].numpy(), atol=1e-6)
    cameras = read_named_cameras(Path("colmap"))
    assert len(cameras) == NUM_IMAGES
    assert compare_cameras(cameras, read_named_cameras(Path("scene/ground_truth.json"))).auc_5 > 80


def test_a_missing_run_is_reported(runs: Path, tmp_path: Path) -> None:
    with refused("missing-file", tmp_path / "config.yml"):
        main(["export-cameras", "--load-config", str(tmp_path / "config.yml"), "--output-dir", str(tmp_path)])
    shutil.copy(config(runs), tmp_path / "config.yml")
    with refused("missing-file", tmp_path / "nerfstudio_models"):
        main(["export-cameras", "--load-config", str(tmp_path / "config.yml"), "--output-dir", str(tmp_path)])


def test_rendered_dataset(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    DatasetRender(
        config(runs), Path("renders"), split="train+test", rendered_output_names=["rgb", "depth"]
    ).main()
    for split, count in (("train", NUM_IMAGES - 2), ("test", 2)):
        files = list((runs / "renders" / split / "rgb").iterdir())
        assert len(files) == count
        with Image.open(files[0]) as image:
            assert image.size == SIZE


def test_rendered_path(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setattr("nerfstudio.utils.install_checks.check_ffmpeg_installed", lambda: None)
    RenderInterpolated(config(runs), Path("path"), output_format="images", interpolation_steps=3).main()
    assert len(list((runs / "path").iterdir())) == 3


def test_checkpoint_is_sufficient_for_viewing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the cache, the images are reconstructed again."""
    shutil.copytree(runs, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "outputs" / "scene" / "cache")
    monkeypatch.chdir(tmp_path / "runs")
    _, pipeline, _, _ = eval_setup(config(tmp_path / "runs"))
    torch.testing.assert_close(pipeline.eval_poses, checkpoint(runs, "second")["pipeline"]["eval_poses"])


def test_viewer_after_training(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ns-viewer` shows the panel, cameras, track points and legend of the finished training."""
    monkeypatch.chdir(runs)
    loaded, pipeline, _, step = eval_setup(config(runs), eval_num_rays_per_chunk=None, test_mode="test")
    assert isinstance(pipeline, NopePipeline)
    control = pipeline.viewer_control
    drawn: list[str] = []
    draw = control._draw_camera
    monkeypatch.setattr(control, "_draw_camera", lambda name, *rest: drawn.append(name) or draw(name, *rest))

    class Seen(Exception):
        """Raised when the viewer begins to wait for browsers."""

    def look(seconds: float) -> NoReturn:
        control._locked(control._draw)
        raise Seen

    monkeypatch.setattr(run_viewer, "time", SimpleNamespace(sleep=look))
    loaded.viewer.websocket_host, loaded.viewer.websocket_port_default = "127.0.0.1", 7107
    loaded.vis = "viewer"
    with pytest.raises(Seen):
        run_viewer._start_viewer(loaded, pipeline, step)
    assert f"trained, {2 * STEPS} iterations" in control._text.content
    assert "Reprojection error" in control._text.content
    assert len(control._plots.figure.to_dict()["data"]) == 3
    assert not control._show_points.disabled
    assert len([name for name in drawn if name.startswith("/cameras/")]) == NUM_IMAGES - 2
    assert len([name for name in drawn if name.startswith("/held_out/")]) == 2
    stop_viewer(control.viewer)


def test_unwritable_output_exits_with_one_sentence(runs: Path) -> None:
    (runs / "file").touch()
    process = run("ns-train", "nope-splat", "--data", "scene", "--output-dir", "file", cwd=runs, check=False)
    assert process.returncode == 1
    assert "Traceback" not in process.stdout
    last = process.stdout.strip().splitlines()[-1]
    assert last.startswith("nope-splat: cannot write")
    assert "--output-dir" in last
