"""How much the cameras depend on chance: the order of the photographs, and the seed of RANSAC.

    python scripts/benchmark_cameras.py --scene SCENE [--scene SCENE ...]

Keypoints are found once for each scene. Then photographs are matched and reconstructed with several seeds,
and reconstructed from the same matches in several random orders. Each scene needs a `ground_truth.json`.
Prints least, median and largest value of each figure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from camera_file import require_one_camera
from numpy.typing import NDArray

from nope_splat.evaluation.pose_metrics import compare_poses, read_ground_truth
from nope_splat.images import PhotoFolder, cameras_of_photos, find_photos
from nope_splat.matching import Keypoints, choose_pairs, extract_keypoints, match_pairs
from nope_splat.matching.types import PairMatches
from nope_splat.reconstruction import ReconstructionSettings, SparseScene
from nope_splat.reconstruction.matches import FolderMatches
from nope_splat.reconstruction.reconstruct import reconstruct_from_matches

FIGURES = ("registered", "AUC@5", "focal error %", "ATE %", "seconds")


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    scene: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder of photographs with `ground_truth.json`; repeat the flag for several scenes."""
    orders: int = 20
    """Random orders of the photographs."""
    seeds: int = 5
    """Seeds of RANSAC."""
    reconstruction: tyro.conf.OmitArgPrefixes[ReconstructionSettings] = ReconstructionSettings()  # noqa: RUF009
    """How photographs are matched and reconstructed."""


def main(settings: Settings) -> None:
    """Measure every scene and print the table.

    Args:
        settings: What to measure.
    """
    print("| scene | varied | runs | " + " | ".join(FIGURES) + " |")
    print("| --- | --- | --- |" + " --- |" * len(FIGURES))
    for scene in settings.scene:
        folder = find_photos(scene)
        require_one_camera(scene, cameras_of_photos(folder.photos, settings.reconstruction.one_camera_per))
        start = time.perf_counter()
        keypoints = extract_keypoints(folder.photos, settings.reconstruction)
        extraction = time.perf_counter() - start
        by_seed, matches = [], None
        for seed in range(settings.seeds):
            chosen = replace(settings.reconstruction, seed=seed)
            start = time.perf_counter()
            pairs = match_pairs(keypoints, choose_pairs(keypoints, chosen), chosen)
            matches = matches or FolderMatches(tuple(keypoints), tuple(pairs))
            again = FolderMatches(tuple(keypoints), tuple(pairs))
            by_seed.append(_figures(scene, folder, again, chosen, extraction + time.perf_counter() - start))
        _print_row(scene, "seed", by_seed)
        if matches is None:
            continue
        by_order = [
            _figures(scene, *_reordered(folder, matches, seed), settings.reconstruction)
            for seed in range(settings.orders)
        ]
        _print_row(scene, "order (seconds without keypoints and matching)", by_order)


def _figures(
    scene: Path,
    folder: PhotoFolder,
    matches: FolderMatches,
    settings: ReconstructionSettings,
    seconds: float = 0.0,
) -> list[float]:
    """The `FIGURES` of one reconstruction; the seconds grow by those that came before."""
    start = time.perf_counter()
    found = reconstruct_from_matches(folder, np.zeros(len(folder.photos), bool), matches, settings)
    seconds += time.perf_counter() - start
    truth = read_ground_truth(scene / "ground_truth.json")
    metrics = compare_poses(_poses(found), truth.T_world_camera, found.cameras[0].focal, truth.focal)
    return [metrics.num_registered, metrics.auc_5, metrics.focal_error, metrics.ate, seconds]


def _poses(scene: SparseScene) -> dict[str, NDArray[np.float64]]:
    return {
        Path(scene.photo_names[photo]).name: scene.T_world_camera[photo]
        for photo in np.flatnonzero(scene.registered)
    }


def _reordered(folder: PhotoFolder, matches: FolderMatches, seed: int) -> tuple[PhotoFolder, FolderMatches]:
    """The same photographs and matches in a random order."""
    order = np.random.default_rng(seed).permutation(len(folder.photos))
    place = np.argsort(order)
    pairs = []
    for pair in matches.pairs:
        first, second = int(place[pair.first]), int(place[pair.second])
        if first > second:
            first, second = second, first
            indices, fundamental = np.ascontiguousarray(pair.indices[:, ::-1]), pair.fundamental.T
            pair = PairMatches(first, second, indices, fundamental, pair.homography_ratio)
        pairs.append(replace(pair, first=first, second=second))
    keypoints: list[Keypoints] = [matches.keypoints[photo] for photo in order]
    pairs.sort(key=lambda pair: (pair.first, pair.second))
    photos = tuple(folder.photos[photo] for photo in order)
    return replace(folder, photos=photos), FolderMatches(tuple(keypoints), tuple(pairs))


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
    main(tyro.cli(Settings))
