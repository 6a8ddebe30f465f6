"""Rolling shutter: cameras that move in readout are found, other cameras and other faults are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fixtures.synthetic import SyntheticScene, make_scene, ring

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert, move_poses, transform
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.reliability.options import RollingShutterOptions
from nope_splat.sfm.reliability.rolling_shutter import measure_rolling_shutter
from nope_splat.sfm.state import SfmState

SIZE = np.array([640, 480])


def measured(scene: SyntheticScene, focal: float = 700.0) -> float:
    """Adjust the true cameras to the keypoints of a scene, and measure the rolling shutter."""
    tracks = build_tracks(scene.keypoints, scene.matches.pairs)
    state = SfmState.from_tracks(tracks, scene.camera_groups, np.array([focal]))
    state.T_camera_world = invert(scene.T_world_camera)
    state.registered[:] = True
    for image_id, ids in enumerate(scene.points_of_keypoints):
        rows = np.flatnonzero(state.image_ids == image_id)
        state.points[state.track_ids[rows]] = scene.points[ids[state.keypoint_ids[rows]]]
    state.has_point[:] = state.inlier[:] = True
    state.bundle_adjust(BundleAdjustmentOptions(max_iterations=30))
    return measure_rolling_shutter(state, RollingShutterOptions(), "cpu")


def read_while_moving(scene: SyntheticScene, motion: float) -> SyntheticScene:
    """Displace keypoints as if each camera had moved during the readout of its rows.

    `motion` is the translation in world units and the rotation in radians from the first to the last row.
    """
    rng, keypoints = np.random.default_rng(1), []
    for features, ids, pose in zip(
        scene.keypoints, scene.points_of_keypoints, scene.T_world_camera, strict=True
    ):
        velocity = motion * rng.normal(size=6) * [0.5, 0.5, 0.5, 1, 1, 1]
        time = features.xy[:, 1] / SIZE[1] - 0.5
        poses = move_poses(np.tile(invert(pose), (len(ids), 1, 1)), time[:, None] * velocity)
        still = transform(np.tile(invert(pose), (len(ids), 1, 1)), scene.points[ids])
        moved = transform(poses, scene.points[ids])
        shift = scene.camera.project(moved, SIZE) - scene.camera.project(still, SIZE)
        keypoints.append(replace(features, xy=features.xy + shift))
    return replace(scene, keypoints=tuple(keypoints))


def test_motion_in_readout_explains_errors() -> None:
    scene = make_scene(8, 400, poses=ring(8, 120.0), noise=0.2, wrong=0.0)
    assert measured(read_while_moving(scene, 0.04)) > 1.2 * RollingShutterOptions.min_explained_fraction
    assert measured(scene) < 0.03


def test_a_wrong_lens_is_not_taken_for_a_rolling_shutter() -> None:
    camera = Camera(700.0, distortion=(-0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    scene = make_scene(8, 400, poses=ring(8, 120.0), noise=0.2, wrong=0.0, camera=camera)
    assert measured(scene) < RollingShutterOptions.min_explained_fraction
