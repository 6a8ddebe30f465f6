"""Measure how matching and registration scale with the number of images.

    nope-splat demo-scene --trajectory tour --num-images 200 --output-dir tour
    python -m scripts.analysis.scaling pairs --data tour
    python -m scripts.analysis.scaling registration --data tour --num-images 50 100 200 --cache-dir CACHE

`pairs` matches all pairs of images, the most similar pairs, and the pairs that retrieval selects. It prints
the recall of pairs with many matches, and the time relative to matching all pairs. `registration`
reconstructs the first images of the tour in capture order, so that the density of the images does not change
with their number. `--registration` selects the registration method, and a second run reads the matches from
the cache. Seconds are the CPU time of all cores together; load on the machine can increase them by a third.
Memory is the peak of the process during each stage (Linux only).
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import tyro
from numpy.typing import NDArray

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import find_images
from nope_splat.matching import (
    MatchingSettings,
    PairMatches,
    choose_pairs,
    extract_keypoints,
    match_keypoints,
    match_pairs,
)
from nope_splat.matching.database import load_or_match, matches_key
from nope_splat.sfm import SfmOptions
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.sfm.registration.batched import BatchedRegistration
from nope_splat.utils.cache import Cache
from nope_splat.utils.stopwatch import Stopwatch
from nope_splat.utils.terminal import set_up_terminal

STRONG = 60
"""Minimum number of verified matches of a strong pair."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pairs:
    """Measure the recall of strong pairs by retrieval, and its time relative to matching all pairs."""

    data: Path
    """Folder of the images."""
    sample: int | None = None
    """Number of random pairs from which the time of matching all pairs is extrapolated; None to match all
    pairs."""
    repeats: int = 5
    """Number of time measurements of retrieval. They alternate with matching parts of all pairs, so that load
    on the machine affects both."""


@dataclass(frozen=True)
class Registration:
    """Measure time, memory and accuracy of reconstruction from cached matches."""

    data: Path
    """Folder with images of a tour of the demo scene, and their `ground_truth.json`."""
    cache_dir: Path
    """Folder in which matches are cached."""
    num_images: tuple[int, ...] = (50, 100, 200)
    """Numbers of images to reconstruct, counted from the beginning of the tour."""
    settings: tyro.conf.OmitArgPrefixes[SfmOptions] = field(
        default_factory=lambda: SfmOptions(
            MatchingSettings(pairs="retrieval"), registration=BatchedRegistration()
        )
    )
    """Options of matching and reconstruction."""


