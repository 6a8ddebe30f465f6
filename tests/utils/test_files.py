"""Files are replaced as a whole or not at all, and reach the disk before what they replace is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fixtures.disk import full_after

from nope_splat.utils.files import NotAFileError, find_os_error, open_regular, replacing


def write(folder: Path, content: bytes) -> None:
    with replacing(folder / "file", folder / "file.partial") as file:
        file.write(content)


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write(tmp_path, content)
        assert (tmp_path / "file").read_bytes() == content
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    write(tmp_path, b"before")

    def fail() -> None:
        with replacing(tmp_path / "file", tmp_path / "file.partial") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.parametrize("size", [0, 100, 9_999])
def test_a_full_disk_leaves_the_file_and_nothing_else(tmp_path: Path, size: int) -> None:
    """Small writes fail only when the buffer is flushed."""
    write(tmp_path, b"before")
    with full_after(size), pytest.raises(OSError, match="too large"):
        write(tmp_path, bytes(10_000))
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_content_and_name_reach_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, fsync, replace = [], os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        order.append(("fsync", Path(name).name, os.fstat(descriptor).st_size))
        fsync(descriptor)

    def traced_replace(source: Any, target: Any) -> None:
        order.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    write(tmp_path, b"content")
    assert order[0] == ("fsync", "file.partial", 7), "buffers are flushed before"
    assert order[1] == ("replace", "file")
    assert order[2][:2] == ("fsync", tmp_path.name)
    assert len(order) == 3


def test_the_first_disk_error_of_a_chain_is_found() -> None:
    def close_a_full_file() -> None:
        try:
            raise OSError(28, "full")
        finally:
            raise RuntimeError("unexpected position")

    with pytest.raises(RuntimeError) as caught:
        close_a_full_file()
    found = find_os_error(caught.value)
    assert found is not None
    assert found.errno == 28
    assert find_os_error(ValueError()) is None


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(NotAFileError):
            open_regular(tmp_path / name)
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
