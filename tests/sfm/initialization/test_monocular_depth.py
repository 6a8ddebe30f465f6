"""Initialization by monocular depth.

- Jacobians of lifted matches match finite differences, for disparity and for depth.
- Joint optimization recovers poses, focal length, scales and shifts despite wrong matches.
- On the procedural scene, depth maps of every kind, with a random scale, shift and noise for each image, give
  accurate cameras from the focal length of a field of view of 60 degrees.
- Held-out images need no depth maps; the cache key depends on the content of the maps.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from fixtures.depth_sources import write_maps
from fixtures.errors import refused
from fixtures.synthetic import ring
from scipy.spatial.transform import Rotation

from nope_splat.depth import DepthKind, DepthSettings
from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.geometry.rigid import invert, rigid
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import find_images
from nope_splat.sfm import Reconstruction, SfmOptions, reconstruct
from nope_splat.sfm.initialization.depth_alignment import DepthAlignmentProblem, align_depths, linearize
from nope_splat.sfm.initialization.focal import prior_focal
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization

FOCAL = 600.0


def lifted_problem(
    inverse: bool, num_images: int = 4, num_points: int = 60, seed: int = 0
) -> DepthAlignmentProblem:
    """Create a problem at its solution, with maps of random scales and shifts."""
    rng = np.random.default_rng(seed)
    T_camera_world = invert(ring(num_images))
    T_camera_world = T_camera_world @ invert(T_camera_world)[0]  # the first camera is the world frame
    points = rng.uniform((-1.5, -1.5, 2.5), (1.5, 1.5, 5.5), (num_points, 3))
    points_camera = (
        np.einsum("cij,pj->cpi", T_camera_world[:, :3, :3], points) + T_camera_world[:, None, :3, 3]
    )
    depth = points_camera[..., 2]
    target = 1 / depth if inverse else depth
    scales = np.r_[0.0, rng.uniform(-0.5, 0.5, num_images - 1)]
    shifts = rng.uniform(-0.05, 0.1, num_images)
    values = target / np.exp(scales)[:, None] - shifts[:, None]
    xy = FOCAL * points_camera[..., :2] / depth[..., None]
    edges = list(permutations(range(num_images), 2))
    return DepthAlignmentProblem(
        T_camera_world=T_camera_world,
        log_scales=scales,
        shifts=shifts,
        log_focal=float(np.log(FOCAL)),
        prior_log_focal=float(np.log(FOCAL)),
        inverse=inverse,
        free_shifts=True,
        edges=np.array(edges),
        edge_starts=num_points * np.arange(len(edges) + 1),
        values=np.concatenate([values[source] for source, _ in edges]),
        xy_source=np.concatenate([xy[source] for source, _ in edges]),
        xy_target=np.concatenate([xy[target] for _, target in edges]),
    )


def moved(
    problem: DepthAlignmentProblem, step: np.ndarray, source: int, target: int
) -> DepthAlignmentProblem:
    """Apply a step to the fifteen variables of an edge."""
    poses = problem.T_camera_world.copy()
    for image_id, increment in ((source, step[:6]), (target, step[6:12])):
        motion = rigid(Rotation.from_rotvec(increment[:3]).as_matrix(), increment[3:])
        poses[image_id] = motion @ poses[image_id]
    change = np.eye(len(poses))[source]
    return replace(
        problem,
        T_camera_world=poses,
        log_scales=problem.log_scales + step[12] * change,
        shifts=problem.shifts + step[13] * change,
        log_focal=problem.log_focal + step[14],
    )


@pytest.mark.parametrize("inverse", [True, False])
def test_jacobians_match_finite_differences(inverse: bool) -> None:
    problem = lifted_problem(inverse)
    rng = np.random.default_rng(1)
    problem = replace(problem, xy_target=problem.xy_target + rng.normal(0, 5, problem.xy_target.shape))
    edge, step = 5, 1e-6
    _, jacobian = linearize(problem, edge)
    for column, unit in enumerate(np.eye(15)):
        ahead, back = (
            linearize(moved(problem, sign * step * unit, *problem.edges[edge]), edge)[0] for sign in (1, -1)
        )
        np.testing.assert_allclose(jacobian[..., column], (ahead - back) / (2 * step), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("inverse", [True, False])
def test_alignment_recovers_poses_scales_and_shifts(inverse: bool) -> None:
    truth = lifted_problem(inverse)
    rng = np.random.default_rng(2)
    wrong = rng.random(len(truth.values)) < 0.1
    xy_target = truth.xy_target + rng.normal(0, 0.3, truth.xy_target.shape)
    xy_target[wrong] = rng.uniform(-300, 300, (int(wrong.sum()), 2))
    start = replace(truth, xy_target=xy_target)
    for camera in range(1, 4):
        disturbance = np.r_[rng.normal(0, 0.05, 3), rng.normal(0, 0.2, 3), 0, 0, 0, 0, 0, 0, 0, 0, 0]
        start = moved(start, disturbance, camera, 0)
    start = replace(
        start,
        log_scales=truth.log_scales + np.r_[0, rng.normal(0, 0.1, 3)],
        shifts=np.full(4, 0.2),
        log_focal=truth.log_focal + 0.15,
        prior_log_focal=truth.log_focal + 0.15,
    )
    aligned = align_depths(start)
    assert aligned.log_focal == pytest.approx(truth.log_focal, abs=0.005)
    np.testing.assert_allclose(aligned.shifts, truth.shifts, atol=0.02)
    names = [str(camera) for camera in range(4)]
    compared = compare_poses(
        dict(zip(names, invert(aligned.T_camera_world), strict=True)),
        dict(zip(names, invert(truth.T_camera_world), strict=True)),
    )
    assert compared.auc_5 > 93


def test_poses_stay_unchanged_without_matches() -> None:
    problem = lifted_problem(True)
    none = replace(
        problem,
        edge_starts=0 * problem.edge_starts,
        values=np.zeros(0),
        xy_source=np.zeros((0, 2)),
        xy_target=np.zeros((0, 2)),
    )
    aligned = align_depths(none)
    np.testing.assert_array_equal(aligned.T_camera_world, problem.T_camera_world)


def reconstruct_by_depth(
    valley: Path, cache: Path, maps: Path, kind: DepthKind, held_out: tuple[str, ...] = ()
) -> tuple[Reconstruction, PoseMetrics]:
    truth = read_ground_truth(valley / "ground_truth.json")
    options = SfmOptions(
        depth=DepthSettings(maps=maps, kind=kind), initialization=MonocularDepthInitialization()
    )
    scene = reconstruct(find_images(valley), held_out, options, cache)
    poses = {
        name: pose
        for name, pose, ok in zip(scene.image_names, scene.T_world_camera, scene.registered, strict=True)
        if ok
    }
    return scene, compare_poses(poses, truth.T_world_camera, scene.cameras[0].focal, truth.focal)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    ("kind", "noise"), [("disparity", 0.0), ("disparity", 0.1), ("affine", 0.03), ("metric", 0.05)]
)
def test_cameras_from_distorted_depth(
    valley: Path, cache: Path, tmp_path: Path, kind: DepthKind, noise: float
) -> None:
    truth = read_ground_truth(valley / "ground_truth.json")
    assert prior_focal(320) / truth.focal == pytest.approx(0.882, abs=0.001)
    _, compared = reconstruct_by_depth(
        valley, cache, write_maps(valley, tmp_path / "maps", kind, noise, 0), kind
    )
    assert compared.num_registered == 9
    assert compared.auc_5 > 97
    assert abs(compared.focal_error) < 0.5  # percent
    assert compared.ate < 0.1  # percent


def test_held_out_images_need_no_depth(valley: Path, cache: Path, tmp_path: Path) -> None:
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.02, 1)
    (maps / "photo_003.npz").unlink()
    scene, compared = reconstruct_by_depth(valley, cache, maps, "disparity", ("photo_003.jpg",))
    assert scene.registered.all()
    assert compared.auc_5 > 97
    with refused("missing-file", "photo_003.jpg"):
        reconstruct_by_depth(valley, cache, maps, "disparity")


def test_empty_depth_maps_are_refused(valley: Path, cache: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for image in find_images(valley).images:
        np.savez(maps / f"{Path(image.name).stem}.npz", depth=np.full((24, 32), np.nan))
    with refused("inconsistent-depth", maps, "depth.kind"):
        reconstruct_by_depth(valley, cache, maps, "disparity")


def test_depth_maps_of_another_kind_than_declared_are_refused(
    valley: Path, cache: Path, tmp_path: Path
) -> None:
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.02, 3)
    with refused("inconsistent-depth", maps, "depth.kind"):
        reconstruct_by_depth(valley, cache, maps, "metric")


def test_fixed_focal_length_stays() -> None:
    truth = lifted_problem(inverse=True)
    start = replace(truth, log_focal=truth.log_focal + 0.1, free_focal=False)
    assert align_depths(start).log_focal == start.log_focal


def test_cache_depends_on_the_content_of_the_maps(
    valley: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.02, 2)
    reconstruct_by_depth(valley, cache, maps, "disparity")
    caplog.clear()
    elsewhere = shutil.copytree(maps, tmp_path / "elsewhere")
    reconstruct_by_depth(valley, cache, elsewhere, "disparity")
    assert "Using the cached reconstruction" in caplog.text
    caplog.clear()
    shutil.copy(maps / "photo_000.npz", elsewhere / "photo_001.npz")
    reconstruct_by_depth(valley, cache, elsewhere, "disparity")
    assert "Using the cached reconstruction" not in caplog.text
