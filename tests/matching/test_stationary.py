"""What stands still in front of a moving scene is left out of the matches; a camera at rest is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fixtures.synthetic import SyntheticScene, make_scene, ring
from numpy.typing import NDArray

from nope_splat.matching import Keypoints, MatchingSettings, PairMatches
from nope_splat.matching.database import MatchDatabase
from nope_splat.matching.stationary import (
    find_stationary_pixels,
    remove_stationary_matches,
    verify_without_stationary,
)

SIZE = (640, 480)
LOGO = np.array([[448.0, 360.0], [640.0, 480.0]])
"""Upper left and lower right corner."""
NUM_LOGO = 300
"""Keypoints on the logo, more than on the scene."""


def with_logo(scene: SyntheticScene) -> tuple[list[Keypoints], dict[tuple[int, int], NDArray[np.int64]]]:
    """Put a logo over all images; return keypoints and putative matches by pair."""
    rng = np.random.default_rng(0)
    logo = rng.uniform(LOGO[0] + 2, LOGO[1] - 2, (NUM_LOGO, 2))
    keypoints, kept = [], []
    for features in scene.keypoints:
        shown = ~((features.xy > LOGO[0]) & (features.xy < LOGO[1])).all(1)
        xy = np.concatenate([logo + rng.normal(0, 0.2, logo.shape), features.xy[shown]])
        keypoints.append(Keypoints(xy, np.zeros((len(xy), 0), np.float32), image_size=SIZE))
        new_index = np.full(len(features.xy), -1)
        new_index[shown] = NUM_LOGO + np.arange(shown.sum())
        kept.append(new_index)
    putative = {}
    for pair in scene.matches.pairs:
        first, second = (
            kept[i][index] for i, index in zip((pair.first, pair.second), pair.indices.T, strict=True)
        )
        both = (first >= 0) & (second >= 0)
        same = np.arange(NUM_LOGO)
        putative[pair.first, pair.second] = np.concatenate(
            [np.stack([same, same], 1), np.stack([first[both], second[both]], 1)]
        )
    return keypoints, putative


def verify_all(
    keypoints: list[Keypoints], putative: dict[tuple[int, int], NDArray[np.int64]]
) -> list[PairMatches]:
    settings = MatchingSettings()
    verified = (
        verify_without_stationary(*pair, indices, keypoints, settings) for pair, indices in putative.items()
    )
    return [pair for pair in verified if pair is not None]


def test_a_logo_is_left_out_and_found() -> None:
    keypoints, putative = with_logo(make_scene(num_images=5))
    pairs = verify_all(keypoints, putative)
    assert len(pairs) == len(putative)
    for pair in pairs:
        assert np.mean(pair.indices[:, 0] < NUM_LOGO) < 0.02
        assert len(pair.stationary) > 0.5 * NUM_LOGO  # the others agree with the epipolar geometry by chance
    (pixels,) = find_stationary_pixels(keypoints, pairs, MatchingSettings())
    rows, columns = pixels.cells.shape
    expected = np.zeros((rows, columns), bool)
    expected[round(rows * 0.75) :, round(columns * 0.7) :] = True
    assert np.mean(pixels.cells == expected) > 0.97
    assert "lower right" in pixels.region
    assert pixels.contains(np.array([[600.0, 450.0], [100.0, 100.0]])).tolist() == [True, False]


def test_pairs_that_only_match_on_the_logo_are_dropped() -> None:
    keypoints, putative = with_logo(make_scene(num_images=5))
    pairs = verify_all(keypoints, putative)
    stationary = find_stationary_pixels(keypoints, pairs, MatchingSettings())
    logo = np.arange(NUM_LOGO)
    only_logo = verify_all(keypoints, {(0, 4): np.stack([logo, logo], axis=1)})
    assert len(only_logo) == 1, "with nothing else, it looks like a scene at rest"
    remaining = remove_stationary_matches(keypoints, [*pairs, *only_logo], stationary, MatchingSettings())
    assert [(pair.first, pair.second) for pair in remaining] == [(pair.first, pair.second) for pair in pairs]


def test_held_out_images_do_not_make_a_pixel_stationary(tmp_path: Path) -> None:
    scene = make_scene(num_images=5)
    keypoints, putative = with_logo(scene)
    matches = MatchDatabase(tuple(keypoints), tuple(verify_all(keypoints, putative)))
    folder, settings = scene.write_images(tmp_path), MatchingSettings()
    training = matches.without_stationary(folder, np.zeros(5, bool), settings)
    assert len(training.stationary) == 1
    only_two = matches.without_stationary(folder, np.arange(5) >= 2, settings)
    assert only_two.stationary == ()
    assert only_two.pairs == matches.pairs


def test_a_second_motion_is_kept_when_a_pair_is_verified_again() -> None:
    keypoints, putative = with_logo(make_scene(num_images=5))
    pairs = [replace(pair, num_second_motion=40) for pair in verify_all(keypoints, putative)]
    stationary = find_stationary_pixels(keypoints, pairs, MatchingSettings())
    remaining = remove_stationary_matches(keypoints, pairs, stationary, MatchingSettings())
    assert any(
        len(after.indices) < len(before.indices) for before, after in zip(pairs, remaining, strict=True)
    )
    assert all(pair.num_second_motion == 40 for pair in remaining)


def test_a_burst_is_not_mistaken_for_a_logo() -> None:
    scene = make_scene(poses=np.repeat(ring(1), 4, axis=0))
    keypoints = [replace(features, image_size=SIZE) for features in scene.keypoints]
    pairs = verify_all(keypoints, {(pair.first, pair.second): pair.indices for pair in scene.matches.pairs})
    assert len(pairs) == 6
    assert all(len(pair.stationary) == 0 for pair in pairs)
    assert find_stationary_pixels(keypoints, pairs, MatchingSettings()) == ()


def test_images_of_different_sizes_have_no_common_pixels() -> None:
    keypoints, putative = with_logo(make_scene(num_images=2))
    keypoints[1] = replace(keypoints[1], image_size=(640, 481))
    (pair,) = verify_all(keypoints, putative)
    assert len(pair.stationary) == 0
