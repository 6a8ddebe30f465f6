"""Test that bootstrap samples of tracks vary like tracks of other images of the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nope_splat.io.images import find_images
from nope_splat.sfm import reconstruct
from nope_splat.sfm.bundle_adjustment.problem import reprojection_residuals
from nope_splat.sfm.bundle_adjustment.solver import bundle_adjust
from scripts.analysis.camera_noise import as_problem, resampled


def test_whole_tracks_are_resampled_and_move_the_cameras_slightly(valley: Path) -> None:
    scene = reconstruct(find_images(valley))
    problem = as_problem(scene)
    residuals = reprojection_residuals(problem)[0].numpy()
    np.testing.assert_allclose(
        np.linalg.norm(residuals * scene.noise[:, None], axis=1), scene.reprojection_errors(), atol=1e-6
    )
    sample = resampled(problem, np.random.default_rng(0))
    assert len(sample.points) == len(problem.points)
    assert len(sample.points.unique(dim=0)) < 0.7 * len(problem.points)  # 1 - 1/e of all tracks
    residual_rows = {tuple(row) for row in residuals.round(6)}
    assert {tuple(row) for row in reprojection_residuals(sample)[0].numpy().round(6)} <= residual_rows

    moved = bundle_adjust(sample).problem
    change = (moved.intrinsics - problem.intrinsics).abs().max()
    assert 0 < change < 0.01
    torch.testing.assert_close(moved.T_camera_world, problem.T_camera_world, atol=0.02, rtol=0)
