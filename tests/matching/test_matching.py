"""Descriptor matching and geometric verification, on synthetic and on real images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import poselib
import pytest
import torch
from fixtures.real_images import real_scene
from fixtures.synthetic import unit
from numpy.typing import NDArray

from nope_splat.io.images import find_images
from nope_splat.matching import (
    Keypoints,
    MatchingSettings,
    PairMatches,
    choose_pairs,
    extract_keypoints,
    match_pairs,
)
from nope_splat.matching.descriptors import Descriptors, match_descriptors
from nope_splat.matching.verification import num_trials, verify_pair

SETTINGS = MatchingSettings()
OPTIONS = SETTINGS.two_view_geometry
FOCAL, WIDTH, HEIGHT = 700.0, 800, 600


# --- Descriptors ---


def prepared(descriptors: NDArray[np.float32], device: str = "cpu") -> Descriptors:
    return Descriptors.prepare(torch.from_numpy(descriptors).to(device))


@pytest.mark.parametrize("int8", [True, False])
def test_descriptors_match_like_brute_force(int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nope_splat.matching.descriptors._has_int8_products", lambda: int8)
    generator = np.random.default_rng(0)
    first = unit(generator.random((2500, 64)))
    noise = 0.05 * generator.standard_normal((1200, 64))
    second = unit(np.abs(first[generator.permutation(2500)[:1200]] + noise))
    matches = match_descriptors(prepared(first), prepared(second), 0.8).numpy()

    distances = np.sqrt(np.maximum(2 - 2 * first.astype(np.float64) @ second.T.astype(np.float64), 0))
    nearest = distances.argmin(axis=1)
    ordered = np.sort(distances, axis=1)
    kept = (ordered[:, 0] < 0.8 * ordered[:, 1]) & (distances.argmin(axis=0)[nearest] == np.arange(2500))
    expected = np.stack([np.flatnonzero(kept), nearest[kept]], axis=1)
    assert len(expected) > 100
    np.testing.assert_array_equal(matches, expected)


def test_equal_descriptors_are_matched_once() -> None:
    descriptors = unit(np.random.default_rng(0).random((50, 64)))
    twice = prepared(np.concatenate([descriptors, descriptors]))
    matches = match_descriptors(twice, prepared(descriptors), 0.8).numpy()
    np.testing.assert_array_equal(matches, np.stack([np.arange(50)] * 2, axis=1))
    assert len(match_descriptors(prepared(descriptors), twice, 0.8)) == 0, "ambiguous"


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (5, 1), (0, 0)])
def test_too_few_descriptors_give_no_matches(counts: tuple[int, int]) -> None:
    first, second = (prepared(np.full((count, 4), 0.5, np.float32)) for count in counts)
    assert match_descriptors(first, second, 0.8).shape == (0, 2)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_matches() -> None:
    generator = np.random.default_rng(0)
    first = unit(generator.random((3000, 128)))
    second = unit(np.abs(first[::-1] + 0.02 * generator.standard_normal((3000, 128))))
    expected = match_descriptors(prepared(first), prepared(second), 0.8)
    assert len(expected) > 2000
    assert torch.equal(
        match_descriptors(prepared(first, "cuda"), prepared(second, "cuda"), 0.8).cpu(), expected
    )


# --- Verified matches on synthetic keypoints ---


def camera(
    angle: float, center: tuple[float, float, float]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Create a world-to-camera rotation about y, and the camera center."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]), np.array(center)


def scene(
    cameras: list[tuple[NDArray[np.floating], NDArray[np.floating]]],
    points: NDArray[np.floating],
    seed: int = 0,
    appearance_noise: float = 0.02,
) -> tuple[list[Keypoints], list[NDArray[np.int64]]]:
    """Create noisy keypoints of points, shuffled in each image, and the point index of each keypoint."""
    generator = np.random.default_rng(seed)
    appearance = generator.random((len(points), 64)) ** 4
    keypoints, point_ids = [], []
    for rotation, center in cameras:
        in_camera = (points - center) @ rotation.T
        xy = FOCAL * in_camera[:, :2] / in_camera[:, 2:] + (WIDTH / 2, HEIGHT / 2)
        order = generator.permutation(np.flatnonzero((xy > 0).all(1) & (xy < (WIDTH, HEIGHT)).all(1)))
        noise = 0.3 * generator.standard_normal((len(order), 2))
        descriptors = unit(appearance[order] + appearance_noise * generator.standard_normal((len(order), 64)))
        keypoints.append(Keypoints(xy[order] + noise, descriptors))
        point_ids.append(order)
    return keypoints, point_ids


def cloud(count: int = 600, seed: int = 1) -> NDArray[np.floating]:
    return np.random.default_rng(seed).uniform((-3, -2, 4), (3, 2, 8), (count, 3))


CAMERAS = [camera(0, (0, 0, 0)), camera(0.1, (0.6, 0.1, 0)), camera(-0.15, (-0.5, 0, 0.4))]


def sampson_errors(pair: PairMatches, keypoints: list[Keypoints]) -> NDArray[np.floating]:
    """Compute the Sampson errors of a pair's matches, in full-resolution pixels."""
    ones = np.ones((len(pair.indices), 1))
    x = np.concatenate([keypoints[pair.first].xy[pair.indices[:, 0]], ones], axis=1)
    y = np.concatenate([keypoints[pair.second].xy[pair.indices[:, 1]], ones], axis=1)
    right, left = x @ pair.fundamental.T, y @ pair.fundamental
    return np.abs((y * right).sum(1)) / np.sqrt((right[:, :2] ** 2).sum(1) + (left[:, :2] ** 2).sum(1))


