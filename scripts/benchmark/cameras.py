"""Measure how reconstructed cameras depend on the order of the images, the RANSAC seed and initial cameras.

    python -m scripts.benchmark.cameras --scene SCENE [--scene SCENE ...]

Keypoints are extracted once for each scene. Then the images are matched and reconstructed with several RANSAC
seeds. From the same matches, they are also reconstructed in several random orders, from the true cameras, and
from perturbed true cameras. The perturbation rotates by 1 degree, moves by 2 % of the largest distance
between two cameras, and makes the focal length 10 % too short or too long. Each scene needs a
`ground_truth.json`. Prints minimum, median and maximum of each figure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import ImageFolder, find_images
from nope_splat.matching import Keypoints, extract_keypoints, match_keypoints
from nope_splat.matching.database import MatchDatabase
from nope_splat.scene.features import PairMatches
from nope_splat.sfm import Priors, Reconstruction, SfmOptions
from nope_splat.sfm.camera_assignment import assign_cameras
from nope_splat.sfm.initialization.known_cameras import KnownCameras
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.camera_file import require_one_camera

FIGURES = ("registered", "AUC@5", "focal error %", "ATE %", "seconds")
TURN, MOVE, FOCAL = 1.0, 0.02, 0.1
"""Perturbation of the true cameras: rotation in degrees, translation as a fraction of the largest distance
between two cameras, and error of the focal length as a fraction."""


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement of how cameras depend on order, seed and initial cameras."""

    scene: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder of images with a `ground_truth.json`; repeat the flag for several scenes."""
    orders: int = 20
    """Number of random orders in which the images are reconstructed."""
    seeds: int = 5
    """Number of RANSAC seeds with which the images are matched and reconstructed."""
    starts: int = 5
    """Number of random perturbations of the true cameras. Each is used twice, with a focal length that is too
    short and too long."""
    reconstruction: SfmOptions = SfmOptions()  # noqa: RUF009
    """Options of matching and reconstruction."""


def main(settings: Settings) -> None:
    """Measure every scene and print one table.

    Args:
        settings: Settings of the measurement.
    """
    print("| scene | varied | runs | " + " | ".join(FIGURES) + " |")
    print("| --- | --- | --- |" + " --- |" * len(FIGURES))
    for scene in settings.scene:
        folder = find_images(scene)
        require_one_camera(scene, assign_cameras(folder.images, settings.reconstruction.camera_per))
        start = time.perf_counter()
        keypoints = extract_keypoints(folder.images, settings.reconstruction.matching)
        extraction = time.perf_counter() - start
        by_seed, matches, matched = [], None, 0.0
        for seed in range(settings.seeds):
            matching = replace(settings.reconstruction.matching, seed=seed)
            chosen = replace(settings.reconstruction, matching=matching)
            start = time.perf_counter()
            pairs = match_keypoints(keypoints, matching)
            again = MatchDatabase(tuple(keypoints), tuple(pairs))
            seconds = extraction + time.perf_counter() - start
            if matches is None:
                matches, matched = again, seconds
            by_seed.append(_figures(scene, folder, again, chosen, seconds))
        _print_row(scene, "seed", by_seed)
        if matches is None:
            continue
        by_order = [
            _figures(scene, *_reordered(folder, matches, seed), settings.reconstruction)
            for seed in range(settings.orders)
        ]
        _print_row(scene, "order (seconds without keypoints and matching)", by_order)
        disturbed = [_start(scene, folder, seed, sign) for seed in range(settings.starts) for sign in (-1, 1)]
        for name, starts in (("start, true", [_start(scene, folder)]), ("start, disturbed", disturbed)):
            runs = [_figures(scene, folder, matches, settings.reconstruction, matched, s) for s in starts]
            _print_row(scene, name, runs)


def _figures(
    scene: Path,
    folder: ImageFolder,
    matches: MatchDatabase,
    options: SfmOptions,
    seconds: float = 0.0,
    known_cameras: KnownCameras | None = None,
) -> list[float]:
    """Reconstruct a scene from its matches, and compute the values of `FIGURES`.

    Args:
        scene: Folder of the scene, with `ground_truth.json`.
        folder: Images of the scene.
        matches: Keypoints and matches of the images.
        options: Options of the reconstruction.
        seconds: Seconds of the steps before reconstruction, which are added to the measured time.
        known_cameras: Initial cameras; None to reconstruct without initial cameras.
    """
    start = time.perf_counter()
    none_held_out = np.zeros(len(folder.images), bool)
    reconstructed = reconstruct_from_matches(folder, none_held_out, matches, options, Priors(known_cameras))
    seconds += time.perf_counter() - start
    truth = read_ground_truth(scene / "ground_truth.json")
    metrics = compare_poses(
        _poses(reconstructed), truth.T_world_camera, reconstructed.cameras[0].focal, truth.focal
    )
    return [metrics.num_registered, metrics.auc_5, metrics.focal_error, metrics.ate, seconds]


def _start(scene: Path, folder: ImageFolder, seed: int | None = None, sign: int = 0) -> KnownCameras:
    """Read the true cameras, and perturb them if a seed is given.

    Args:
        scene: Folder of the scene, with `ground_truth.json`.
        folder: Images of the scene.
        seed: Seed of the perturbation; None for the true cameras.
        sign: Sign of the relative focal length error: -1, 0 or 1.
    """
    none = np.zeros(len(folder.images), bool)
    truth = KnownCameras.read(scene / "ground_truth.json", folder.images, none, none.astype(np.int64))
    if seed is None:
        return truth
    poses = truth.T_world_camera.copy()
    draws = np.random.default_rng(seed).normal(size=(2, len(poses), 3))
    axes, moves = draws / np.linalg.norm(draws, axis=-1, keepdims=True)
    poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(np.radians(TURN) * axes).as_matrix()
    poses[:, :3, 3] += MOVE * pdist(poses[:, :3, 3]).max() * moves
    return replace(truth, T_world_camera=poses, focal=(1 + FOCAL * sign) * truth.focal)


def _poses(scene: Reconstruction) -> dict[str, NDArray[np.floating]]:
    return {
        Path(scene.image_names[image_id]).name: scene.T_world_camera[image_id]
        for image_id in np.flatnonzero(scene.registered)
    }


def _reordered(folder: ImageFolder, matches: MatchDatabase, seed: int) -> tuple[ImageFolder, MatchDatabase]:
    """Shuffle the images, and renumber their keypoints and matches accordingly."""
    order = np.random.default_rng(seed).permutation(len(folder.images))
    place = np.argsort(order)
    pairs = []
    for pair in matches.pairs:
        first, second = int(place[pair.first]), int(place[pair.second])
        if first > second:
            first, second = second, first
            indices, fundamental = np.ascontiguousarray(pair.indices[:, ::-1]), pair.fundamental.T
            pair = PairMatches(first, second, indices, fundamental, pair.homography_ratio)
        pairs.append(replace(pair, first=first, second=second))
    keypoints: list[Keypoints] = [matches.keypoints[image_id] for image_id in order]
    pairs.sort(key=lambda pair: (pair.first, pair.second))
    images = tuple(folder.images[image_id] for image_id in order)
    return replace(folder, images=images), MatchDatabase(tuple(keypoints), tuple(pairs))


def _print_row(scene: Path, varied: str, runs: list[list[float]]) -> None:
    if not runs:
        return
    cells = []
    for name, values in zip(FIGURES, np.array(runs).T, strict=True):
        digits = {"registered": 0, "ATE %": 4, "focal error %": 3}.get(name, 2)
        sign = "+" if name == "focal error %" else ""
        cells.append(" / ".join(f"{f(values):{sign}.{digits}f}" for f in (np.min, np.median, np.max)))
    print(f"| {scene.resolve().name} | {varied} | {len(runs)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Settings))
