"""The cache: keys, damaged files, concurrent processes, and eviction."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.cached_arrays import ARRAYS, KEY, store_often
from fixtures.disk import full_after
from fixtures.errors import refused

from nope_splat.io.fingerprint import content_key
from nope_splat.io.images import ImageFile
from nope_splat.utils.cache import MAX_ENTRIES_PER_STAGE, MAX_PARTIAL_FILE_AGE, Cache, read_only_caches


def assert_same(loaded: dict[str, np.ndarray] | None) -> None:
    assert loaded is not None
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def only_file(cache: Cache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


def test_stored_arrays_are_loaded_unchanged(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "cache")
    assert cache.load("matches", KEY, dict) is None
    cache.store("matches", KEY, ARRAYS)
    assert_same(cache.load("matches", KEY, dict))
    assert cache.load("scene", KEY, dict) is None
    assert cache.load("matches", KEY[::-1], dict) is None


def test_damaged_files_are_reported_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)
    cache.store("matches", KEY, ARRAYS)
    path = only_file(cache)
    intact = path.read_bytes()
    flipped = bytearray(intact)
    flipped[intact.index(ARRAYS["numbers"].tobytes())] ^= 1
    np.save(tmp_path / "plain.npy", np.arange(3))
    npy = (tmp_path / "plain.npy").read_bytes()
    for damaged in [b"", intact[:100], intact[: len(intact) // 2], bytes(flipped), b"not a zip archive", npy]:
        path.write_bytes(damaged)
        assert cache.load("matches", KEY, dict) is None
        assert str(path) in caplog.messages[-1]
        cache.store("matches", KEY, ARRAYS)
        assert_same(cache.load("matches", KEY, dict))


def test_foreign_files_are_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)
    cache.store("matches", KEY, ARRAYS)
    path = only_file(cache)
    same_prefix = KEY[:32] + KEY[:32][::-1]
    assert cache.load("matches", same_prefix, dict) is None
    assert str(path) in caplog.text
    np.savez(path, **ARRAYS)
    assert cache.load("matches", KEY, dict) is None
    np.savez(path, cache_key=np.array(KEY), loot=np.array([print], dtype=object))
    assert cache.load("matches", KEY, dict) is None, "pickle must not be loaded"


def test_python_objects_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pickle"):
        Cache(tmp_path).store("matches", KEY, {"objects": np.array([None])})


def test_an_unwritable_folder_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with refused("unwritable-output", tmp_path / "file" / "cache"):
        Cache(tmp_path / "file" / "cache").store("matches", KEY, ARRAYS)


@pytest.mark.parametrize("size", [100, 4096, 40_000, 80_500])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_raises_an_error_and_keeps_the_old_file(tmp_path: Path, size: int) -> None:
    cache = Cache(tmp_path)
    cache.store("matches", KEY, ARRAYS)
    with full_after(size), refused("unwritable-output", tmp_path, os.strerror(errno.EFBIG)):
        cache.store("matches", KEY, {"first": np.arange(5000), "second": np.arange(5000)})
    gc.collect()  # an archive that stayed open would complain now
    assert_same(cache.load("matches", KEY, dict))
    assert only_file(cache).suffix == ".npz", "partial files must be removed"


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_read_only_caches_are_read_and_not_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, absent = Cache(tmp_path / "cache"), Cache(tmp_path / "absent")
    cache.store("matches", KEY, ARRAYS)
    before = contents(cache.folder)
    with read_only_caches():
        assert_same(cache.load("matches", KEY, dict))
        for each in (cache, absent):
            each.store("scene", KEY, ARRAYS)
        cache.remove("matches", KEY)
    assert contents(cache.folder) == before
    assert not absent.folder.exists()
    assert [
        str(each.folder) in message for each, message in zip((absent, cache), caplog.messages, strict=True)
    ]
    cache.store("scene", KEY, ARRAYS)
    assert_same(cache.load("scene", KEY, dict))


def test_the_least_recently_used_results_are_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keys = [f"{number:02d}" * 32 for number in range(MAX_ENTRIES_PER_STAGE + 3)]
    for age, key in enumerate(keys[:MAX_ENTRIES_PER_STAGE]):
        cache.store("matches", key, ARRAYS)
        os.utime(next(tmp_path.glob(f"matches-{key[:16]}*")), (0, 1e9 - age))
    cache.store("scene", keys[0], ARRAYS)
    assert_same(
        cache.load("matches", keys[MAX_ENTRIES_PER_STAGE - 1], dict)
    )  # loading makes the oldest recent
    for name, age in (("killed.partial", 2 * MAX_PARTIAL_FILE_AGE), ("busy.partial", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    for key in keys[MAX_ENTRIES_PER_STAGE:]:
        cache.store("matches", key, ARRAYS)
    kept = [key for key in keys if cache.load("matches", key, dict)]
    assert kept == [*keys[: MAX_ENTRIES_PER_STAGE - 4], *keys[MAX_ENTRIES_PER_STAGE - 1 :]]
    assert_same(cache.load("scene", keys[0], dict))
    assert [path.name for path in tmp_path.glob("*.partial")] == ["busy.partial"]


def test_concurrent_processes_never_read_partial_files(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.store("matches", KEY, ARRAYS)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=store_often, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert_same(cache.load("matches", KEY, dict))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_the_key_depends_on_contents_names_order_and_settings_only(tmp_path: Path) -> None:
    for name, content in {"a.jpg": b"1", "b.jpg": b"2", "mask.png": b"3", "moved.jpg": b"1"}.items():
        (tmp_path / name).write_bytes(content)
    first = ImageFile(tmp_path / "a.jpg", "a.jpg", 10, 10)
    second = ImageFile(tmp_path / "b.jpg", "b.jpg", 10, 10)
    settings = {"size": 1, "ratio": 0.8}
    key = content_key([first, second], settings)

    assert key == content_key([first, second], dict(reversed(settings.items())))
    assert key == content_key([replace(first, path=tmp_path / "moved.jpg"), second], settings)

    changed = [
        content_key([second, first], settings),
        content_key([first], settings),
        content_key([replace(first, name="c.jpg"), second], settings),
        content_key([replace(first, mask_path=tmp_path / "mask.png"), second], settings),
        content_key([replace(first, mask_path=tmp_path / "mask.png", mask_inverted=True), second], settings),
        content_key([first, second], {**settings, "ratio": 0.7}),
    ]
    (tmp_path / "a.jpg").write_bytes(b"4")
    changed.append(content_key([first, second], settings))
    assert len({key, *changed}) == 1 + len(changed)
