"""Interrupted, killed and concurrent runs: the next run resumes from the cache, with identical results."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nope_splat.io.images import ImageFolder, find_images
from nope_splat.matching import MatchingSettings, PairMatches, matching
from nope_splat.matching.database import MatchDatabase, load_or_match, matches_key
from nope_splat.matching.verification import verify_pair
from nope_splat.sfm import Reconstruction, SfmOptions, reconstruct
from nope_splat.utils.cache import Cache

MATCHING = MatchingSettings(max_keypoints=500)
OPTIONS = SfmOptions(MATCHING)

SLOW_RUN = """
import sys, time
from pathlib import Path
from nope_splat.utils.cache import Cache
from nope_splat.io.images import find_images
from nope_splat.matching import MatchingSettings, matching
from nope_splat.matching.database import load_or_match, matches_key

folder, options = find_images(Path(sys.argv[1])), MatchingSettings(max_keypoints=500)
verify = matching.verify_without_stationary
matching.verify_without_stationary = lambda *args: (time.sleep(float(sys.argv[3])), verify(*args))[1]
matching.SAVE_INTERVAL = 0.0
load_or_match(folder, options, Cache(Path(sys.argv[2])), matches_key(folder, options))
"""


KILLED_RUN = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from nope_splat.io.images import find_images
from nope_splat.matching import MatchingSettings
from nope_splat.sfm import SfmOptions, reconstruct

module, _, name = sys.argv[3].partition(":")
setattr(import_module(module), name, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
folder, options = find_images(Path(sys.argv[1])), SfmOptions(MatchingSettings(max_keypoints=500))
reconstruct(folder, [], options, Path(sys.argv[2]))
"""


