"""Runs that are interrupted, killed or not alone: the next one goes on from what they kept, all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nope_splat.cache import Cache
from nope_splat.images import PhotoFolder, find_photos
from nope_splat.matching import PairMatches
from nope_splat.matching import match as matching
from nope_splat.matching.verify import verify_pair
from nope_splat.reconstruction import ReconstructionSettings
from nope_splat.reconstruction.matches import FolderMatches, find_matches, matches_key

SETTINGS = ReconstructionSettings(max_keypoints=500)

SLOW_RUN = """
import sys, time
from pathlib import Path
from nope_splat.cache import Cache
from nope_splat.images import find_photos
from nope_splat.matching import match
from nope_splat.reconstruction import ReconstructionSettings
from nope_splat.reconstruction.matches import find_matches, matches_key

folder, settings = find_photos(Path(sys.argv[1])), ReconstructionSettings(max_keypoints=500)
verify = match.verify_pair
match.verify_pair = lambda *arguments: (time.sleep(float(sys.argv[3])), verify(*arguments))[1]
match.KEEP_EVERY = 0.0
find_matches(folder, settings, Cache(Path(sys.argv[2])), matches_key(folder, settings))
"""


def start(photos: Path, cache: Path, seconds_per_pair: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SLOW_RUN, str(photos), str(cache), str(seconds_per_pair)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def stages(cache: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in cache.glob("*.npz"))


@pytest.fixture(scope="module")
def folder(valley: Path) -> PhotoFolder:
    return find_photos(valley / "images")


@pytest.fixture(scope="module")
def whole(folder: PhotoFolder) -> FolderMatches:
    """What a run that nothing disturbs finds."""
    return find_matches(folder, SETTINGS, None, "")


def assert_same(found: FolderMatches, expected: FolderMatches) -> None:
    one, other = found.to_arrays(), expected.to_arrays()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def finish(folder: PhotoFolder, cache: Path) -> FolderMatches:
    return find_matches(folder, SETTINGS, Cache(cache), matches_key(folder, SETTINGS))


def test_matching_goes_on_where_it_was_interrupted(
    folder: PhotoFolder, whole: FolderMatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, ...]] = []

    def verify(first: int, second: int, *others: Any) -> PairMatches | None:
        tried.append(tuple(sorted((first, second))))
        if len(tried) == 12:
            raise KeyboardInterrupt
        return verify_pair(first, second, *others)

    monkeypatch.setattr(matching, "verify_pair", verify)
    with pytest.raises(KeyboardInterrupt):
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
    folder: PhotoFolder,
    whole: FolderMatches,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
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
    assert "pairs that are matched already" in capsys.readouterr().err
    assert stages(tmp_path) == ["matches"]


def test_a_damaged_beginning_is_named_and_not_used(
    folder: PhotoFolder, whole: FolderMatches, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"pairs-{matches_key(folder, SETTINGS)[:16]}.npz"
    path.write_bytes(os.urandom(1000))
    assert_same(finish(folder, tmp_path), whole)
    assert f"The cached file {path} is damaged and will be made again" in capsys.readouterr().err


def test_two_runs_at_once_do_not_harm_each_other(
    folder: PhotoFolder, whole: FolderMatches, tmp_path: Path
) -> None:
    runs = [start(folder.root, tmp_path, 0.01) for _ in range(2)]
    for run in runs:
        _, said = run.communicate(timeout=200)
        assert run.returncode == 0, said
    assert "matches" in stages(tmp_path)
    assert_same(finish(folder, tmp_path), whole)
