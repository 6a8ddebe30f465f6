"""Errors of the poses are predicted from the noise of the observations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, make_scene, random_points, ring

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.sfm import SfmOptions
from nope_splat.sfm.component_reconstruction import reconstruct_component
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.sfm.problem import Priors
from nope_splat.sfm.reliability.camera_precision import CameraPrecision
from nope_splat.sfm.reliability.options import PosePrecisionOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.training_problem import training_problem


def refined(made: SyntheticScene, folder: Path) -> SfmState:
    """Reconstruct a scene without the later checks."""
    images, options = made.write_images(folder), SfmOptions()
    none = np.zeros(len(images.images), bool)
    problem = training_problem(images, none, made.matches, options, Priors())
    registered = reconstruct_component(problem, options)
    assert registered is not None
    return registered.state


def actual_error(made: SyntheticScene, state: SfmState) -> float:
    """Return the mean error of the relative poses, in degrees."""
    poses = dict(zip(made.names, np.linalg.inv(state.T_camera_world), strict=True))
    return 5 * (1 - compare_poses(poses, made.poses_by_name()).auc_5 / 100)


@pytest.mark.parametrize(("noise", "num_points"), [(0.1, 500), (1.0, 300), (2.0, 120)])
def test_predicted_errors_are_those_of_the_poses(noise: float, num_points: int, tmp_path: Path) -> None:
    made = make_scene(8, num_points, noise=noise, wrong=0.0)
    state = refined(made, tmp_path)
    predicted = CameraPrecision.of(state, "cpu").pose_error(PosePrecisionOptions())
    assert 0.4 < predicted / actual_error(made, state) < 2.5


def test_a_sample_of_the_images_is_enough(tmp_path: Path) -> None:
    precision = CameraPrecision.of(refined(make_scene(10, 300), tmp_path), "cpu")
    all_images, few = (
        precision.pose_error(PosePrecisionOptions(max_num_images=number)) for number in (10, 6)
    )
    assert few == pytest.approx(all_images, rel=0.5)


def test_directions_within_a_burst_do_not_count(tmp_path: Path) -> None:
    poses = ring(4).repeat(2, axis=0)
    poses[1::2, :3, 3] += 1e-4
    made = make_scene(poses=poses, num_points=400, wrong=0.0)
    precision = CameraPrecision.of(refined(made, tmp_path), "cpu")
    error, with_bursts = (
        precision.pose_error(PosePrecisionOptions(min_baseline_ratio=ratio)) for ratio in (0.02, 0)
    )
    assert error < 0.3
    assert with_bursts > 2 * error


@pytest.mark.parametrize(("noise", "is_told"), [(0.3, False), (2.5, True)])
def test_noisy_observations_get_a_notice(noise: float, is_told: bool, tmp_path: Path) -> None:
    made = make_scene(8, points=random_points(50), noise=noise, wrong=0.0)
    images = made.write_images(tmp_path)
    scene = reconstruct_from_matches(images, np.zeros(8, bool), made.matches, SfmOptions())
    assert ("uncertain-poses" in [notice.code for notice in scene.notices]) == is_told
