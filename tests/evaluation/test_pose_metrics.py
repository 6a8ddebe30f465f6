"""Pose metrics: perfect for the ground truth in any frame, lower for pose errors and missing images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.synthetic import ring
from scipy.spatial.transform import Rotation

from nope_splat.evaluation.pose_metrics import area_under_recall, compare_poses
from nope_splat.geometry.similarity import Similarity, align_similarity
from nope_splat.io.cameras import read_ground_truth


def named(poses: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{number}.jpg": pose for number, pose in enumerate(poses)}


def any_similarity(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
    return Similarity(float(rng.uniform(0.2, 5)), rotation, rng.normal(size=3))


@pytest.mark.parametrize("seed", range(3))
def test_alignment_recovers_a_similarity(seed: int) -> None:
    similarity = any_similarity(seed)
    points = np.random.default_rng(seed).normal(size=(20, 3))
    aligned = align_similarity(points, similarity.apply(points))
    assert aligned.scale == pytest.approx(similarity.scale)
    np.testing.assert_allclose(aligned.rotation, similarity.rotation, atol=1e-9)
    np.testing.assert_allclose(aligned.translation, similarity.translation, atol=1e-9)


def test_alignment_never_mirrors() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    aligned = align_similarity(points, points * [-1, 1, 1])
    assert np.linalg.det(aligned.rotation) == pytest.approx(1)


def test_the_ground_truth_in_another_frame_is_perfect() -> None:
    truth = ring(6)
    metrics = compare_poses(named(any_similarity(1).apply_to_poses(truth)), named(truth), 710.0, 700.0)
    assert metrics.num_registered == metrics.num_images == 6
    assert metrics.auc_5 == pytest.approx(100, abs=1e-3)
    assert metrics.rra_5 == metrics.rta_5 == 100
    assert metrics.ate == pytest.approx(0, abs=1e-9)
    assert metrics.focal_error == pytest.approx(100 / 70)


def test_pairs_with_an_unregistered_image_fail() -> None:
    truth = named(ring(4))
    estimated = {name: pose for name, pose in truth.items() if name != "2.jpg"}
    metrics = compare_poses(estimated, truth)
    assert (metrics.num_registered, metrics.num_images) == (3, 4)
    assert metrics.rra_5 == metrics.rta_5 == 50  # 3 of 6 pairs
    assert metrics.auc_5 == pytest.approx(50, abs=1e-3)
    assert np.isnan(metrics.focal_error)


def test_a_rotation_error_of_one_image_lowers_the_auc() -> None:
    truth = ring(5)
    estimated = truth.copy()
    estimated[0, :3, :3] = estimated[0, :3, :3] @ Rotation.from_euler("z", 2, degrees=True).as_matrix()
    metrics = compare_poses(named(estimated), named(truth))
    # 4 of 10 pairs have an error of two degrees: they miss the first two fifths of the area.
    assert metrics.auc_5 == pytest.approx(100 * (1 - 0.4 * 0.4), abs=4)
    assert metrics.rra_5 == 100
    assert metrics.ate == pytest.approx(0, abs=1e-9)


def test_area_under_recall() -> None:
    assert area_under_recall(np.zeros(4), 5.0) == pytest.approx(1)
    assert area_under_recall(np.full(4, 6.0), 5.0) == 0
    assert area_under_recall(np.array([0.0, 6.0]), 5.0) == pytest.approx(0.5)


def test_ground_truth_files_are_read(tmp_path: Path) -> None:
    frames = [
        {"file_path": f"images/{name}", "camera_to_world_opencv": pose.tolist()}
        for name, pose in named(ring(3)).items()
    ]
    path = tmp_path / "ground_truth.json"
    path.write_text(json.dumps({"w": 640, "h": 480, "fl_x": 699, "fl_y": 701, "frames": frames}))
    truth = read_ground_truth(path)
    assert truth.focal == 700
    assert truth.size == (640, 480)
    np.testing.assert_allclose(truth.T_world_camera["1.jpg"], ring(3)[1], atol=1e-12)

    path.write_text("{}")
    with refused("unreadable-file", path):
        read_ground_truth(path)
    with refused("unreadable-file", "missing.json"):
        read_ground_truth(tmp_path / "missing.json")