def test_verified_matches_show_the_same_points_and_fit_the_fundamental_matrix() -> None:
    keypoints, point_ids = scene(CAMERAS, cloud())
    # A third of the keypoints become outliers: right descriptors at wrong positions.
    xy = keypoints[1].xy.copy()
    xy[::3] = np.random.default_rng(3).uniform((0, 0), (WIDTH, HEIGHT), xy[::3].shape)
    keypoints[1] = replace(keypoints[1], xy=xy)
    pairs = match_pairs(keypoints, choose_pairs(keypoints, SETTINGS), SETTINGS)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        first, second = point_ids[pair.first][pair.indices[:, 0]], point_ids[pair.second][pair.indices[:, 1]]
        assert (first == second).mean() > 0.99
        common = len(np.intersect1d(point_ids[pair.first], point_ids[pair.second]))
        assert len(pair.indices) > 0.9 * common * (2 / 3 if 1 in (pair.first, pair.second) else 1)
        errors = sampson_errors(pair, keypoints)
        assert errors.max() < SETTINGS.max_epipolar_error
        assert np.median(errors) < 0.4


@pytest.mark.parametrize("inlier_ratio", [0.3, 0.4, 0.6, 0.75, 0.9])
def test_the_number_of_trials_reaches_the_confidence(inlier_ratio: float) -> None:
    trials = num_trials(inlier_ratio, OPTIONS)
    assert OPTIONS.min_num_trials <= trials <= OPTIONS.max_num_trials
    if trials < OPTIONS.max_num_trials:
        assert (1 - inlier_ratio**7) ** trials <= 1 - OPTIONS.confidence
    assert num_trials(inlier_ratio + 0.1, OPTIONS) <= trials, "more inliers take no more trials"


def test_pairs_with_few_matches_take_few_trials() -> None:
    assert num_trials(15 / 20, OPTIONS) < OPTIONS.max_num_trials / 20
    assert num_trials(15 / 100, OPTIONS) == OPTIONS.max_num_trials
    assert num_trials(1.0, OPTIONS) == OPTIONS.min_num_trials


