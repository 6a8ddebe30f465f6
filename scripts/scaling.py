"""How matching and registration grow with the number of photographs.

    for n in 50 100 200; do
        nope-splat demo-scene --path tour --size 480 360 --num-photos $n --output-dir tour-$n
    done
    python scripts/scaling.py pairs --data tour-200
    python scripts/scaling.py registration --data tour-50 --data tour-100 --data tour-200 --cache-dir CACHE

`pairs` matches every pair and tells which of those with many matches retrieval chooses, and in which share of
the time. `registration` reconstructs from the matches of pairs that retrieval chose; `--registration` says
how, and a second run finds the matches in the cache. Both print a table. Seconds are those of the processor,
all cores together, so that other work on the machine does not count.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import tyro

from nope_splat.cache import Cache
from nope_splat.evaluation.pose_metrics import compare_poses, read_ground_truth
from nope_splat.images import find_photos
from nope_splat.matching import MatchingSettings, choose_pairs, extract_keypoints, match_pairs
from nope_splat.reconstruction import ReconstructionSettings
from nope_splat.reconstruction.matches import find_matches, matches_key
from nope_splat.reconstruction.reconstruct import reconstruct_from_matches

BLOCKS = 5
"""Parts in which pairs are matched."""
STRONG = 60
"""Verified matches that make a pair worth finding."""


@dataclass(frozen=True)
class Pairs:
    """Which of the strong pairs retrieval finds, and in which share of the time."""

    data: Path
    """Folder of photographs."""
    num_partners: tuple[int, ...] = (10, 20, 30)
    """Numbers of partners of which retrieval is measured."""
    sample: int | None = None
    """Match a random sample of so many pairs instead of all; the seconds are those of the sample."""


@dataclass(frozen=True)
class Registration:
    """Time, memory and accuracy of reconstruction from matches."""

    data: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folders of photographs with `ground_truth.json`, small ones first, since memory is the peak so far;
    repeat the flag."""
    cache_dir: Path
    """Where matches are kept."""
    settings: tyro.conf.OmitArgPrefixes[ReconstructionSettings] = field(
        default_factory=lambda: ReconstructionSettings(pairs="retrieval", registration="batches")
    )
    """How to match and to reconstruct."""


def measure_pairs(settings: Pairs) -> None:
    """Print the table of pair selection.

    Args:
        settings: What to measure.
    """
    matching = MatchingSettings(pairs="retrieval")
    start = time.process_time()
    keypoints = extract_keypoints(find_photos(settings.data).photos, matching)
    features = time.process_time() - start
    every = list(combinations(range(len(keypoints)), 2))
    choices: dict[int, set[tuple[int, int]]] = {}
    choosing: dict[int, float] = {}
    for num_partners in settings.num_partners:
        start = time.process_time()
        choices[num_partners] = set(choose_pairs(keypoints, replace(matching, num_partners=num_partners)))
        choosing[num_partners] = time.process_time() - start

    # Pairs that the same numbers of partners choose are matched together, and all kinds in turn, so that
    # whatever slows the machine down for a while slows all of them down.
    order = np.random.default_rng(0).permutation(len(every))[: settings.sample]
    seconds: defaultdict[tuple[bool, ...], float] = defaultdict(float)
    found = []
    for block in np.array_split(order, BLOCKS):
        kinds: dict[tuple[bool, ...], list[tuple[int, int]]] = {}
        for pair in (every[index] for index in block):
            kinds.setdefault(tuple(pair in chosen for chosen in choices.values()), []).append(pair)
        for kind, pairs in kinds.items():
            start = time.process_time()
            found += match_pairs(keypoints, pairs, matching)
            seconds[kind] += time.process_time() - start
    tried = {every[index] for index in order}
    exhaustive = sum(seconds.values())
    strong = {(pair.first, pair.second) for pair in found if len(pair.indices) >= STRONG}
    print(f"{len(keypoints)} photographs, {np.mean([len(one.xy) for one in keypoints]):.0f} keypoints each,")
    print(f"{len(found) / len(tried):.1%} of the pairs verified, {len(strong) / len(tried):.1%} strongly,")
    print(f"in {exhaustive:.0f} seconds, and {features:.0f} before that to find the keypoints.\n")
    print("| partners | pairs | of all | strong pairs found | choosing s | with matching s | of exhaustive |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number, (num_partners, chosen) in enumerate(choices.items()):
        both = choosing[num_partners] + sum(took for kind, took in seconds.items() if kind[number])
        print(
            f"| {num_partners} | {len(chosen)} | {len(chosen) / len(every):.1%}"
            f" | {len(strong & chosen) / len(strong):.1%}"
            f" | {choosing[num_partners]:.1f} | {both:.1f} | {both / exhaustive:.1%} |"
        )


def measure_registration(settings: Registration) -> None:
    """Print the table of registration.

    Args:
        settings: What to measure.
    """
    print(
        "| photographs | registration | registered | AUC@5 | ATE % | focal error % | seconds | of it | GiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for data in settings.data:
        folder = find_photos(data)
        matches = find_matches(
            folder, settings.settings, Cache(settings.cache_dir), matches_key(folder, settings.settings)
        )
        start = time.process_time()
        scene = reconstruct_from_matches(
            folder, np.zeros(len(folder.photos), bool), matches, settings.settings
        )
        seconds = time.process_time() - start
        truth = read_ground_truth(data / "ground_truth.json")
        poses = {
            name: pose
            for name, pose, registered in zip(
                scene.photo_names, scene.T_world_camera, scene.registered, strict=True
            )
            if registered
        }
        metrics = compare_poses(poses, truth.T_world_camera, scene.cameras[0].focal, truth.focal)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        stages = ", ".join(f"{stage} {took:.1f}" for stage, took in scene.seconds.items() if took >= 0.1)
        print(
            f"| {len(folder.photos)} | {settings.settings.registration} | {metrics.num_registered}"
            f" | {metrics.auc_5:.1f} | {metrics.ate:.3f} | {metrics.focal_error:+.2f} | {seconds:.1f}"
            f" | {stages} | {memory:.2f} |",
            flush=True,
        )


def main(settings: Pairs | Registration) -> None:
    """Measure one or the other.

    Args:
        settings: What to measure.
    """
    if isinstance(settings, Pairs):
        measure_pairs(settings)
    else:
        measure_registration(settings)


if __name__ == "__main__":
    main(tyro.cli(Pairs | Registration, description=__doc__))
