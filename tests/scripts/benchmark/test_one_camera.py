"""Test that benchmarks reject images of several cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.errors import refused
from PIL import Image

from scripts.benchmark import cameras, our_cameras, run


@pytest.mark.parametrize(
    "measure",
    [
        lambda data, out: run.main(run.Settings((data,), out)),
        lambda data, out: cameras.main(cameras.Settings((data,))),
        lambda data, out: our_cameras.find_cameras(data, (), out),
    ],
    ids=["run", "cameras", "our_cameras"],
)
def test_images_of_several_cameras_raise(measure: Callable[[Path, Path], None], tmp_path: Path) -> None:
    data = tmp_path / "images"
    data.mkdir()
    for number, width in enumerate((64, 64, 80)):
        Image.new("RGB", (width, 48)).save(data / f"{number}.png")
    with refused("unsupported-scene", data):
        measure(data, tmp_path / "out")
