"""Depth maps from files.

- Both formats are read, at any size. Zero, infinity and NaN are unknown. Large maps are downsampled without
  mixing.
- Missing, damaged and unsuitable files, and a missing kind, raise an error.
- The cache key depends on the contents of the files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image

from nope_splat.depth import DepthSettings, depth_maps_key, load_depth_maps
from nope_splat.io.images import ImageFile

IMAGE = ImageFile(Path("a/b.jpg"), "a/b.jpg", 640, 480)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    return tmp_path


def test_npz_and_png_files_are_read(maps: Path) -> None:
    depth = np.arange(1, 13, dtype=np.uint16).reshape(3, 4) * 1000
    depth[1, 1] = 0
    Image.fromarray(depth).save(maps / "a" / "b.png")
    (png,) = load_depth_maps([IMAGE], DepthSettings(maps=maps, kind="disparity"))
    values = depth.astype(np.float64)
    values[0, 0] = np.inf
    np.savez(maps / "a" / "b.npz", depth=values[None], confidence=np.ones((3, 4)))
    (npz,) = load_depth_maps([IMAGE], DepthSettings(maps=maps, kind="metric"))
    assert (png.kind, npz.kind) == ("disparity", "metric")
    assert png.pixel_size == npz.pixel_size == (160.0, 160.0)
    np.testing.assert_array_equal(np.isnan(png.values), depth == 0)
    np.testing.assert_array_equal(np.isnan(npz.values), (depth == 0) | np.isinf(values))
    assert png.values[2, 3] == npz.values[2, 3] == 12000
    assert npz.confidence is not None
    assert npz.confidence.shape == (3, 4)


def test_large_maps_are_downsampled(maps: Path) -> None:
    depth = np.where(np.arange(3200) < 1300, 1.0, 5.0) * np.ones((2400, 1))
    np.savez(maps / "a" / "b.npz", depth=depth)
    (downsampled,) = load_depth_maps([IMAGE], DepthSettings(maps=maps, kind="affine"))
    assert downsampled.values.shape == (768, 1024)
    assert set(np.unique(downsampled.values)) == {1.0, 5.0}
    edge = downsampled.pixel_centers()[0, np.argmax(downsampled.values[0] == 5.0), 0]
    assert edge == pytest.approx(1300 * 640 / 3200, abs=1.0)


def test_unsuitable_files_raise_an_error(maps: Path) -> None:
    def read(kind: str | None = "metric") -> None:
        load_depth_maps([IMAGE], DepthSettings(maps=maps, kind=kind))  # pyright: ignore[reportArgumentType]

    with refused("missing-option", "depth.kind"):
        read(None)
    with refused("missing-file", "a/b.jpg", "a/b.npz"):
        read()
    file = maps / "a" / "b.png"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(file)
    with refused("unreadable-file", file, "16-bit"):
        read()
    file = maps / "a" / "b.npz"
    file.write_bytes(b"PK\x03\x04 damaged")
    with refused("unreadable-file", file):
        read()
    np.savez(file, z=np.ones((3, 4)))
    with refused("unreadable-file", file, "depth", "z"):
        read()
    np.savez(file, depth=np.array([None, "a"], dtype=object), allow_pickle=True)
    with refused("unreadable-file", file):
        read()
    np.savez(file, depth=np.zeros((0, 4)))
    with refused("unreadable-file", file, "(0, 4)"):
        read()
    np.savez(file, depth=np.ones((4, 3)))
    with refused("wrong-size", file, "3 x 4", "a/b.jpg", "640 x 480"):
        read()


def test_the_cache_key_depends_on_the_file_contents(maps: Path) -> None:
    settings = DepthSettings(maps=maps, kind="metric")
    keys = []
    for value in (1.0, 1.0, 2.0):
        np.savez(maps / "a" / "b.npz", depth=np.full((3, 4), value))
        keys.append(depth_maps_key([IMAGE], settings))
    assert keys[0] == keys[1] != keys[2]
