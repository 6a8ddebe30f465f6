"""Cameras that differ only by a digital zoom share the principal point and the distortion of their lens."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, make_scene, ring

from nope_splat.geometry.camera import Camera
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.global_refinement import refine_globally
from nope_splat.sfm.mapper_options import GlobalRefinementOptions, MapperOptions
from nope_splat.sfm.registration.incremental import IncrementalRegistration
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import relative_poses

WIDE = Camera(600.0, (6.0, -4.0), (-0.06, 0.02, 0.0, 0.0, 0.0, 0.0))
ZOOMED = Camera(840.0, (8.4, -5.6), (-0.06, 0.02, 0.0, 0.0, 0.0, 0.0))
OTHER = Camera(840.0, (-9.0, 7.0), (0.1, 0.0, 0.0, 0.0, 0.0, 0.0))


def zoomed_scene(second: Camera, size: tuple[int, int] = (640, 480)) -> SyntheticScene:
    """Create a scene in which every second photo comes from another camera."""
    return make_scene(12, 1500, camera=WIDE, second=(second, size), poses=ring(12, 150.0))


def refined(scene: SyntheticScene, min_probability: float = 0.01) -> SfmState:
    """Register and refine the photos, starting from the true focal lengths."""
    groups, focals = scene.camera_groups, np.array([600.0, 840.0])
    centered = [keypoints.xy - groups.sizes[index] / 2 for index, keypoints in enumerate(scene.keypoints)]
    two_views = relative_poses(
        centered, scene.matches.pairs, [Camera(float(focals[camera])) for camera in groups.camera_ids]
    )
    tracks = build_tracks(scene.keypoints, [view.matches for view in two_views.values()])
    state = SfmState.from_tracks(tracks, groups, focals)
    coarse = MapperOptions(refine_principal_point=False, refine_extra_params=False)
    IncrementalRegistration().register(state, two_views, coarse)
    refinement = GlobalRefinementOptions(min_same_lens_probability=min_probability)
    refine_globally(state, MapperOptions(refinement=refinement))
    return state


def test_cameras_with_a_digital_zoom_share_a_lens() -> None:
    state = refined(zoomed_scene(ZOOMED))
    assert state.lens_ids.tolist() == [0, 0]
    np.testing.assert_allclose(state.offset[1] / state.focal[1], state.offset[0] / state.focal[0], atol=1e-7)
    np.testing.assert_allclose(state.distortion[1], state.distortion[0], atol=1e-6)
    np.testing.assert_allclose(state.focal, [600, 840], rtol=2e-3)
    np.testing.assert_allclose(state.offset[0], WIDE.offset, atol=1)


def test_a_second_refinement_finds_the_same_lenses() -> None:
    state = refined(zoomed_scene(ZOOMED))
    focal = state.focal.copy()
    refine_globally(state, MapperOptions())
    assert state.lens_ids.tolist() == [0, 0]
    np.testing.assert_allclose(state.focal, focal, rtol=1e-4)


@pytest.mark.parametrize(
    ("second", "size"), [(OTHER, (640, 480)), (ZOOMED, (800, 600))], ids=["another lens", "another size"]
)
def test_other_cameras_have_their_own_lens(second: Camera, size: tuple[int, int]) -> None:
    state = refined(zoomed_scene(second, size))
    assert state.lens_ids.tolist() == [0, 1]
    np.testing.assert_allclose(state.offset[1], second.offset, atol=1.5)
