"""Detection of degenerate scenes: pure rotation is refused, a planar scene gets a notice.

Keypoints are noisy, and matches pass geometric verification; other scenes get no notice.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.synthetic import SyntheticScene, look_at, make_scene, random_points, ring

from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.geometry.camera import Camera
from nope_splat.matching import MatchingSettings
from nope_splat.matching.database import MatchDatabase
from nope_splat.matching.verification import verify_pair
from nope_splat.sfm import Reconstruction, SfmOptions
from nope_splat.sfm.initialization.degeneracy import is_planar_or_rotation, is_pure_rotation
from nope_splat.sfm.pipeline import reconstruct_from_matches


def verified(made: SyntheticScene) -> SyntheticScene:
    """Replace the pairs by geometrically verified ones."""
    settings = MatchingSettings()
    pairs = (
        verify_pair(pair.first, pair.second, pair.indices, made.keypoints, settings)
        for pair in made.matches.pairs
    )
    return replace(made, matches=MatchDatabase(made.keypoints, tuple(pair for pair in pairs if pair)))


def turning(focal: float = 700.0, noise: float = 0.3, num_images: int = 5, seed: int = 0) -> SyntheticScene:
    """Rotate a camera by half of its field of view, among points three to eight units away."""
    rng = np.random.default_rng(seed)
    reach = np.arctan(320 / focal)
    angles = np.linspace(-reach / 2, reach / 2, num_images)
    targets = np.stack([np.sin(angles), np.cos(angles), rng.uniform(-0.1, 0.1, num_images)], axis=1)
    poses = np.stack([look_at(np.zeros(3), target) for target in targets])
    azimuth, depth = rng.uniform(-1.5, 1.5, 1500) * reach, rng.uniform(3, 8, 1500)
    height = rng.uniform(-1, 1, 1500) * np.tan(reach)
    points = depth[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth), height], axis=1)
    return make_scene(poses=poses, points=points, camera=Camera(focal), noise=noise, seed=seed)


def flat(tilt: float, noise: float = 0.3, seed: int = 0) -> SyntheticScene:
    """Translate cameras along a wall, tilted by at most some degrees."""
    rng = np.random.default_rng(seed)
    positions = np.stack([rng.uniform(-1, 1, 8), np.full(8, -4.0), rng.uniform(-1, 1, 8)], axis=1)
    aside = 4 * np.tan(np.radians(tilt)) * rng.uniform(-1, 1, (8, 3))
    poses = np.stack(
        [look_at(p, p * [1, 0, 1] + a * [1, 0, 1]) for p, a in zip(positions, aside, strict=True)]
    )
    points = random_points(600, seed, extent=1.5) * [1, 0, 1]
    return make_scene(poses=poses, points=points, noise=noise, seed=seed)


def scenes_with_depth() -> dict[str, SyntheticScene]:
    """Create scenes with depth, some of them with little."""
    wall = random_points(500, extent=1.5)
    wall[:350, 1] = 0
    forward = np.stack([look_at(np.array([0.1 * i, -4 - 0.5 * i, 0.1 * i]), np.zeros(3)) for i in range(6)])
    return {
        "arc": make_scene(),
        "two photos": make_scene(2, 2000),
        "short arc": make_scene(poses=ring(6, arc=10.0)),
        "wall with things before it": make_scene(points=wall),
        "walking forward": make_scene(poses=forward),
    }


def centered_keypoints(made: SyntheticScene) -> list[np.ndarray]:
    return [keypoints.xy - np.array(made.size) / 2 for keypoints in made.keypoints]


def run(made: SyntheticScene, folder: Path, **settings: float) -> Reconstruction:
    made = verified(made)
    return reconstruct_from_matches(
        made.write_images(folder),
        np.zeros(len(made.names), bool),
        made.matches,
        SfmOptions(**settings),  # pyright: ignore[reportArgumentType]
    )


def accuracy(scene: Reconstruction, made: SyntheticScene) -> PoseMetrics:
    poses = dict(zip(scene.image_names, scene.T_world_camera, strict=True))
    return compare_poses(poses, made.poses_by_name(), scene.cameras[0].focal, made.camera.focal)


@pytest.mark.parametrize("num_images", [2, 5])
@pytest.mark.parametrize("focal", [350.0, 700.0, 1800.0])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_pure_rotation_is_detected(focal: float, noise: float, num_images: int) -> None:
    made = verified(turning(focal, noise, num_images))
    assert is_planar_or_rotation(made.matches.pairs)
    assert is_pure_rotation(centered_keypoints(made), made.matches.pairs, 640)


def test_pure_rotation_is_refused(tmp_path: Path) -> None:
    with refused("no-baseline"):
        run(turning(), tmp_path)


@pytest.mark.parametrize("tilt", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_planar_scene_is_no_rotation(tilt: float, noise: float) -> None:
    made = verified(flat(tilt, noise))
    assert is_planar_or_rotation(made.matches.pairs)
    assert not is_pure_rotation(centered_keypoints(made), made.matches.pairs, 640)


@pytest.mark.parametrize("name", scenes_with_depth())
def test_scenes_with_depth_get_no_notice(name: str, tmp_path: Path) -> None:
    made = scenes_with_depth()[name]
    pairs = verified(made).matches.pairs
    assert not is_planar_or_rotation(pairs)
    assert not is_pure_rotation(centered_keypoints(made), pairs, 640)
    assert run(made, tmp_path).notice == ""


def test_oblique_views_of_a_planar_scene_determine_the_focal_length(tmp_path: Path) -> None:
    made = flat(20.0)
    scene = run(made, tmp_path)
    assert scene.notice == ""
    assert not scene.focal_fixed
    pose_metrics = accuracy(scene, made)
    assert pose_metrics.num_registered == 8
    assert abs(pose_metrics.focal_error) < 1.0
    assert pose_metrics.rra_5 == 100


def test_frontal_views_of_a_planar_scene_use_the_initial_focal_length(tmp_path: Path) -> None:
    made = flat(0.0)
    scene = run(made, tmp_path)
    assert scene.notice == (
        "the photos show one flat surface frontally, so they do not determine the focal length; 554 pixels"
        " are assumed; set initial-focal if you know it, or add photos from other directions"
    )
    assert accuracy(scene, made).auc_5 > 90  # whatever the focal length
    user_focal = run(made, tmp_path, initial_focal=700.0)
    assert user_focal.cameras[0].focal == pytest.approx(700)
    assert scene.focal_fixed
    assert user_focal.focal_fixed
    assert accuracy(user_focal, made).auc_5 > 90


def test_initial_focal_length_is_fixed_if_the_images_do_not_determine_it(tmp_path: Path) -> None:
    """Distant scenes are nearly planar, so that any focal length fits."""
    poses = np.stack([look_at(np.array([3.0 * i - 6, -40.0, 0.5 * i]), np.zeros(3)) for i in range(5)])
    made = make_scene(poses=poses, camera=Camera(6000.0))
    guessed = run(made, tmp_path)
    assert "do not determine the focal length well" in guessed.notice
    user_focal = run(made, tmp_path, initial_focal=6000.0)
    assert user_focal.cameras[0].focal == pytest.approx(6000)
    assert "do not determine the focal length; 6000 pixels are assumed" in user_focal.notice
    assert accuracy(user_focal, made).auc_5 > accuracy(guessed, made).auc_5
