"""Runs that are interrupted, killed or not alone: the next one goes on from what they kept, all the same."""

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
from nope_splat.matching import PairMatches, matching
from nope_splat.matching.database import MatchDatabase, find_matches, matches_key
from nope_splat.matching.verification import verify_pair
from nope_splat.sfm import Reconstruction, ReconstructionSettings, reconstruct
from nope_splat.utils.cache import Cache

SETTINGS = ReconstructionSettings(max_keypoints=500)

SLOW_RUN = """
import sys, time
from pathlib import Path
from nope_splat.utils.cache import Cache
from nope_splat.io.images import find_images
from nope_splat.matching import matching
from nope_splat.sfm import ReconstructionSettings, Reconstruction, reconstruct
from nope_splat.matching.database import find_matches, matches_key

folder, settings = find_images(Path(sys.argv[1])), ReconstructionSettings(max_keypoints=500)
verify = matching.verify_pair
matching.verify_pair = lambda *arguments: (time.sleep(float(sys.argv[3])), verify(*arguments))[1]
matching.KEEP_EVERY = 0.0
find_matches(folder, settings, Cache(Path(sys.argv[2])), matches_key(folder, settings))
"""


KILLED_RUN = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from nope_splat.io.images import find_images
from nope_splat.sfm import ReconstructionSettings, reconstruct

module, _, name = sys.argv[3].partition(":")
setattr(import_module(module), name, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
folder, settings = find_images(Path(sys.argv[1])), ReconstructionSettings(max_keypoints=500)
reconstruct(folder, [], settings, Path(sys.argv[2]))
"""


def start(images: Path, cache: Path, seconds_per_pair: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SLOW_RUN, str(images), str(cache), str(seconds_per_pair)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def stages(cache: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in cache.glob("*.npz"))


@pytest.fixture(scope="module")
def folder(valley: Path) -> ImageFolder:
    return find_images(valley / "images")


@pytest.fixture(scope="module")
def whole(folder: ImageFolder) -> MatchDatabase:
    """What a run that nothing disturbs finds."""
    return find_matches(folder, SETTINGS, None, "")


def assert_same(found: MatchDatabase, expected: MatchDatabase) -> None:
    one, other = found.to_arrays(), expected.to_arrays()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def finish(folder: ImageFolder, cache: Path) -> MatchDatabase:
    return find_matches(folder, SETTINGS, Cache(cache), matches_key(folder, SETTINGS))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_matching_goes_on_where_it_was_interrupted_or_a_worker_failed(
    interruption: type[BaseException],
    folder: ImageFolder,
    whole: MatchDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[int, ...]] = []

    def verify(first: int, second: int, *others: Any) -> PairMatches | None:
        tried.append(tuple(sorted((first, second))))
        if len(tried) == 12:
            raise interruption
        return verify_pair(first, second, *others)

    monkeypatch.setattr(matching, "verify_pair", verify)
    with pytest.raises(interruption):
        finish(folder, tmp_path)
    assert stages(tmp_path) == ["pairs"]
    before = set(tried[:8])  # those before the interruption, but for what ran beside it
    tried[:] = [(0, 0)] * 12
    assert_same(finish(folder, tmp_path), whole)
    assert not before & set(tried)
    assert stages(tmp_path) == ["matches"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_matching_goes_on_after_a_run_that_was_killed(
    how: signal.Signals,
    folder: ImageFolder,
    whole: MatchDatabase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with start(folder.root, tmp_path, 0.3) as run:
        while not stages(tmp_path):
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(how)
        _, said = run.communicate(timeout=60)
    assert run.returncode in (-signal.SIGKILL, -signal.SIGINT)
    assert stages(tmp_path) == ["pairs"], said
    assert_same(finish(folder, tmp_path), whole)
    assert "pairs that are matched already" in caplog.text
    assert stages(tmp_path) == ["matches"]


def test_a_damaged_beginning_is_named_and_not_used(
    folder: ImageFolder, whole: MatchDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"pairs-{matches_key(folder, SETTINGS)[:16]}.npz"
    path.write_bytes(os.urandom(1000))
    assert_same(finish(folder, tmp_path), whole)
    assert f"The cached file {path} is damaged and will be made again" in caplog.text


def test_two_runs_at_once_do_not_harm_each_other(
    folder: ImageFolder, whole: MatchDatabase, tmp_path: Path
) -> None:
    runs = [start(folder.root, tmp_path, 0.01) for _ in range(2)]
    for run in runs:
        _, said = run.communicate(timeout=200)
        assert run.returncode == 0, said
    assert "matches" in stages(tmp_path)
    assert_same(finish(folder, tmp_path), whole)


@pytest.fixture(scope="module")
def cameras(folder: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reconstruction, Path]:
    """What a run that nothing disturbs finds, and its cache."""
    cache = tmp_path_factory.mktemp("cache")
    return reconstruct(folder, [], SETTINGS, cache), cache


def assert_same_cameras(found: Reconstruction, expected: Reconstruction) -> None:
    one, other = (replace(scene, seconds={}).to_arrays() for scene in (found, expected))
    for name in other:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("nope_splat.matching.matching:sift_keypoints", []),
        ("os:replace", []),  # matches are written, but not yet in their place
        ("nope_splat.sfm.pipeline:register_group", ["matches"]),
        ("nope_splat.sfm.pipeline:refine", ["matches"]),
    ],
)
def test_a_reconstruction_that_was_killed_is_made_again_from_what_is_kept(
    where: str,
    kept: list[str],
    folder: ImageFolder,
    cameras: tuple[Reconstruction, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED_RUN, folder.root, tmp_path, where], check=False)
    assert run.returncode == -signal.SIGKILL
    assert stages(tmp_path) == kept
    caplog.clear()
    assert_same_cameras(reconstruct(folder, [], SETTINGS, tmp_path), cameras[0])
    assert ("Using the cached matches." in caplog.text) == bool(kept)
    assert stages(tmp_path) == ["matches", "scene"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def swap(path: Path) -> None:
    """Arrays under the right key that another program has made."""
    with np.load(path) as stored:
        np.savez(path, cache_key=stored["cache_key"], loot=np.arange(3))


@pytest.mark.parametrize("stage", ["scene", "matches"])
@pytest.mark.parametrize("damage", [cut, swap])
def test_a_damaged_reconstruction_is_named_and_made_again(
    stage: str,
    damage: Callable[[Path], None],
    folder: ImageFolder,
    cameras: tuple[Reconstruction, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene, whole = cameras
    cache = shutil.copytree(whole, tmp_path / "cache")
    (path,) = cache.glob(f"{stage}-*.npz")
    damage(path)
    if stage == "matches":  # which are looked for where there is no scene
        next(cache.glob("scene-*.npz")).unlink()
    assert_same_cameras(reconstruct(folder, [], SETTINGS, cache), scene)
    assert f"The cached file {path} is damaged and will be made again" in caplog.text
    assert_same_cameras(reconstruct(folder, [], SETTINGS, cache), scene)
    assert "Using the cached reconstruction." in caplog.text
