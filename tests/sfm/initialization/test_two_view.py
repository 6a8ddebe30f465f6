"""Two-view geometry: relative poses, and focal lengths from pairs."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, look_at, make_scene, random_points

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert
from nope_splat.sfm.initialization.focal import estimate_focal, focal_starts, prior_focal, weighted_quantiles
from nope_splat.sfm.two_view_geometry import relative_poses


def centered_keypoints(scene: SyntheticScene) -> list[np.ndarray]:
    """Compute keypoints relative to the image center."""
    return [keypoints.xy - np.array(scene.size) / 2 for keypoints in scene.keypoints]


def cameras(scene: SyntheticScene) -> list[Camera]:
    """Repeat the camera for each image."""
    return len(scene.names) * [scene.camera]


@pytest.mark.parametrize("focal", [350.0, 700.0, 1800.0])
def test_focal_length_from_pairs(focal: float) -> None:
    scene = make_scene(points=random_points(400, extent=min(1.0, 600 / focal)), camera=Camera(focal))
    estimate = estimate_focal(centered_keypoints(scene), scene.matches.pairs, 640)
    assert estimate.focal == pytest.approx(focal, rel=0.03)
    assert estimate.is_certain
    assert estimate.starts == (estimate.focal,)


def test_focal_starts_without_pairs_are_multiples_of_the_prior() -> None:
    estimate = estimate_focal([], [], 640)
    assert estimate.focal == prior_focal(640) == pytest.approx(554.26, abs=0.01)
    assert not estimate.is_certain
    assert estimate.starts[0] == estimate.focal
    assert list(estimate.starts) == sorted(estimate.starts)


def test_focal_length_of_a_planar_scene_is_uncertain() -> None:
    points = random_points(400)
    points[:, 1] = 0
    scene = make_scene(points=points)
    assert not estimate_focal(centered_keypoints(scene), scene.matches.pairs, 640).is_certain


def test_focal_length_from_pairs_with_a_known_camera() -> None:
    made = make_scene(7, second=(Camera(450.0), (800, 500)))
    pairs = [pair for pair in made.matches.pairs if not (pair.first % 2 and pair.second % 2)]
    centered = [
        made.camera_groups.to_centered(keypoints.xy, image_id)
        for image_id, keypoints in enumerate(made.keypoints)
    ]
    (start,) = focal_starts(centered, pairs, made.camera_groups, np.full(2, np.nan))
    assert start[0] == pytest.approx(700.0, rel=0.03)
    assert start[1] == pytest.approx(450.0, rel=0.03)


def test_weighted_quantiles() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 8.0])
    assert weighted_quantiles(values, weights, (0.05, 0.5, 0.95)) == (1.0, 2.0, 3.0)


def test_relative_poses_and_depths() -> None:
    scene = make_scene(4, wrong=0.1)
    two_views = relative_poses(centered_keypoints(scene), scene.matches.pairs, cameras(scene))
    assert len(two_views) == len(scene.matches.pairs)
    for (first, second), view in two_views.items():
        T = invert(scene.T_world_camera[second]) @ scene.T_world_camera[first]
        baseline = np.linalg.norm(T[:3, 3])
        np.testing.assert_allclose(view.T_second_first[:3, :3], T[:3, :3], atol=5e-3)
        np.testing.assert_allclose(view.T_second_first[:3, 3], T[:3, 3] / baseline, atol=2e-2)
        # Few wrong matches remain, those that lie on their epipolar line by chance.
        points_first = scene.points_of_keypoints[first][view.matches.indices[:, 0]]
        points_second = scene.points_of_keypoints[second][view.matches.indices[:, 1]]
        right = points_first == points_second
        assert right.mean() > 0.99
        in_first = (scene.points[points_first] - scene.T_world_camera[first, :3, 3]) @ scene.T_world_camera[
            first, :3, :3
        ]
        np.testing.assert_allclose(view.depths[right, 0], in_first[right, 2] / baseline, rtol=0.1)


def test_from_image_swaps_the_pair() -> None:
    scene = make_scene(2, noise=0.0, wrong=0.0)
    view = relative_poses(centered_keypoints(scene), scene.matches.pairs, cameras(scene))[0, 1]
    second, T_second_image, keypoints, depths = view.from_image(1)
    assert second == 0
    np.testing.assert_allclose(T_second_image @ view.T_second_first, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(keypoints, view.matches.indices[:, ::-1])
    np.testing.assert_array_equal(depths, view.depths[:, ::-1])


def test_parallax_is_measured() -> None:
    poses = np.stack([look_at(np.array([x, -40.0, 0.0]), np.zeros(3)) for x in (-2.0, 2.0)])
    scene = make_scene(poses=poses, camera=Camera(6000.0), noise=0.05)
    (view,) = relative_poses(centered_keypoints(scene), scene.matches.pairs, cameras(scene)).values()
    assert view.angle == pytest.approx(np.degrees(2 * np.arctan(2 / 40)), rel=0.1)
