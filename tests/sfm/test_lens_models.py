"""Choice of lens models: the simplest one that explains the observations, for each camera by itself."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import make_scene, ring

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.global_refinement import refine_globally
from nope_splat.sfm.lens_models import make_fisheye
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.registration.incremental import IncrementalRegistration
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import relative_poses

LENSES = {
    "pinhole": Camera(500.0),
    "radial": Camera(500.0, distortion=(-0.1, 0.03, 0.0, 0.0, 0.0, 0.0)),
    "opencv": Camera(500.0, distortion=(-0.1, 0.03, 0.0, 0.0, 4e-3, -3e-3)),
    "fisheye": Camera(400.0, distortion=(0.02, -0.01, 0.0, 0.0, 0.0, 0.0), is_fisheye=True),
}


def refined(camera: Camera) -> SfmState:
    """Register and refine photos of a camera without knowing its lens, starting from its focal length."""
    scene = make_scene(12, 1200, camera=camera, poses=ring(12, 150.0, radius=1.7), noise=0.2)
    centered = [keypoints.xy - np.array(scene.size) / 2 for keypoints in scene.keypoints]
    cameras = len(centered) * [Camera(camera.focal)]
    two_views = relative_poses(centered, scene.matches.pairs, cameras)
    tracks = build_tracks(scene.keypoints, [view.matches for view in two_views.values()])
    state = SfmState.from_tracks(tracks, scene.camera_groups, np.array([camera.focal]))
    IncrementalRegistration().register(state, two_views, MapperOptions())
    refine_globally(state, MapperOptions())
    return state


@pytest.mark.parametrize("name", LENSES)
def test_lens_model_is_found_without_being_told(name: str) -> None:
    truth = LENSES[name]
    state = refined(truth)
    assert state.registered.all()
    assert bool(state.is_fisheye[0]) == truth.is_fisheye
    has_tangential = bool(state.distortion[0, 4:].any())
    assert has_tangential == (name == "opencv")
    assert state.focal[0] == pytest.approx(truth.focal, rel=3e-3)
    grid = np.stack(np.meshgrid([-250, 0, 250], [-180, 0, 180]), -1).reshape(-1, 2).astype(float)
    size = np.zeros(2, np.int64)
    found = state.camera_of(0).unproject(grid, size)
    expected = truth.unproject(grid, size)
    found, expected = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (found, expected))
    rotation = np.linalg.svd(expected.T @ found)  # a small rotation of the camera is no error of the lens
    aligned = found @ (rotation[0] @ rotation[2]).T
    assert np.degrees(np.linalg.norm(aligned - expected, axis=1)).max() < 0.1


def test_similar_fisheye_lens_projects_to_the_same_pixels() -> None:
    scene = make_scene(3, 50, camera=LENSES["radial"])
    tracks = build_tracks(scene.keypoints, scene.matches.pairs)
    state = SfmState.from_tracks(tracks, scene.camera_groups, np.array([500.0]))
    state.distortion[0, :2] = LENSES["radial"].distortion[:2]
    points = (scene.points @ invert(scene.T_world_camera[0])[:3, :3].T) + [0, 0, 4.0]
    size = np.zeros(2, np.int64)
    before = state.camera_of(0).project(points, size)
    make_fisheye(state, 0)
    inside = np.linalg.norm(before, axis=1) < 400
    np.testing.assert_allclose(state.camera_of(0).project(points, size)[inside], before[inside], atol=0.5)
