"""Retriangulation recovers tracks that wrong matches had merged."""

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
    """Replace matches of distant images by wrong ones: point 2 k matches 2 k + 1."""
    pairs = []
    for pair in made.matches.pairs:
        if pair.second - pair.first >= 4:
            first, second = (made.points_of_keypoints[image_id] for image_id in (pair.first, pair.second))
            _, rows_first, rows_second = np.intersect1d(first, second ^ 1, return_indices=True)
            pair = replace(pair, indices=np.stack([rows_first, rows_second], axis=1))
        pairs.append(pair)
    return pairs


def purity(made: SyntheticScene, state: SfmState) -> float:
    """Compute the share of tracks that observe a single point."""
    shown = np.array(
        [
            made.points_of_keypoints[image_id][keypoint]
            for image_id, keypoint in zip(state.image_ids, state.keypoint_ids, strict=True)
        ]
    )
    low, high = np.full(len(state.points), len(made.points)), np.full(len(state.points), -1)
    np.minimum.at(low, state.track_ids, shown)
    np.maximum.at(high, state.track_ids, shown)
    return float((low == high).mean())


def test_known_poses_reject_wrong_matches() -> None:
    made = make_scene(8, 400, wrong=0.0)
    pairs = repeated(made)
    before = SfmState.from_tracks(
        build_tracks(made.keypoints, pairs), made.camera_groups, np.array([made.camera.focal])
    )
    before.T_camera_world = invert(made.T_world_camera)
    before.registered[:] = True
    after = rebuild_tracks(before, SfmProblem(made.keypoints, made.camera_groups, pairs))

    assert len(before.points) < 50  # nearly every track contradicts itself
    assert len(after.points) > 300
    assert purity(made, after) > 0.9
    np.testing.assert_array_equal(after.T_camera_world, before.T_camera_world)
    assert after.focal == before.focal
    assert after.has_point.mean() > 0.9
