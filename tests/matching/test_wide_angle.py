"""Wide-angle lenses: recognized from matches, and verified with their distortion."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, make_scene, ring

from nope_splat.geometry.camera import Camera
from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.verification import epipolar_errors, verify_pair
from nope_splat.matching.wide_angle import find_wide_angle_lenses, with_lenses
from nope_splat.scene.features import Keypoints, PairMatches

SETTINGS = MatchingSettings()
SIZE = (640, 480)


def wide_scene(field_of_view: float) -> SyntheticScene:
    """Create photos of a cube of points from inside, by a fisheye lens with a diagonal field of view."""
    focal = float(np.linalg.norm(SIZE) / np.radians(field_of_view))
    camera = Camera(focal, is_fisheye=True)
    return make_scene(6, 900, poses=ring(6, 40.0, radius=1.5), camera=camera, noise=0.3, wrong=0.0)


def putative(scene: SyntheticScene, first: int, second: int) -> np.ndarray:
    """Match all common points of two photos, a fifth of them wrongly."""
    table = np.full(len(scene.points), -1)
    table[scene.points_of_keypoints[second]] = np.arange(len(scene.keypoints[second].xy))
    partners = table[scene.points_of_keypoints[first]]
    indices = np.stack([np.arange(len(partners)), partners], axis=1)[partners >= 0]
    indices[::5, 1] = indices[::-5, 1][: len(indices[::5])]
    return indices


def verified(
    scene: SyntheticScene, keypoints: list[Keypoints]
) -> tuple[list[PairMatches], dict[tuple[int, int], np.ndarray]]:
    """Verify neighboring photos; return the pairs, and their putative matches."""
    matches = {(i, i + 1): putative(scene, i, i + 1) for i in range(5)}
    pairs = [verify_pair(*pair, indices, keypoints, SETTINGS) for pair, indices in matches.items()]
    return [pair for pair in pairs if pair is not None], matches


def sized(scene: SyntheticScene) -> list[Keypoints]:
    """Return keypoints that know the size of their image."""
    return [Keypoints(k.xy, k.descriptors, image_size=SIZE) for k in scene.keypoints]


@pytest.mark.parametrize("field_of_view", [120, 150])
def test_wide_angle_lens_is_recognized_and_gives_more_matches(field_of_view: float) -> None:
    scene = wide_scene(field_of_view)
    keypoints = sized(scene)
    straight, matches = verified(scene, keypoints)
    lenses = find_wide_angle_lenses(
        keypoints, straight, lambda first, second: matches[first, second], SETTINGS
    )
    half = np.radians(field_of_view) / 2
    assert lenses[SIZE] == pytest.approx(half / np.tan(half) - 1, abs=0.15)
    keypoints = with_lenses(keypoints, lenses)
    pairs, _ = verified(scene, keypoints)
    assert sum(len(pair.indices) for pair in pairs) > 1.1 * sum(len(pair.indices) for pair in straight)
    for pair in pairs:
        assert len(pair.indices) > 0.75 * len(matches[pair.first, pair.second])
        errors = epipolar_errors(pair, pair.indices, keypoints)
        assert errors.max() < SETTINGS.max_epipolar_error


def test_ordinary_lenses_are_not_taken_for_wide_angle_lenses() -> None:
    for camera in (Camera(500.0), Camera(500.0, distortion=(-0.1, 0.02, 0.0, 0.0, 0.0, 0.0))):
        scene = make_scene(6, 900, camera=camera, wrong=0.0)
        keypoints = sized(scene)
        pairs, matches = verified(scene, keypoints)
        lenses = find_wide_angle_lenses(
            keypoints, pairs, lambda first, second, of=matches: of[first, second], SETTINGS
        )
        assert not lenses