def start_matching(images: Path, cache: Path, seconds_per_pair: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SLOW_RUN, str(images), str(cache), str(seconds_per_pair)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def cached_stages(cache: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in cache.glob("*.npz"))


@pytest.fixture(scope="module")
def folder(valley: Path) -> ImageFolder:
    return find_images(valley / "images")


@pytest.fixture(scope="module")
def expected_matches(folder: ImageFolder) -> MatchDatabase:
    """Matches of an uninterrupted run."""
    return load_or_match(folder, MATCHING, None, "")


def assert_same_matches(actual: MatchDatabase, expected: MatchDatabase) -> None:
    actual_arrays, expected_arrays = actual.to_arrays(), expected.to_arrays()
    for name in actual_arrays:
        np.testing.assert_array_equal(actual_arrays[name], expected_arrays[name])


def resume_matching(folder: ImageFolder, cache: Path) -> MatchDatabase:
    return load_or_match(folder, MATCHING, Cache(cache), matches_key(folder, MATCHING))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_matching_resumes_after_an_interruption_or_a_failed_worker(
    interruption: type[BaseException],
    folder: ImageFolder,
    expected_matches: MatchDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[tuple[int, ...]] = []

    def verify(first: int, second: int, *arguments: Any) -> PairMatches | None:
        verified.append(tuple(sorted((first, second))))
        if len(verified) == 12:
            raise interruption
        return verify_pair(first, second, *arguments)

    monkeypatch.setattr(matching, "verify_without_stationary", verify)
    with pytest.raises(interruption):
        resume_matching(folder, tmp_path)
    assert cached_stages(tmp_path) == ["pairs"]
    before = set(verified[:8])  # without pairs that ran concurrently with the interrupted one
    verified[:] = [(0, 0)] * 12
    assert_same_matches(resume_matching(folder, tmp_path), expected_matches)
    assert not before & set(verified)
    assert cached_stages(tmp_path) == ["matches"]


@pytest.mark.parametrize("kill_signal", [signal.SIGKILL, signal.SIGINT])
def test_matching_resumes_after_a_killed_run(
    kill_signal: signal.Signals,
    folder: ImageFolder,
    expected_matches: MatchDatabase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with start_matching(folder.root, tmp_path, 0.3) as run:
        while not cached_stages(tmp_path):
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(kill_signal)
        _, stderr = run.communicate(timeout=60)
    assert run.returncode in (-signal.SIGKILL, -signal.SIGINT)
    assert cached_stages(tmp_path) == ["pairs"], stderr
    assert_same_matches(resume_matching(folder, tmp_path), expected_matches)
    assert "pairs that are already matched" in caplog.text
    assert cached_stages(tmp_path) == ["matches"]


def test_damaged_partial_matches_are_reported_and_ignored(
    folder: ImageFolder, expected_matches: MatchDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"pairs-{matches_key(folder, MATCHING)[:16]}.npz"
    path.write_bytes(os.urandom(1000))
    assert_same_matches(resume_matching(folder, tmp_path), expected_matches)
    assert f"The cached file {path} is damaged" in caplog.text


def test_concurrent_runs_do_not_interfere(
    folder: ImageFolder, expected_matches: MatchDatabase, tmp_path: Path
) -> None:
    runs = [start_matching(folder.root, tmp_path, 0.01) for _ in range(2)]
    for run in runs:
        _, stderr = run.communicate(timeout=200)
        assert run.returncode == 0, stderr
    assert "matches" in cached_stages(tmp_path)
    assert_same_matches(resume_matching(folder, tmp_path), expected_matches)


@pytest.fixture(scope="module")
def reconstruction(
    folder: ImageFolder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reconstruction, Path]:
    """Reconstruction of an uninterrupted run, and its cache."""
    cache = tmp_path_factory.mktemp("cache")
    return reconstruct(folder, [], OPTIONS, cache), cache


def assert_same_reconstruction(actual: Reconstruction, expected: Reconstruction) -> None:
    actual_arrays, expected_arrays = (replace(scene, seconds={}).to_arrays() for scene in (actual, expected))
    for name in expected_arrays:
        np.testing.assert_array_equal(actual_arrays[name], expected_arrays[name])


@pytest.mark.parametrize(
    ("killed_in", "kept"),
    [
        ("nope_splat.matching.matching:sift_keypoints", []),
        ("os:replace", []),  # matches are written to a temporary file
        ("nope_splat.sfm.component_reconstruction:reconstruct_component", ["matches"]),
        ("nope_splat.sfm.component_reconstruction:refine_globally", ["matches"]),
    ],
)
def test_killed_reconstruction_resumes_from_the_cache(
    killed_in: str,
    kept: list[str],
    folder: ImageFolder,
    reconstruction: tuple[Reconstruction, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED_RUN, folder.root, tmp_path, killed_in], check=False)
    assert run.returncode == -signal.SIGKILL
    assert cached_stages(tmp_path) == kept
    caplog.clear()
    assert_same_reconstruction(reconstruct(folder, [], OPTIONS, tmp_path), reconstruction[0])
    assert ("Using the cached matches." in caplog.text) == bool(kept)
    assert cached_stages(tmp_path) == ["matches", "scene"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def replace_arrays(path: Path) -> None:
    """Write different arrays under the same cache key."""
    with np.load(path) as stored:
        np.savez(path, cache_key=stored["cache_key"], unexpected=np.arange(3))


@pytest.mark.parametrize("stage", ["scene", "matches"])
@pytest.mark.parametrize("damage", [truncate, replace_arrays])
def test_damaged_cache_files_are_reported_and_recomputed(
    stage: str,
    damage: Callable[[Path], None],
    folder: ImageFolder,
    reconstruction: tuple[Reconstruction, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene, original_cache = reconstruction
    cache = shutil.copytree(original_cache, tmp_path / "cache")
    (path,) = cache.glob(f"{stage}-*.npz")
    damage(path)
    if stage == "matches":  # matches are only read without a cached scene
        next(cache.glob("scene-*.npz")).unlink()
    assert_same_reconstruction(reconstruct(folder, [], OPTIONS, cache), scene)
    assert f"The cached file {path} is damaged" in caplog.text
    assert_same_reconstruction(reconstruct(folder, [], OPTIONS, cache), scene)
    assert "Using the cached reconstruction." in caplog.text