class Meter(Stopwatch):
    """Meter of the CPU seconds and the peak memory (GiB) of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.gib: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the CPU time and the peak memory of the block in the context.

        Args:
            name: Stage to which time and memory are recorded.
        """
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak memory of this process
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
            (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
            self.gib[name] = max(self.gib[name], int(peak.split()[1]) / 2**20)


def measure_pairs(settings: Pairs) -> None:
    """Measure the selection of image pairs and print a table.

    Args:
        settings: Settings of the measurement.
    """
    matching = MatchingSettings(pairs="retrieval")
    keypoints, features = _timed(lambda: extract_keypoints(find_images(settings.data).images, matching))
    every = list(combinations(range(len(keypoints)), 2))
    order = np.random.default_rng(0).permutation(len(every))[: settings.sample]
    verified, exhaustive = [], 0.0
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    results: dict[str, list[PairMatches]] = {}

    def measure(way: str, match: Callable[[], list[PairMatches]]) -> None:
        results[way], took = _timed(match)
        seconds[way].append(took)

    for part in np.array_split(order, settings.repeats):
        more, took = _timed(
            lambda part=part: match_pairs(keypoints, [every[index] for index in part], matching)
        )
        verified += more
        exhaustive += took * len(every) / len(order)
        alike = f"the {matching.num_partners} most similar"
        measure(alike, lambda: match_pairs(keypoints, choose_pairs(keypoints, matching), matching))
        measure("retrieval", lambda: match_keypoints(keypoints, matching))
    strong = _strong(verified)
    print(f"{len(keypoints)} photos, {np.mean([len(image.xy) for image in keypoints]):.0f} keypoints each,")
    print(f"{len(verified) / len(order):.1%} of the pairs verified, {len(strong) / len(order):.1%} strongly,")
    print(f"in {exhaustive:.1f} seconds, and {features:.1f} before that to extract the keypoints.\n")
    print("| matched | verified | recall of strong pairs | seconds | relative to all pairs |")
    print("| --- | --- | --- | --- | --- |")
    for way, pairs in results.items():
        recall = len(strong & _strong(pairs)) / len(strong)
        took = float(np.median(seconds[way]))
        print(f"| {way} | {len(pairs)} | {recall:.1%} | {took:.1f} | {took / exhaustive:.1%} |")


def _strong(pairs: list[PairMatches]) -> set[tuple[int, int]]:
    """Select the pairs with at least `STRONG` verified matches, as image indices."""
    return {(pair.first, pair.second) for pair in pairs if len(pair.indices) >= STRONG}


def measure_registration(settings: Registration) -> None:
    """Measure reconstruction from matches and print a table.

    Args:
        settings: Settings of the measurement.
    """
    tour = find_images(settings.data)
    truth = read_ground_truth(settings.data / "ground_truth.json")
    capture_order = order_of_capture(np.stack([truth.T_world_camera[image.name] for image in tour.images]))
    print(
        "| photos | registered | observations | AUC@5 | ATE % | focal error % | seconds | stages (peak GiB) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for num_images in settings.num_images:
        chosen = np.sort(capture_order[:num_images])
        folder = replace(tour, images=tuple(tour.images[image] for image in chosen))
        matches = load_or_match(
            folder,
            settings.settings.matching,
            Cache(settings.cache_dir),
            matches_key(folder, settings.settings.matching),
        )
        gc.collect()
        meter, none_held_out = Meter(), np.zeros(num_images, bool)
        scene, seconds = _timed(
            lambda folder=folder, matches=matches, meter=meter, none_held_out=none_held_out: (
                reconstruct_from_matches(folder, none_held_out, matches, settings.settings, clock=meter)
            )
        )
        poses = {
            name: pose
            for name, pose, registered in zip(
                scene.image_names, scene.T_world_camera, scene.registered, strict=True
            )
            if registered
        }
        true = {image.name: truth.T_world_camera[image.name] for image in folder.images}
        metrics = compare_poses(poses, true, scene.cameras[0].focal, truth.focal)
        stages = ", ".join(
            f"{stage} {took:.1f} ({meter.gib[stage]:.2f})"
            for stage, took in meter.seconds.items()
            if took >= 0.1
        )
        print(
            f"| {num_images} | {metrics.num_registered} | {len(scene.observations)} | {metrics.auc_5:.1f}"
            f" | {metrics.ate:.3f} | {metrics.focal_error:+.2f} | {seconds:.1f} | {stages} |",
            flush=True,
        )


def order_of_capture(T_world_camera: NDArray[np.floating]) -> NDArray[np.int64]:
    """Sort the cameras of a tour in capture order.

    The tour consists of two rounds; in the second round, the cameras look outward.

    Args:
        T_world_camera: Camera-to-world transforms, OpenCV axes. (N, 4, 4).

    Returns:
        Indices of the cameras, first to last. (N,).
    """
    position, heading = T_world_camera[:, :2, 3], T_world_camera[:, :2, 2]
    azimuth = np.arctan2(position[:, 1], position[:, 0]) % (2 * np.pi)
    turned = (np.arctan2(heading[:, 1], heading[:, 0]) - azimuth - np.pi / 2) % (2 * np.pi) + np.pi / 2
    # In the first round, cameras turn from looking inward (pi) to halfway; in the second round, they turn
    # from halfway to looking outward (2 pi).
    second_round = turned > 1.25 * np.pi + azimuth / 4
    return np.lexsort((azimuth, second_round))


def _timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """Call a function. Returns its result and the CPU seconds that it took."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def main(settings: Pairs | Registration) -> None:
    """Run the selected measurement.

    Args:
        settings: Settings of the measurement.
    """
    if isinstance(settings, Pairs):
        measure_pairs(settings)
    else:
        measure_registration(settings)


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Pairs | Registration, description=__doc__))
