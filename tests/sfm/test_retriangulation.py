"""Tracks rebuilt from matches that the poses confirm: wrong matches no longer destroy right ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fixtures.synthetic import SyntheticScene, make_scene

from nope_splat.geometry.rigid import invert
from nope_splat.matching import PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.retriangulation import rebuild_tracks
from nope_splat.sfm.state import SfmState


def repeated(made: SyntheticScene) -> list[PairMatches]:
    """Pairs of distant images match the twin of each point instead: number 2 k with 2 k + 1."""
    pairs = []
    for pair in made.matches.pairs:
        if pair.second - pair.first >= 4:
            first, second = (made.points_of_keypoints[image_id] for image_id in (pair.first, pair.second))
            _, one, two = np.intersect1d(first, second ^ 1, return_indices=True)
            pair = replace(pair, indices=np.stack([one, two], axis=1))
        pairs.append(pair)
    return pairs


def purity(made: SyntheticScene, working: SfmState) -> float:
    """Share of the tracks that show one point only."""
    shown = np.array(
        [
            made.points_of_keypoints[image_id][keypoint]
            for image_id, keypoint in zip(working.image_ids, working.keypoint_ids, strict=True)
        ]
    )
    low, high = np.full(len(working.points), len(made.points)), np.full(len(working.points), -1)
    np.minimum.at(low, working.track_ids, shown)
    np.maximum.at(high, working.track_ids, shown)
    return float((low == high).mean())


def test_poses_tell_right_matches_from_wrong_ones() -> None:
    made = make_scene(8, 400, wrong=0.0)
    pairs = repeated(made)
    before = SfmState.start(build_tracks(made.keypoints, pairs), made.layout, np.array([made.camera.focal]))
    before.T_camera_world = invert(made.T_world_camera)
    before.registered[:] = True
    after = rebuild_tracks(before, SfmProblem(made.keypoints, made.layout, pairs))

    assert len(before.points) < 50  # nearly every track contradicts itself
    assert len(after.points) > 300
    assert purity(made, after) > 0.9
    np.testing.assert_array_equal(after.T_camera_world, before.T_camera_world)
    assert after.focal == before.focal
    assert after.has_point.mean() > 0.9
