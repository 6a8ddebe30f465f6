"""Registration: complete where it can be, honest where it cannot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, make_scene, random_points, ring
from scipy.spatial.transform import Rotation

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.geometry.camera import SharedPinhole
from nope_splat.geometry.rigid import invert, rigid
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
    """Relative poses and an empty scene."""
    focal = focal or scene.camera.focal
    positions = [one.xy - np.array(scene.size) / 2 for one in scene.keypoints]
    views = relative_poses(positions, scene.matches.pairs, np.full(len(positions), focal))
    tracks = build_tracks(scene.keypoints, [view.matches for view in views.values()])
    return SfmState.start(tracks, scene.layout, np.array([focal])), views


def facing(poses: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """Points of the default cube are seen from their own side only, as those of a solid thing are."""
    points = random_points(1500)

    def sees(image_id: int, ids: np.ndarray) -> np.ndarray:
        return points[ids, :2] @ poses[image_id, :2, 3] > 0.5

    return sees


def auc_5(scene: SyntheticScene, working: SfmState) -> float:
    poses = invert(working.T_camera_world)
    estimated = {scene.names[image_id]: poses[image_id] for image_id in np.flatnonzero(working.registered)}
    return compare_poses(estimated, scene.poses_by_name()).auc_5


@pytest.mark.parametrize("wrong", [0.0, 0.3])
@pytest.mark.parametrize("focal_error", [0.7, 1.0, 1.5])
def test_incremental_registers_every_image(wrong: float, focal_error: float) -> None:
    scene = make_scene(wrong=wrong)
    working, views = start(scene, focal_error * scene.camera.focal)
    failures = IncrementalRegistration().register(working, views, OPTIONS)
    assert working.registered.all()
    assert failures == {}
    refine_globally(working, OPTIONS)
    assert auc_5(scene, working) > 97
    assert working.focal == pytest.approx(scene.camera.focal, rel=0.01)


@pytest.mark.parametrize("focal_error", [0.7, 1.0, 1.5])
def test_batches_register_every_image(focal_error: float) -> None:
    scene = make_scene(24, poses=ring(24, 200.0), num_points=1500, wrong=0.2, sees=facing(ring(24, 200.0)))
    working, views = start(scene, focal_error * scene.camera.focal)
    failures = BatchedRegistration().register(working, views, OPTIONS)
    assert working.registered.all()
    assert failures == {}
    refine_globally(working, OPTIONS)
    assert auc_5(scene, working) > 97
    assert working.focal == pytest.approx(scene.camera.focal, rel=0.01)


def test_rays_bring_a_displaced_camera_back_whatever_some_points_say() -> None:
    scene = make_scene(wrong=0.0)
    working, views = start(scene)
    IncrementalRegistration().register(working, views, OPTIONS)
    true = working.T_camera_world.copy()
    moved = [2, 5]
    rng = np.random.default_rng(0)
    for image_id in moved:
        turn = Rotation.from_rotvec(rng.normal(0, 0.003, 3)).as_matrix()
        working.T_camera_world[image_id] = rigid(turn, rng.normal(0, 0.02, 3)) @ true[image_id]
    wrong = np.isin(working.image_ids, moved) & (rng.random(len(working.xy)) < 0.2)
    working.xy[wrong] += rng.normal(0, 50, (int(wrong.sum()), 2))
    points = working.points.copy()
    refine_by_rays(working, np.array(moved))
    scale = np.linalg.norm(working.centers() - working.centers().mean(0), axis=1).mean()
    assert np.abs(working.T_camera_world[:, :3, :3] - true[:, :3, :3]).max() < 5e-4
    assert np.abs(working.T_camera_world[:, :3, 3] - true[:, :3, 3]).max() < 2e-3 * scale
    others = np.setdiff1d(np.arange(len(true)), moved)
    np.testing.assert_array_equal(working.T_camera_world[others], true[others])
    np.testing.assert_array_equal(working.points, points)


def test_chain_registers_every_image() -> None:
    scene = make_scene()
    working, views = start(scene)
    SpanningTreeRegistration().register(working, views, OPTIONS)
    refine_globally(working, OPTIONS)
    assert working.registered.all()
    assert auc_5(scene, working) > 97


def thin_scene(shared: int) -> SyntheticScene:
    """Two clusters of four images; only images 3 and 4 connect them, by points of their own.

    Images 2 and 5 see `shared` of those points each: too few for PnP, but enough for the scale.
    """
    bridge = np.random.default_rng(0).permutation(600)[:120]
    also_seen = {2: bridge[:shared], 5: bridge[60 : 60 + shared]}

    def sees(image_id: int, ids: np.ndarray) -> np.ndarray:
        own = (ids < 300) == (image_id < 4)
        if image_id in (3, 4):
            return own | np.isin(ids, bridge)
        return own & ~np.isin(ids, bridge) | np.isin(ids, also_seen.get(image_id, []))

    return make_scene(8, poses=ring(8, 80.0), num_points=600, wrong=0.0, sees=sees)


def test_an_image_that_pnp_cannot_reach_is_attached_by_its_best_pair() -> None:
    scene = thin_scene(shared=12)
    working, views = start(scene)
    failures = IncrementalRegistration().register(working, views, OPTIONS)
    assert working.registered.all()
    assert failures == {}
    refine_globally(working, OPTIONS)
    assert auc_5(scene, working) > 95


def test_without_shared_points_images_are_left_out() -> None:
    """The scale of a pair that shares no point with the rest is anyone's guess."""
    working, views = start(thin_scene(shared=0))
    failures = IncrementalRegistration().register(working, views, OPTIONS)
    left_out = np.flatnonzero(~working.registered)
    assert len(left_out) == 4
    assert sorted(failures) == left_out.tolist()
    assert all("needed track points visible" in reason for reason in failures.values())