def test_pure_rotation_and_planes_have_a_high_homography_ratio() -> None:
    points = cloud()
    wall = points * (1, 1, 0) + (0, 0, 6)
    (general,) = match_pairs(scene(CAMERAS[:2], points)[0], [(0, 1)], SETTINGS)
    (plane,) = match_pairs(scene(CAMERAS[:2], wall)[0], [(0, 1)], SETTINGS)
    rotating = [camera(0, (0, 0, 0)), camera(0.15, (0, 0, 0))]
    (rotation,) = match_pairs(scene(rotating, points)[0], [(0, 1)], SETTINGS)
    assert general.homography_ratio < 0.5
    assert plane.homography_ratio > 0.95
    assert rotation.homography_ratio > 0.95


@pytest.mark.parametrize("outliers", [0.1, 0.5])
def test_ransac_on_a_subset_is_as_good_as_ransac_on_all_matches(outliers: float) -> None:
    """It has as many true inliers, with errors as small, as a thousand trials on all matches."""
    points = cloud(1500)
    (rotation, center), generator = CAMERAS[1], np.random.default_rng(7)
    first = FOCAL * points[:, :2] / points[:, 2:]
    in_camera = (points - center) @ rotation.T
    second = FOCAL * in_camera[:, :2] / in_camera[:, 2:]
    wrong = generator.random(len(points)) < outliers
    second[wrong] = generator.permutation(second[wrong])
    keypoints = [
        Keypoints(xy + 0.5 * generator.standard_normal(xy.shape), np.zeros((len(xy), 0), np.float32))
        for xy in (first, second)
    ]
    indices = np.repeat(np.arange(len(points))[:, None], 2, axis=1)
    assert len(points) > 10 * OPTIONS.subset_size
    pair = verify_pair(0, 1, indices, keypoints, SETTINGS)
    assert pair is not None
    exhaustive = {"max_epipolar_error": SETTINGS.max_epipolar_error, "min_iterations": 1000}
    fundamental, info = poselib.estimate_fundamental(keypoints[0].xy, keypoints[1].xy, exhaustive, {})
    best = replace(pair, indices=indices[info["inliers"]], fundamental=fundamental)
    assert np.sum(~wrong[pair.indices[:, 0]]) > 0.995 * np.sum(~wrong[best.indices[:, 0]])
    assert np.sum(wrong[pair.indices[:, 0]]) < 0.02 * len(pair.indices)
    errors, best_errors = sampson_errors(pair, keypoints), sampson_errors(best, keypoints)
    assert errors.max() < 1.2 * SETTINGS.max_epipolar_error
    assert np.median(errors) < 1.05 * np.median(best_errors)


def test_the_homography_ratio_is_the_fraction_of_matches_on_a_plane() -> None:
    points = np.concatenate([cloud(1000) * (1, 1, 0) + (0, 0, 6), cloud(500, seed=2) * (1, 1, 1.3)])
    (pair,) = match_pairs(scene(CAMERAS[:2], points)[0], [(0, 1)], SETTINGS)
    assert len(pair.indices) > 5 * OPTIONS.subset_size
    assert pair.homography_ratio == pytest.approx(2 / 3, abs=0.06)


def test_images_of_different_scenes_have_no_matches() -> None:
    keypoints = [scene(CAMERAS[:1], cloud(seed=seed), seed)[0][0] for seed in (1, 2)]
    assert match_pairs(keypoints, [(0, 1)], SETTINGS) == []


