"""Depth networks, offline: the loading code of transformers with tiny random networks built by the tests.

- Each architecture loads from a folder and predicts a map of the whole image, of the right kind.
- Predictions are cached by image and network: a second run does not load the network.
- A missing package or network raises an error that explains what to do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.depth_sources import save_tiny
from PIL import Image

from nope_splat.depth import DepthKind, DepthSettings, load_depth_maps
from nope_splat.depth.predict import network_depth_kind
from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile


def images_in(folder: Path, count: int = 2) -> list[ImageFile]:
    """Save images of random blocks, 200 x 150 pixels."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(count):
        pixels = np.kron(rng.integers(0, 256, (15, 20, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
        images.append(ImageFile(folder / f"{index}.png", f"{index}.png", 200, 150))
        Image.fromarray(pixels).save(images[-1].path)
    return images


@pytest.mark.parametrize("architecture", ["depth-anything", "dpt"])
def test_networks_predict_maps_of_the_whole_image(tmp_path: Path, architecture: str) -> None:
    images = images_in(tmp_path)
    model = save_tiny(architecture, tmp_path / "network")
    maps = load_depth_maps(images, DepthSettings(model=model))
    assert len(maps) == 2
    for depth_map in maps:
        assert depth_map.kind == "disparity"
        assert depth_map.values.shape == (150, 200)
        assert depth_map.pixel_size == (1.0, 1.0)
        assert np.isfinite(depth_map.values).all()
        assert depth_map.values.min() >= 0
        assert depth_map.values.std() > 0
    assert not np.array_equal(maps[0].values, maps[1].values)
    (metric, _) = load_depth_maps(images, DepthSettings(model=model, kind="metric"))
    assert metric.kind == "metric"


def test_predicted_depth_is_cached_by_image_and_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_in(tmp_path, 3)
    settings = DepthSettings(model=save_tiny("dpt", tmp_path / "network"))
    first = load_depth_maps(images[:2], settings, tmp_path / "cache")
    loaded = []
    monkeypatch.setattr("nope_splat.depth.load.DepthNetwork", lambda settings: loaded.append(settings))
    for before, after in zip(first, load_depth_maps(images[:2], settings, tmp_path / "cache"), strict=True):
        np.testing.assert_array_equal(before.values, after.values)
        assert (before.kind, before.pixel_size) == (after.kind, after.pixel_size)
    assert not loaded
    for new_images, new_settings in ((images, settings), (images[:2], DepthSettings(model="another"))):
        with pytest.raises(AttributeError):  # the fake network cannot predict
            load_depth_maps(new_images, new_settings, tmp_path / "cache")
    assert len(loaded) == 2


def test_missing_package_or_weights_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_in(tmp_path)

    class Unreachable:
        @staticmethod
        def from_pretrained(model: str) -> None:
            raise OSError("no network")

    package = SimpleNamespace(AutoImageProcessor=Unreachable, AutoModelForDepthEstimation=Unreachable)
    monkeypatch.setitem(sys.modules, "transformers", package)
    with pytest.raises(
        NopeSplatError, match=r"run `hf download some/net .*depth\.model to FOLDER \(no network\)"
    ):
        load_depth_maps(images, DepthSettings(model="some/net"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NopeSplatError, match="pip install transformers"):
        load_depth_maps(images, DepthSettings())


def test_a_folder_without_a_network_raises_an_error(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        NopeSplatError, match=r"empty is not on this machine .*`hf download .*depth\.model to FOLDER"
    ):
        load_depth_maps(images_in(tmp_path), DepthSettings(model=str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "depth_anything", "depth_estimation_type": "relative"}, "disparity"),
        ({"model_type": "depth_anything", "depth_estimation_type": "metric"}, "metric"),
        ({"model_type": "dpt"}, "disparity"),
        ({"model_type": "zoedepth"}, "metric"),
    ],
)
def test_the_kind_is_inferred_from_the_network_configuration(config: dict[str, str], kind: DepthKind) -> None:
    assert network_depth_kind(SimpleNamespace(**config), "a network") == kind
    with pytest.raises(NopeSplatError, match=r"a network \(strange\).*depth\.kind"):
        network_depth_kind(SimpleNamespace(model_type="strange"), "a network")