def test_an_attached_image_that_does_not_hold_up_is_taken_back() -> None:
    """A wrong relative pose with wrong depths: shared points contradict it."""
    working, views = start(thin_scene(shared=12))
    rng = np.random.default_rng(0)
    view = views[3, 4]
    view.T_second_first[:3, :3] = Rotation.from_euler("xyz", [5, 40, -30], degrees=True).as_matrix()
    view.depths[:] = rng.uniform(1, 100, view.depths.shape)
    failures = IncrementalRegistration().register(working, views, OPTIONS)
    assert working.registered.sum() == 4
    assert "its pose did not survive verification" in failures.values()


def test_an_image_that_was_left_out_is_registered_later() -> None:
    scene = make_scene()
    working, views = start(scene)
    IncrementalRegistration().register(working, views, OPTIONS)
    working.registered[5] = False
    working.inlier &= working.image_ids != 5
    assert IncrementalRegistration().register_remaining(working, views, OPTIONS) == {}
    assert working.registered.all()
    refine_globally(working, OPTIONS)
    assert auc_5(scene, working) > 97


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_noise_is_estimated(noise: float) -> None:
    working, views = start(make_scene(noise=noise, wrong=0.0))
    IncrementalRegistration().register(working, views, OPTIONS)
    refine_globally(working, OPTIONS)
    assert np.median(working.sigma) == pytest.approx(noise, rel=0.15)


def test_result_is_the_same_every_time() -> None:
    scenes = []
    for _ in range(2):
        working, views = start(make_scene(5, 200))
        IncrementalRegistration().register(working, views, OPTIONS)
        scenes.append(working)
    np.testing.assert_array_equal(scenes[0].T_camera_world, scenes[1].T_camera_world)
    np.testing.assert_array_equal(scenes[0].inlier, scenes[1].inlier)


def test_principal_point_is_refined_where_it_can_be() -> None:
    scene = make_scene(12, 1500, camera=SharedPinhole(700.0, (7.0, -5.0)), poses=ring(12, 150.0))
    working, views = start(scene)
    IncrementalRegistration().register(working, views, OPTIONS)
    refine_globally(working, MapperOptions(refine_extra_params=False))
    np.testing.assert_allclose(working.offset[0], [7.0, -5.0], atol=1.0)


def test_radial_distortion_is_refined_where_it_can_be() -> None:
    camera = SharedPinhole(700.0, (7.0, -5.0), (-0.08, 0.05))
    scene = make_scene(12, 1500, camera=camera, poses=ring(12, 150.0))
    working, views = start(scene)
    IncrementalRegistration().register(working, views, OPTIONS)
    refine_globally(working, MapperOptions())
    assert working.focal == pytest.approx(700.0, rel=2e-3)
    np.testing.assert_allclose(working.offset[0], camera.offset, atol=1.0)
    np.testing.assert_allclose(working.radial[0], camera.radial, atol=0.02)


@pytest.mark.parametrize(("k1", "found"), [(-0.15, True), (-0.003, False)])
def test_lenses_that_plainly_bend_are_noticed(k1: float, found: bool) -> None:
    scene = make_scene(12, 600, camera=SharedPinhole(700.0, (0.0, 0.0), (k1, 0.0)), poses=ring(12, 150.0))
    working, views = start(scene)
    IncrementalRegistration().register(working, views, OPTIONS)
    refine_globally(working, MapperOptions(refine_extra_params=None))
    assert working.radial.any() == found
    if found:
        assert working.focal == pytest.approx(700.0, rel=2e-3)


def test_radial_distortion_that_shows_nowhere_is_none() -> None:
    """Points in the middle of every image only."""
    scene = make_scene(5, points=random_points(300, extent=0.3))
    working, views = start(scene)
    IncrementalRegistration().register(working, views, OPTIONS)
    refine_globally(working, MapperOptions())
    np.testing.assert_array_equal(working.radial[0], [0.0, 0.0])


def test_principal_point_of_mixed_orientations_stays_at_the_center() -> None:
    scene = make_scene(6)
    working, views = start(scene)
    working.half_size[0] = working.half_size[0, ::-1].copy()
    IncrementalRegistration().register(working, views, OPTIONS)
    refine_globally(working, MapperOptions(refine_extra_params=False))
    np.testing.assert_array_equal(working.offset[0], [0.0, 0.0])
