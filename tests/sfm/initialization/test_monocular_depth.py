"""Cameras from the depth of single images.

- The Jacobians of lifted matches are those of finite differences, for disparity and for depth.
- Joint adjustment brings cameras, focal length, scales and shifts back, in spite of wrong matches.
- On the procedural scene, depth of every kind, with its own scale, shift and errors in each image, gives
  cameras from the focal length of a field of view of 60 degrees.
- Held-out images need no depth; the cached scene is that of the maps' content.
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
    inverse: bool, num_cameras: int = 4, num_points: int = 60, seed: int = 0
) -> DepthAlignmentProblem:
    """The truth: cameras about points, and maps of random scales and shifts."""
    rng = np.random.default_rng(seed)
    T_camera_world = invert(ring(num_cameras))
    T_camera_world = T_camera_world @ invert(T_camera_world)[0]  # the first is the world
    points = rng.uniform((-1.5, -1.5, 2.5), (1.5, 1.5, 5.5), (num_points, 3))
    in_camera = np.einsum("cij,pj->cpi", T_camera_world[:, :3, :3], points) + T_camera_world[:, None, :3, 3]
    depth = in_camera[..., 2]
    target = 1 / depth if inverse else depth
    scales = np.r_[0.0, rng.uniform(-0.5, 0.5, num_cameras - 1)]
    shifts = rng.uniform(-0.05, 0.1, num_cameras)
    values = target / np.exp(scales)[:, None] - shifts[:, None]
    xy = FOCAL * in_camera[..., :2] / depth[..., None]
    edges = list(permutations(range(num_cameras), 2))
    return DepthAlignmentProblem(
        T_camera_world=T_camera_world,
        log_scales=scales,
        shifts=shifts,
        log_focal=float(np.log(FOCAL)),
        prior_log_focal=float(np.log(FOCAL)),
        inverse=inverse,
        free_shifts=True,
        edges=np.array(edges),
        starts=num_points * np.arange(len(edges) + 1),
        values=np.concatenate([values[one] for one, _ in edges]),
        xy_from=np.concatenate([xy[one] for one, _ in edges]),
        xy_to=np.concatenate([xy[other] for _, other in edges]),
    )


def moved(problem: DepthAlignmentProblem, step: np.ndarray, one: int, other: int) -> DepthAlignmentProblem:
    """A step in the fifteen variables of one edge."""
    poses = problem.T_camera_world.copy()
    for camera, increment in ((one, step[:6]), (other, step[6:12])):
        poses[camera] = rigid(Rotation.from_rotvec(increment[:3]).as_matrix(), increment[3:]) @ poses[camera]
    change = np.eye(len(poses))[one]
    return replace(
        problem,
        T_camera_world=poses,
        log_scales=problem.log_scales + step[12] * change,
        shifts=problem.shifts + step[13] * change,
        log_focal=problem.log_focal + step[14],
    )


@pytest.mark.parametrize("inverse", [True, False])
def test_jacobians(inverse: bool) -> None:
    problem = lifted_problem(inverse)
    rng = np.random.default_rng(1)
    problem = replace(problem, xy_to=problem.xy_to + rng.normal(0, 5, problem.xy_to.shape))
    edge, step = 5, 1e-6
    _, jacobian = linearize(problem, edge)
    for column, unit in enumerate(np.eye(15)):
        ahead, back = (
            linearize(moved(problem, sign * step * unit, *problem.edges[edge]), edge)[0] for sign in (1, -1)
        )
        np.testing.assert_allclose(jacobian[..., column], (ahead - back) / (2 * step), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("inverse", [True, False])
def test_joint_adjustment_finds_the_truth(inverse: bool) -> None:
    truth = lifted_problem(inverse)
    rng = np.random.default_rng(2)
    wrong = rng.random(len(truth.values)) < 0.1
    xy_to = truth.xy_to + rng.normal(0, 0.3, truth.xy_to.shape)
    xy_to[wrong] = rng.uniform(-300, 300, (int(wrong.sum()), 2))
    start = replace(truth, xy_to=xy_to)
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
    found = align_depths(start)
    assert found.log_focal == pytest.approx(truth.log_focal, abs=0.005)
    np.testing.assert_allclose(found.shifts, truth.shifts, atol=0.02)
    names = [str(camera) for camera in range(4)]
    compared = compare_poses(
        dict(zip(names, invert(found.T_camera_world), strict=True)),
        dict(zip(names, invert(truth.T_camera_world), strict=True)),
    )
    assert compared.auc_5 > 93


def test_without_matches_nothing_moves() -> None:
    problem = lifted_problem(True)
    none = replace(
        problem,
        starts=0 * problem.starts,
        values=np.zeros(0),
        xy_from=np.zeros((0, 2)),
        xy_to=np.zeros((0, 2)),
    )
    found = align_depths(none)
    np.testing.assert_array_equal(found.T_camera_world, problem.T_camera_world)


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
def test_distorted_depth_gives_cameras(
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


def test_maps_that_tell_nothing_are_named(valley: Path, cache: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for image in find_images(valley).images:
        np.savez(maps / f"{Path(image.name).stem}.npz", depth=np.full((24, 32), np.nan))
    with refused("inconsistent-depth", maps, "depth.kind"):
        reconstruct_by_depth(valley, cache, maps, "disparity")


def test_maps_of_another_kind_than_they_are_said_to_be_are_noticed(
    valley: Path, cache: Path, tmp_path: Path
) -> None:
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.02, 3)
    with refused("inconsistent-depth", maps, "depth.kind"):
        reconstruct_by_depth(valley, cache, maps, "metric")


def test_a_held_focal_length_stays() -> None:
    truth = lifted_problem(inverse=True)
    start = replace(truth, log_focal=truth.log_focal + 0.1, free_focal=False)
    assert align_depths(start).log_focal == start.log_focal


def test_the_cached_scene_is_that_of_the_maps(
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
