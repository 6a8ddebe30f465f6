"""Doubt: wrong cameras get a notice of the cause and a low trust, right ones none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.synthetic import SyntheticScene, look_at, make_scene, random_points, ring
from scipy.spatial.transform import Rotation

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import rigid
from nope_splat.matching import Keypoints
from nope_splat.matching.database import MatchDatabase
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.stationary import StationaryPixels
from nope_splat.scene.trust import Notice, Trust
from nope_splat.sfm import SfmOptions
from nope_splat.sfm.component_reconstruction import reconstruct_component
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.sfm.problem import Priors, SfmProblem
from nope_splat.sfm.reliability.doubtful_images import assess_reliability
from nope_splat.sfm.reliability.evidence import collect_evidence
from nope_splat.sfm.reliability.missing_points import MissingPoints, find_missing_points
from nope_splat.sfm.reliability.notices import refuse_doubtful
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.training_problem import training_problem


def run(made: SyntheticScene, folder: Path, matches: MatchDatabase | None = None) -> Reconstruction:
    images = made.write_images(folder)
    no_image = np.zeros(len(images.images), bool)
    return reconstruct_from_matches(images, no_image, matches or made.matches, SfmOptions())


def codes(scene: Reconstruction) -> list[str]:
    return [notice.code for notice in scene.notices]


def trust(scene: Reconstruction) -> Trust:
    assert scene.trust is not None
    return scene.trust


def with_conflicting_pose(made: SyntheticScene) -> MatchDatabase:
    """Replace the matches of the first with the last image by those of other points from other poses."""
    first, last = 0, len(made.keypoints) - 1
    other = make_scene(poses=ring(2, arc=40, seed=5), num_points=200, wrong=0.0, seed=9)
    (pair,) = other.matches.pairs
    keypoints = list(made.matches.keypoints)
    starts = []
    for image_id, features in zip((first, last), other.keypoints, strict=True):
        starts.append(len(keypoints[image_id].xy))
        xy = np.concatenate([keypoints[image_id].xy, features.xy])
        keypoints[image_id] = replace(
            keypoints[image_id], xy=xy, descriptors=np.zeros((len(xy), 0), np.float32)
        )
    wrong = replace(pair, first=first, second=last, indices=pair.indices + np.array(starts))
    pairs = [pair for pair in made.matches.pairs if (pair.first, pair.second) != (first, last)]
    return MatchDatabase(tuple(keypoints), (*pairs, wrong))


def test_right_cameras_are_trusted(tmp_path: Path) -> None:
    scene = run(make_scene(), tmp_path)
    assert codes(scene) == []
    assert trust(scene).score > 0.8
    assert np.nanmin(trust(scene).images) > 0.9
    assert len(trust(scene).pairs) == len(scene.graph.edges)
    refuse_doubtful(scene)


def test_a_pair_with_a_conflicting_relative_pose_is_reported(tmp_path: Path) -> None:
    made = make_scene(poses=ring(8, arc=140))
    scene = run(made, tmp_path, with_conflicting_pose(made))
    assert codes(scene) == ["duplicate-structure"]
    assert trust(scene).score < trust(run(made, tmp_path)).score
    edges = scene.graph.edges.tolist()
    assert trust(scene).pairs[edges.index([0, 7])] < 0.3
    with refused("doubtful-cameras"):
        refuse_doubtful(scene)


def registered_state(made: SyntheticScene, folder: Path) -> tuple[SfmState, SfmProblem]:
    """Reconstruct a scene up to its refined state."""
    no_image = np.zeros(len(made.keypoints), bool)
    images = made.write_images(folder)
    problem = training_problem(images, no_image, made.matches, SfmOptions(), Priors())
    result = reconstruct_component(problem, SfmOptions())
    assert result is not None
    return result.state, problem


@pytest.mark.parametrize("keep_doubtful", [False, True])
def test_an_image_whose_matches_contradict_its_pose_is_left_out(keep_doubtful: bool, tmp_path: Path) -> None:
    state, problem = registered_state(make_scene(), tmp_path)
    turn = rigid(Rotation.from_euler("z", 30, degrees=True).as_matrix(), np.zeros(3))
    state.T_camera_world[3] = turn @ state.T_camera_world[3]
    evidence, failures = assess_reliability(state, problem, 1.5, keep_doubtful)
    assert list(failures) == ([] if keep_doubtful else [3])
    assert np.flatnonzero(~state.registered).tolist() == list(failures)
    assert evidence.contradicts.any() == keep_doubtful


def test_photos_that_do_not_fit_one_camera_are_named(tmp_path: Path) -> None:
    """Every other photo shows the left or the right three quarters of a wider one."""
    made = make_scene()
    cropped = range(0, len(made.keypoints), 2)
    keypoints = tuple(
        replace(features, xy=features.xy + np.array([80.0, 0.0])) if image_id in cropped else features
        for image_id, features in enumerate(made.keypoints)
    )
    scene = run(made, tmp_path, replace(made.matches, keypoints=keypoints))
    assert "mixed-cameras" in codes(scene)
    assert trust(scene).doubts.mixed_cameras > 0.5
    assert trust(run(made, tmp_path)).doubts.mixed_cameras < 0.15


def test_points_are_not_missing_in_a_dark_image(tmp_path: Path) -> None:
    """One image is dark: on one side it has no keypoints, on the other side few."""
    state, problem = registered_state(make_scene(), tmp_path)
    dark = problem.centered_keypoints[3][:, 0] < 0
    rows = np.flatnonzero(state.image_ids == 3)
    state.inlier[rows[state.xy[rows, 0] < 0]] = False
    state.inlier[rows[np.arange(len(rows)) % 5 > 0]] = False

    def missing_pair_fraction(keypoints: Sequence[Keypoints]) -> float:
        missing = find_missing_points(state, replace(problem, keypoints=keypoints))
        inside = missing.image_ids[:, 1] == 3
        return missing.num_missing[inside].sum() / missing.num_expected[inside].sum()

    something_else = missing_pair_fraction(problem.keypoints)
    keypoints = list(problem.keypoints)
    keypoints[3] = replace(keypoints[3], xy=keypoints[3].xy + 1e4 * dark[:, None])
    assert missing_pair_fraction(keypoints) < 0.6 * something_else


def test_missing_points_count_only_in_pairs_with_enough_expected_ones(tmp_path: Path) -> None:
    evidence = collect_evidence(*registered_state(make_scene(), tmp_path), 1.5)
    few = evidence.options.reliability.evidence.min_num_expected - 1
    missing = MissingPoints(
        image_ids=np.array([[0, 1], [1, 0], [0, 2], [2, 0]]),
        num_expected=np.array([100, 100, few, few]),
        num_observed=np.array([90, 90, 0, 0]),
        num_missing=np.array([0, 0, few, few]),
    )
    assert replace(evidence, missing=missing).missing_pair_fraction == 0
    missing = replace(missing, num_expected=missing.num_expected + 1)
    assert replace(evidence, missing=missing).missing_pair_fraction == 0.5


def test_such_a_pair_does_not_count_if_a_pattern_repeats(tmp_path: Path) -> None:
    """Images from opposite sides then match by mistake, without harm."""
    made = make_scene(poses=ring(8, arc=140))
    matches = replace(with_conflicting_pose(made), repetition=np.full(8, 0.5))
    assert codes(run(made, tmp_path, matches)) == []


def test_second_motions_are_reported(tmp_path: Path) -> None:
    made = make_scene()
    pairs = tuple(replace(pair, num_second_motion=40) for pair in made.matches.pairs)
    assert codes(run(made, tmp_path, replace(made.matches, pairs=pairs))) == ["moving-objects"]


def test_few_different_views_are_reported(tmp_path: Path) -> None:
    made = make_scene(poses=np.tile(ring(3, arc=60), (4, 1, 1)))
    assert "duplicate-structure" in codes(run(made, tmp_path))


def test_an_implausible_focal_length_is_reported(tmp_path: Path) -> None:
    poses = np.stack([look_at(np.array([5.0 * i - 10, -70.0, 1.5 * i]), np.zeros(3)) for i in range(5)])
    made = make_scene(poses=poses, camera=Camera(10500.0))
    assert codes(run(made, tmp_path))


def test_weak_support_is_reported(tmp_path: Path) -> None:
    made = make_scene(
        num_images=9, points=random_points(500), sees=lambda image, ids: np.full(len(ids), image < 4)
    )
    assert codes(run(made, tmp_path))[0] == "weak-support"


def test_doubt_survives_storage(tmp_path: Path) -> None:
    scene = run(make_scene(), tmp_path)
    cells = np.zeros((36, 48), bool)
    cells[30:, 40:] = True
    scene = replace(
        scene,
        notices=(Notice("weak-support", "few"), Notice("moving-objects", "something moves")),
        stationary=(StationaryPixels((640, 480), cells, 12),),
    )
    scene.save(tmp_path / "scene.npz")
    loaded = Reconstruction.load(tmp_path / "scene.npz")
    assert loaded.notices == scene.notices
    assert loaded.notice == "few; something moves"
    assert trust(loaded).score == trust(scene).score
    assert trust(loaded).doubts == trust(scene).doubts
    np.testing.assert_array_equal(trust(loaded).pairs, trust(scene).pairs)
    np.testing.assert_array_equal(loaded.stationary_cells(0), cells)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_focal_length_makes_observations_noisier(factor: float, tmp_path: Path) -> None:
    """A scene with depth determines the focal length: from a wrong start it comes back."""
    made = make_scene()
    images = made.write_images(tmp_path)
    options = SfmOptions(initial_focal=factor * 700)
    scene = reconstruct_from_matches(images, np.zeros(8, bool), made.matches, options)
    assert scene.cameras[0].focal == pytest.approx(700, rel=0.01)
    assert codes(scene) == []