def test_matches_refer_to_the_first_keypoint_at_a_position() -> None:
    keypoints, _ = scene(CAMERAS[:2], cloud())
    count = len(keypoints[0].xy)
    # Half of the positions of the first image have a second orientation, which is the one that matches.
    doubled = Keypoints(
        np.concatenate([keypoints[0].xy, keypoints[0].xy[: count // 2]]),
        np.concatenate(
            [
                unit(np.random.default_rng(5).random((count // 2, 64)) ** 4),
                keypoints[0].descriptors[count // 2 :],
                keypoints[0].descriptors[: count // 2],
            ]
        ),
    )
    (plain,) = match_pairs(keypoints, [(0, 1)], SETTINGS)
    (merged,) = match_pairs([doubled, keypoints[1]], [(0, 1)], SETTINGS)
    assert merged.indices[:, 0].max() < count
    same = {tuple(row) for row in plain.indices} & {tuple(row) for row in merged.indices}
    assert len(same) > 0.95 * len(plain.indices)


def test_epipolar_errors_are_measured_at_the_feature_size() -> None:
    keypoints, _ = scene(CAMERAS[:2], cloud())
    (plain,) = match_pairs(keypoints, [(0, 1)], SETTINGS)
    larger = [replace(features, xy=features.xy * 5, pixel_size=5.0) for features in keypoints]
    (scaled,) = match_pairs(larger, [(0, 1)], SETTINGS)
    np.testing.assert_array_equal(scaled.indices, plain.indices)
    np.testing.assert_allclose(
        sampson_errors(scaled, larger), 5 * sampson_errors(plain, keypoints), rtol=1e-3
    )


def as_sets(
    pairs: list[PairMatches], names: NDArray[np.int64]
) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Convert pairs to sets of matches by image names, independent of the order of the images."""
    sets = {}
    for pair in pairs:
        first, second = int(names[pair.first]), int(names[pair.second])
        indices = pair.indices if first < second else pair.indices[:, ::-1]
        sets[min(first, second), max(first, second)] = {tuple(row) for row in indices.tolist()}
    return sets


def test_the_order_of_the_images_does_not_matter() -> None:
    cameras = [*CAMERAS, camera(0.2, (1.0, 0, 0.2))]
    keypoints, _ = scene(cameras, cloud(), appearance_noise=0.15)  # many matches nearly fail the ratio test
    all_pairs = choose_pairs(keypoints, SETTINGS)
    expected = as_sets(match_pairs(keypoints, all_pairs, SETTINGS), np.arange(4))
    assert len(expected) == 6
    order = np.array([2, 0, 3, 1])
    reordered = [keypoints[index] for index in order]
    assert as_sets(match_pairs(reordered, all_pairs, SETTINGS), order) == expected


def test_a_subset_of_pairs_has_the_same_matches() -> None:
    keypoints, _ = scene(CAMERAS, cloud())
    all_pairs = match_pairs(keypoints, choose_pairs(keypoints, SETTINGS), SETTINGS)
    subset = match_pairs(keypoints, [(0, 2), (1, 2)], SETTINGS)
    assert as_sets(subset, np.arange(3)).items() <= as_sets(all_pairs, np.arange(3)).items()


# --- Real images ---


def test_real_matches_agree_with_the_ground_truth_cameras() -> None:
    folder = real_scene("Herz-Jesus-P8")
    images = find_images(folder).images
    keypoints = extract_keypoints(images, SETTINGS)
    assert min(len(features.xy) for features in keypoints) > 1000
    pairs = match_pairs(keypoints, choose_pairs(keypoints, SETTINGS), SETTINGS)
    assert len(pairs) == 28

    truth = json.loads((folder / "ground_truth.json").read_text())
    poses = {
        Path(frame["file_path"]).name: np.array(frame["camera_to_world_opencv"]) for frame in truth["frames"]
    }
    K = np.array([[truth["fl_x"], 0, truth["cx"]], [0, truth["fl_y"], truth["cy"]], [0, 0, 1]])
    errors = []
    for pair in pairs:
        T_first, T_second = (poses[images[index].name] for index in (pair.first, pair.second))
        T = np.linalg.inv(T_second) @ T_first
        x, y, z = T[:3, 3]
        essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T[:3, :3]
        true = replace(pair, fundamental=np.linalg.inv(K).T @ essential @ np.linalg.inv(K))
        errors.append(sampson_errors(true, keypoints))
    strong = np.concatenate([error for error in errors if len(error) >= 100])
    assert np.median(strong) < 0.5
    assert (strong < SETTINGS.max_epipolar_error).mean() > 0.95
    again = match_pairs(extract_keypoints(images[:2], SETTINGS), [(0, 1)], SETTINGS)[0]
    np.testing.assert_array_equal(again.indices, pairs[0].indices)
    np.testing.assert_array_equal(again.fundamental, pairs[0].fundamental)
