"""Registration by all methods: complete if possible, with reasons of failure otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, make_scene, random_points, ring
from scipy.spatial.transform import Rotation

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert, rigid
from nope_splat.io.cameras.orientation import UPRIGHT_FROM_STORED
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.global_refinement import refine_globally
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.registration.batched import BatchedRegistration
from nope_splat.sfm.registration.incremental import IncrementalRegistration
from nope_splat.sfm.registration.ray_refinement import refine_by_rays
from nope_splat.sfm.registration.spanning_tree import SpanningTreeRegistration
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import TwoView, relative_poses

OPTIONS = MapperOptions(refine_principal_point=False, refine_extra_params=False)


def start(
    scene: SyntheticScene, focal: float | None = None
) -> tuple[SfmState, dict[tuple[int, int], TwoView]]:
    """Create a state without poses, and the relative poses."""
    focal = focal or scene.camera.focal
    centered = [keypoints.xy - np.array(scene.size) / 2 for keypoints in scene.keypoints]
    two_views = relative_poses(centered, scene.matches.pairs, len(centered) * [Camera(focal)])
    tracks = build_tracks(scene.keypoints, [view.matches for view in two_views.values()])
    return SfmState.from_tracks(tracks, scene.camera_groups, np.array([focal])), two_views


def facing(poses: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """Make points of the default cube visible from one side only, as for a solid object."""
    points = random_points(1500)

    def sees(image_id: int, ids: np.ndarray) -> np.ndarray:
        return points[ids, :2] @ poses[image_id, :2, 3] > 0.5

    return sees


def auc_5(scene: SyntheticScene, state: SfmState) -> float:
    poses = invert(state.T_camera_world)
    estimated = {scene.names[image_id]: poses[image_id] for image_id in np.flatnonzero(state.registered)}
    return compare_poses(estimated, scene.poses_by_name()).auc_5


@pytest.mark.parametrize("wrong", [0.0, 0.3])
@pytest.mark.parametrize("focal_error", [0.7, 1.0, 1.5])
def test_incremental_registers_every_image(wrong: float, focal_error: float) -> None:
    scene = make_scene(wrong=wrong)
    state, two_views = start(scene, focal_error * scene.camera.focal)
    failures = IncrementalRegistration().register(state, two_views, OPTIONS)
    assert state.registered.all()
    assert failures == {}
    refine_globally(state, OPTIONS)
    assert auc_5(scene, state) > 97
    assert state.focal == pytest.approx(scene.camera.focal, rel=0.01)


@pytest.mark.parametrize("focal_error", [0.7, 1.0, 1.5])
def test_batches_register_every_image(focal_error: float) -> None:
    scene = make_scene(24, poses=ring(24, 200.0), num_points=1500, wrong=0.2, sees=facing(ring(24, 200.0)))
    state, two_views = start(scene, focal_error * scene.camera.focal)
    failures = BatchedRegistration().register(state, two_views, OPTIONS)
    assert state.registered.all()
    assert failures == {}
    refine_globally(state, OPTIONS)
    assert auc_5(scene, state) > 97
    assert state.focal == pytest.approx(scene.camera.focal, rel=0.01)


def test_ray_refinement_recovers_displaced_cameras_despite_outliers() -> None:
    scene = make_scene(wrong=0.0)
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    true = state.T_camera_world.copy()
    moved = [2, 5]
    rng = np.random.default_rng(0)
    for image_id in moved:
        turn = Rotation.from_rotvec(rng.normal(0, 0.003, 3)).as_matrix()
        state.T_camera_world[image_id] = rigid(turn, rng.normal(0, 0.02, 3)) @ true[image_id]
    wrong = np.isin(state.image_ids, moved) & (rng.random(len(state.xy)) < 0.2)
    state.xy[wrong] += rng.normal(0, 50, (int(wrong.sum()), 2))
    points = state.points.copy()
    refine_by_rays(state, np.array(moved))
    scale = np.linalg.norm(state.centers() - state.centers().mean(0), axis=1).mean()
    assert np.abs(state.T_camera_world[:, :3, :3] - true[:, :3, :3]).max() < 5e-4
    assert np.abs(state.T_camera_world[:, :3, 3] - true[:, :3, 3]).max() < 2e-3 * scale
    unmoved = np.setdiff1d(np.arange(len(true)), moved)
    np.testing.assert_array_equal(state.T_camera_world[unmoved], true[unmoved])
    np.testing.assert_array_equal(state.points, points)


def test_spanning_tree_registers_every_image() -> None:
    scene = make_scene()
    state, two_views = start(scene)
    SpanningTreeRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, OPTIONS)
    assert state.registered.all()
    assert auc_5(scene, state) > 97


def thin_scene(shared: int) -> SyntheticScene:
    """Create two clusters of four images, connected only by points that images 3 and 4 share.

    Images 2 and 5 each observe `shared` of these points: too few for PnP, but enough for the scale.
    """
    bridge = np.random.default_rng(0).permutation(600)[:120]
    also_seen = {2: bridge[:shared], 5: bridge[60 : 60 + shared]}

    def sees(image_id: int, ids: np.ndarray) -> np.ndarray:
        in_cluster = (ids < 300) == (image_id < 4)
        if image_id in (3, 4):
            return in_cluster | np.isin(ids, bridge)
        return in_cluster & ~np.isin(ids, bridge) | np.isin(ids, also_seen.get(image_id, []))

    return make_scene(8, poses=ring(8, 80.0), num_points=600, wrong=0.0, sees=sees)


def test_image_with_few_visible_points_is_registered_by_its_best_pair() -> None:
    scene = thin_scene(shared=12)
    state, two_views = start(scene)
    failures = IncrementalRegistration().register(state, two_views, OPTIONS)
    assert state.registered.all()
    assert failures == {}
    refine_globally(state, OPTIONS)
    assert auc_5(scene, state) > 95


def test_images_without_shared_points_are_not_registered() -> None:
    """The scale of a pair without shared points is unknown."""
    state, two_views = start(thin_scene(shared=0))
    failures = IncrementalRegistration().register(state, two_views, OPTIONS)
    left_out = np.flatnonzero(~state.registered)
    assert len(left_out) == 4
    assert sorted(failures) == left_out.tolist()
    assert all("track points are visible" in reason for reason in failures.values())


def test_image_that_fails_verification_is_unregistered() -> None:
    """Shared points contradict a wrong relative pose with wrong depths."""
    state, two_views = start(thin_scene(shared=12))
    rng = np.random.default_rng(0)
    view = two_views[3, 4]
    view.T_second_first[:3, :3] = Rotation.from_euler("xyz", [5, 40, -30], degrees=True).as_matrix()
    view.depths[:] = rng.uniform(1, 100, view.depths.shape)
    failures = IncrementalRegistration().register(state, two_views, OPTIONS)
    assert state.registered.sum() == 4
    assert "its pose disagrees with the track points of other photos" in failures.values()


def test_register_remaining_registers_missing_images() -> None:
    scene = make_scene()
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    state.registered[5] = False
    state.inlier &= state.image_ids != 5
    assert IncrementalRegistration().register_remaining(state, two_views, OPTIONS) == {}
    assert state.registered.all()
    refine_globally(state, OPTIONS)
    assert auc_5(scene, state) > 97


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_noise_is_estimated(noise: float) -> None:
    state, two_views = start(make_scene(noise=noise, wrong=0.0))
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, OPTIONS)
    assert np.median(state.sigma) == pytest.approx(noise, rel=0.15)


def test_result_is_reproducible() -> None:
    scenes = []
    for _ in range(2):
        state, two_views = start(make_scene(5, 200))
        IncrementalRegistration().register(state, two_views, OPTIONS)
        scenes.append(state)
    np.testing.assert_array_equal(scenes[0].T_camera_world, scenes[1].T_camera_world)
    np.testing.assert_array_equal(scenes[0].inlier, scenes[1].inlier)


def test_principal_point_is_refined_if_determined() -> None:
    scene = make_scene(12, 1500, camera=Camera(700.0, (7.0, -5.0)), poses=ring(12, 150.0))
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions(refine_extra_params=False))
    np.testing.assert_allclose(state.offset[0], [7.0, -5.0], atol=1.0)


def test_radial_distortion_is_refined_if_determined() -> None:
    camera = Camera(700.0, (7.0, -5.0), (-0.08, 0.05, 0.0, 0.0, 0.0, 0.0))
    scene = make_scene(12, 1500, camera=camera, poses=ring(12, 150.0))
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions())
    assert state.focal == pytest.approx(700.0, rel=2e-3)
    np.testing.assert_allclose(state.offset[0], camera.offset, atol=1.0)
    np.testing.assert_allclose(state.distortion[0], camera.distortion, atol=0.02)


@pytest.mark.parametrize(("k1", "is_refined"), [(-0.15, True), (0.0, False)])
def test_distortion_is_refined_only_if_it_is_significant(k1: float, is_refined: bool) -> None:
    scene = make_scene(12, 600, camera=Camera(700.0, distortion=(k1, *5 * [0.0])), poses=ring(12, 150.0))
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions(refine_extra_params=None))
    assert state.distortion.any() == is_refined
    if is_refined:
        assert state.focal == pytest.approx(700.0, rel=2e-3)


def test_undetermined_distortion_stays_zero() -> None:
    """All points are in the middle of the images, where distortion is small."""
    scene = make_scene(5, points=random_points(300, extent=0.3))
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions())
    np.testing.assert_array_equal(state.distortion[0], np.zeros(6))


def test_principal_point_turns_with_the_photo() -> None:
    turns = np.array([*UPRIGHT_FROM_STORED.values(), *4 * [np.eye(2)]], float)
    camera = Camera(700.0, (9.0, -6.0))
    scene = make_scene(12, 1500, camera=camera, poses=ring(12, 150.0), turns=turns)
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions(refine_extra_params=False))
    np.testing.assert_allclose(state.offset[0], camera.offset, atol=1.0)
    np.testing.assert_allclose(state.offsets(5), turns[5] @ state.offset[0])
    assert state.focal == pytest.approx(700.0, rel=2e-3)
    assert auc_5(scene, state) > 98


@pytest.mark.parametrize("orientation", [6, 8])
def test_direction_of_a_rotation_is_found(orientation: int) -> None:
    """Two photos were rotated by 90 degrees, but nothing says in which direction."""
    turns = np.tile(np.eye(2), (10, 1, 1))
    turns[[2, 7]] = UPRIGHT_FROM_STORED[orientation]
    camera = Camera(700.0, (9.0, -6.0))
    scene = make_scene(10, 800, camera=camera, poses=ring(10, 150.0), turns=turns)
    unknown = turns.copy()
    unknown[[2, 7]] = 0
    groups = replace(scene.camera_groups, upright_from_sensor=unknown)
    state, two_views = start(replace(scene, camera_groups=groups))
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions(refine_extra_params=False))
    np.testing.assert_array_equal(state.upright_from_sensor, turns)
    np.testing.assert_allclose(state.offset[0], camera.offset, atol=1.0)


def test_principal_point_of_photos_turned_in_unknown_ways_stays_at_the_center() -> None:
    scene = make_scene(6, turns=np.zeros((6, 2, 2)))
    state, two_views = start(scene)
    IncrementalRegistration().register(state, two_views, OPTIONS)
    refine_globally(state, MapperOptions(refine_extra_params=False))
    np.testing.assert_array_equal(state.offset[0], [0.0, 0.0])
