"""Measure the noise of reconstructed cameras, and whether a training moved them by more than this noise.

    python -m scripts.analysis.camera_noise outputs/fountain-P11/.../config.yml --truth ground_truth.json

Resamples the tracks of the finished reconstruction with replacement (the bootstrap; Efron 1979), runs bundle
adjustment on each sample, and compares the resulting cameras with the ground truth. The standard deviation
over the samples estimates how much the cameras would vary with other images of the same scene, whose
keypoints have different noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.geometry.rigid import invert
from nope_splat.io.cameras import read_ground_truth
from nope_splat.plugin.load_run import open_run, optimized_scene
from nope_splat.sfm import Reconstruction
from nope_splat.sfm.bundle_adjustment.problem import NUM_INTRINSICS, BundleProblem
from nope_splat.sfm.bundle_adjustment.solver import bundle_adjust
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.camera_file import require_one_camera


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement of camera noise."""

    configs: tyro.conf.Positional[tuple[Path, ...]]
    """The `config.yml` of each training. All trainings must be of one scene, taken with a single camera."""
    truth: Path
    """A `ground_truth.json` file with the true cameras."""
    samples: int = 40
    """Number of bootstrap samples. More samples give a more precise standard deviation but take longer."""


def as_problem(scene: Reconstruction) -> BundleProblem:
    """Set up the last bundle adjustment of a reconstruction, with principal point and distortion fixed.

    Args:
        scene: Reconstruction with a single camera.

    Returns:
        The problem, with the registered images only.
    """
    images = np.unique(scene.observations.image_ids)
    number = np.zeros(len(scene.image_names), np.int64)
    number[images] = np.arange(len(images))
    xy = scene.observations.xy - scene.principal_points()[scene.observations.image_ids]
    camera = scene.cameras[0]
    intrinsics = torch.tensor([[np.log(camera.focal), 0, 0, *camera.distortion]], dtype=torch.float64)
    free_poses = torch.ones(len(images), dtype=torch.bool)
    free_poses[0] = False
    return BundleProblem(
        T_camera_world=torch.from_numpy(invert(scene.T_world_camera[images])),
        points=torch.from_numpy(scene.points),
        intrinsics=intrinsics,
        camera_ids=torch.zeros(len(images), dtype=torch.int64),
        upright_from_sensor=torch.eye(2, dtype=torch.float64).expand(len(images), 2, 2),
        image_ids=torch.from_numpy(number[scene.observations.image_ids]),
        point_ids=torch.from_numpy(scene.observations.point_ids),
        xy=torch.from_numpy(xy),
        sigma=torch.from_numpy(scene.noise),
        free_poses=free_poses,
        free_intrinsics=torch.arange(NUM_INTRINSICS)[None] == 0,
        prior_mean=intrinsics,
        prior_sigma=torch.ones(1, NUM_INTRINSICS, dtype=torch.float64),
        is_fisheye=torch.tensor([camera.is_fisheye]) if camera.is_fisheye else None,
    )


def resampled(problem: BundleProblem, rng: np.random.Generator) -> BundleProblem:
    """Resample the tracks of a problem with replacement; their number stays the same.

    Args:
        problem: Problem with all tracks.
        rng: Random number generator.

    Returns:
        The problem with the sampled tracks and their observations.
    """
    chosen = rng.integers(len(problem.points), size=len(problem.points))
    order = np.argsort(problem.point_ids.numpy(), kind="stable")
    length = np.bincount(problem.point_ids.numpy(), minlength=len(problem.points))
    first = length.cumsum() - length
    rows = np.concatenate([order[first[point] : first[point] + length[point]] for point in chosen])
    return replace(
        problem,
        points=problem.points[chosen],
        point_ids=torch.from_numpy(np.repeat(np.arange(len(chosen)), length[chosen])),
        image_ids=problem.image_ids[rows],
        xy=problem.xy[rows],
        sigma=problem.sigma[rows],
    )


def main(settings: Settings) -> None:
    """Measure all trainings and print a table for each of them.

    Args:
        settings: Settings of the measurement.
    """
    truth = read_ground_truth(settings.truth)

    def measure(names: list[str], T_world_camera: NDArray[np.floating], focal: float) -> list[float]:
        true = {name: truth.T_world_camera[name] for name in names}
        metrics: PoseMetrics = compare_poses(
            dict(zip(names, T_world_camera, strict=True)), true, focal, truth.focal
        )
        assert metrics.focal_error is not None
        return [metrics.auc_5, metrics.ate, metrics.focal_error]

    for path in settings.configs:
        pipeline = open_run(path).pipeline
        scene, trained = pipeline.datamanager.dataparser.scene, optimized_scene(pipeline)
        require_one_camera(path, scene.camera_ids)
        images = np.unique(scene.observations.image_ids)
        names = [scene.image_names[image] for image in images]
        problem, rng = as_problem(scene), np.random.default_rng(0)
        samples = []
        for _ in progress_bar(range(settings.samples), "Resampling tracks", settings.samples):
            sample = bundle_adjust(resampled(problem, rng)).problem
            poses = invert(sample.T_camera_world.numpy())
            samples.append(measure(names, poses, float(sample.intrinsics[0, 0].exp())))
        print(f"\n{path}\n\n| cameras | AUC@5 | ATE % | focal error % |\n| --- | --- | --- | --- |")
        for label, values in (
            ("of the reconstruction", measure(names, scene.T_world_camera[images], scene.cameras[0].focal)),
            ("of resampled tracks, mean", np.mean(samples, axis=0)),
            ("of resampled tracks, standard deviation", np.std(samples, axis=0, ddof=1)),
            ("after training", measure(names, trained.T_world_camera[images], trained.cameras[0].focal)),
        ):
            auc, ate, focal = values
            print(f"| {label} | {auc:.2f} | {ate:.4f} | {focal:+.3f} |", flush=True)


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Settings, description=__doc__))
