"""Test the output files and the errors of the command line `nope-splat`.

Bad input prints one sentence on stderr and exits with a nonzero status, without a traceback.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image

from nope_splat.cli import main
from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.cameras import read_ground_truth


def neighbors(folder: Path, count: int) -> list[Path]:
    """Select the images nearest to the middle of the arc."""
    poses = read_ground_truth(folder / "ground_truth.json").T_world_camera
    middle = np.mean([pose[:3, 3] for pose in poses.values()], axis=0)
    nearest = sorted(poses, key=lambda name: float(np.linalg.norm(poses[name][:3, 3] - middle)))
    return [folder / "images" / name for name in nearest[:count]]


def reconstruct(images: Path, output: Path) -> None:
    main(["reconstruct", "--data", str(images), "--output-dir", str(output)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder for images."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render images of a different scene."""
    output = tmp_path_factory.mktemp("elsewhere")
    render_demo_scene(output, DemoSceneConfig(num_images=9, size=(320, 240), seed=1))
    return output


def test_reconstruct_writes_all_files(
    valley: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A damaged image is skipped and named."""
    good = neighbors(valley, 9)
    for file in good:
        shutil.copy(file, folder)
    content = good[0].read_bytes()
    (folder / "damaged.jpg").write_bytes(content[: len(content) // 2])
    output = tmp_path / "output"
    main(
        [
            "reconstruct",
            "--data",
            str(folder),
            "--output-dir",
            str(output),
            "--matching.max-keypoints",
            "3000",
        ]
    )

    report = json.loads((output / "report.json").read_text())
    assert (report["images"], report["registered"]) == (9, 9)
    assert "truncated" in report["skipped_files"]["damaged.jpg"]
    assert {path.name for path in (output / "sparse" / "0").iterdir()} == {
        ".nope-splat.json",
        "cameras.bin",
        "images.bin",
        "points3D.bin",
    }
    transforms = json.loads((output / "transforms.json").read_text())
    truth = read_ground_truth(valley / "ground_truth.json")
    poses = {}
    for frame in transforms["frames"]:
        T_world_camera = np.array(frame["transform_matrix"], dtype=np.float64)
        poses[Path(frame["file_path"]).name] = T_world_camera * [1.0, -1.0, -1.0, 1.0]
    metrics = compare_poses(poses, truth.T_world_camera, transforms["fl_x"], truth.focal)
    assert metrics.auc_5 > 90
    assert abs(metrics.focal_error) < 1.0

    printed = capsys.readouterr()
    assert "9 of 9" in printed.out
    assert "Skipped damaged.jpg" in printed.err


def test_missing_folder(tmp_path: Path):
    with refused("missing-file", tmp_path / "nowhere"):
        reconstruct(tmp_path / "nowhere", tmp_path / "output")


def test_empty_folder(folder: Path, tmp_path: Path):
    with refused("too-few-images", folder):
        reconstruct(folder, tmp_path / "output")


def test_one_image(valley: Path, folder: Path, tmp_path: Path):
    shutil.copy(neighbors(valley, 1)[0], folder / "only.jpg")
    with refused("too-few-images", "only.jpg"):
        reconstruct(folder, tmp_path / "output")


def test_two_images_of_different_scenes(valley: Path, elsewhere: Path, folder: Path, tmp_path: Path):
    shutil.copy(neighbors(valley, 1)[0], folder / "a.jpg")
    shutil.copy(neighbors(elsewhere, 1)[0], folder / "b.jpg")
    with refused("no-matches", "a.jpg", "b.jpg"):
        reconstruct(folder, tmp_path / "output")


def test_a_stray_image_of_another_size_is_left_out(valley: Path, folder: Path, tmp_path: Path):
    for file in neighbors(valley, 3):
        shutil.copy(file, folder)
    Image.new("RGB", (200, 100)).save(folder / "other.png")
    main(["reconstruct", "--data", str(folder), "--output-dir", str(tmp_path / "output")])
    report = json.loads((tmp_path / "output" / "report.json").read_text())
    assert report["registered"] == 3
    assert list(report["unregistered"]) == ["other.png"]


def test_images_without_texture(folder: Path, tmp_path: Path):
    for index in range(3):
        Image.new("RGB", (160, 120), (90 + index, 120, 150)).save(folder / f"wall {index}.png")
    with refused("no-texture"):
        reconstruct(folder, tmp_path / "output")


def test_disconnected_groups_of_images(valley: Path, elsewhere: Path, folder: Path, tmp_path: Path):
    for letter, source in (("a", valley), ("b", elsewhere)):
        for index, file in enumerate(neighbors(source, 2)):
            shutil.copy(file, folder / f"{letter}{index}.jpg")
    with refused("no-matches", "a0.jpg with a1.jpg", "b0.jpg with b1.jpg"):
        reconstruct(folder, tmp_path / "output")


def test_unwritable_output_raises_before_the_work(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with refused("unwritable-output", tmp_path / "file"):
        reconstruct(tmp_path / "no photos", tmp_path / "file")


def test_demo_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["demo-scene", "--output-dir", str(tmp_path), "--num-images", "2", "--size", "64", "48"])
    assert str(tmp_path / "images") in capsys.readouterr().out
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "reconstruct" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["rekonstruct"], ["reconstruct", "--no-such-option", "1"]])
def test_invalid_arguments_exit_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr() != ("", "")


def test_process_exits_without_traceback(tmp_path: Path):
    arguments = ["reconstruct", "--data", str(tmp_path / "nowhere"), "--output-dir", str(tmp_path / "output")]
    code = "from nope_splat.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("nope-splat: ")
    assert str(tmp_path / "nowhere") in line
