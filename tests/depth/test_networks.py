"""Depth from networks: transformers' own loading code, offline, on tiny random networks made here.

- Each architecture loads from a folder, covers the image, and says what its values are.
- What was predicted is cached for each image and network: a second run needs no network.
- What is missing is named, with what to do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.depth_sources import save_tiny
from fixtures.errors import refused
from PIL import Image

from nope_splat.depth import DepthKind, DepthSettings, find_depths
from nope_splat.depth.predict import kind_of
from nope_splat.io.images import ImageFile


def images_in(folder: Path, count: int = 2) -> list[ImageFile]:
    """Images of random blocks, 200 x 150 pixels."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(count):
        pixels = np.kron(rng.integers(0, 256, (15, 20, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
        images.append(ImageFile(folder / f"{index}.png", f"{index}.png", 200, 150))
        Image.fromarray(pixels).save(images[-1].path)
    return images


@pytest.mark.parametrize("architecture", ["depth-anything", "dpt"])
def test_networks_load_and_cover_the_image(tmp_path: Path, architecture: str) -> None:
    images = images_in(tmp_path)
    model = save_tiny(architecture, tmp_path / "network")
    maps = find_depths(images, DepthSettings(model=model))
    assert len(maps) == 2
    for depth_map in maps:
        assert depth_map.kind == "disparity"
        assert depth_map.values.shape == (150, 200)
        assert depth_map.pixel_size == (1.0, 1.0)
        assert np.isfinite(depth_map.values).all()
        assert depth_map.values.min() >= 0
        assert depth_map.values.std() > 0
    assert not np.array_equal(maps[0].values, maps[1].values)
    (metric, _) = find_depths(images, DepthSettings(model=model, kind="metric"))
    assert metric.kind == "metric"


def test_predicted_depth_is_cached_by_image_and_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_in(tmp_path, 3)
    settings = DepthSettings(model=save_tiny("dpt", tmp_path / "network"))
    first = find_depths(images[:2], settings, tmp_path / "cache")
    used = []
    monkeypatch.setattr("nope_splat.depth.find.DepthNetwork", lambda settings: used.append(settings))
    for before, after in zip(first, find_depths(images[:2], settings, tmp_path / "cache"), strict=True):
        np.testing.assert_array_equal(before.values, after.values)
        assert (before.kind, before.pixel_size) == (after.kind, after.pixel_size)
    assert not used
    for changed, others in ((images, settings), (images[:2], DepthSettings(model="another"))):
        with pytest.raises(AttributeError):  # the stand-in cannot predict
            find_depths(changed, others, tmp_path / "cache")
    assert len(used) == 2


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_in(tmp_path)

    class Unreachable:
        @staticmethod
        def from_pretrained(model: str) -> None:
            raise OSError("no network")

    package = SimpleNamespace(AutoImageProcessor=Unreachable, AutoModelForDepthEstimation=Unreachable)
    monkeypatch.setitem(sys.modules, "transformers", package)
    with refused("missing-weights", "hf download some/net", "(no network)"):
        find_depths(images, DepthSettings(model="some/net"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with refused("missing-package", "pip install transformers"):
        find_depths(images, DepthSettings())


def test_a_folder_without_a_network_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    with refused("missing-weights", tmp_path / "empty", "depth.model"):
        find_depths(images_in(tmp_path), DepthSettings(model=str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "depth_anything", "depth_estimation_type": "relative"}, "disparity"),
        ({"model_type": "depth_anything", "depth_estimation_type": "metric"}, "metric"),
        ({"model_type": "dpt"}, "disparity"),
        ({"model_type": "zoedepth"}, "metric"),
    ],
)
def test_kinds_are_known_of_networks(config: dict[str, str], kind: DepthKind) -> None:
    assert kind_of(SimpleNamespace(**config), "a network") == kind
    with refused("missing-option", "a network (strange)", "depth.kind"):
        kind_of(SimpleNamespace(model_type="strange"), "a network")
