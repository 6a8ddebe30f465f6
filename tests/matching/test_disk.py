"""DISK and LightGlue, offline: kornia's loading code with networks built by the tests.

DISK has random weights: as a convolutional network it still finds the same keypoints in a shifted image. The
layers of LightGlue are zeroed, so that it matches equal descriptors.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures.errors import refused
from PIL import Image

from nope_splat.io.images import ImageFile
from nope_splat.matching import MatchingSettings, choose_pairs, extract_keypoints, match_pairs

SETTINGS = MatchingSettings(matcher="disk", max_keypoints=200)
SHIFT = (32, 16)


def shifted_images(folder: Path, scale: int) -> list[ImageFile]:
    """Save two images of one texture, shifted by `SHIFT` pixels at the feature size."""
    rng = np.random.default_rng(0)
    texture = np.kron(
        rng.integers(0, 256, (60, 70, 3), np.uint8), np.ones((4 * scale, 4 * scale, 1), np.uint8)
    )
    images = []
    for index, (x, y) in enumerate(((SHIFT[0], SHIFT[1]), (0, 0))):
        pixels = texture[y * scale : (y + 160) * scale, x * scale : (x + 192) * scale]
        images.append(ImageFile(folder / f"{index}.png", f"{index}.png", 192 * scale, 160 * scale))
        Image.fromarray(pixels).save(images[-1].path)
    return images


@pytest.mark.parametrize("scale", [1, 3])
def test_matches_have_the_shift_between_the_images(
    disk_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: int
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(disk_weights))
    images = shifted_images(tmp_path, scale)
    settings = replace(SETTINGS, max_feature_size=192)
    keypoints = extract_keypoints(images, settings)
    for features, image in zip(keypoints, images, strict=True):
        assert features.pixel_size == scale
        assert features.image_size == (image.width, image.height)
        assert 50 < len(features.xy) <= 200
        assert ((features.xy > 0) & (features.xy < (image.width, image.height))).all()
        np.testing.assert_allclose(features.xy / scale % 1, 0.5, atol=1e-9)
    (pair,) = match_pairs(keypoints, choose_pairs(keypoints, settings), settings)
    displacement = keypoints[1].xy[pair.indices[:, 1]] - keypoints[0].xy[pair.indices[:, 0]]
    assert len(pair.indices) > 30
    # Near the border, padding affects some descriptors more than the image content does.
    assert (np.abs(displacement - np.array(SHIFT) * scale) < 0.5 * scale).all(1).mean() > 0.7


def test_masked_pixels_have_no_keypoints(
    disk_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(disk_weights))
    image = shifted_images(tmp_path, 1)[0]
    mask = np.zeros((image.height, image.width), np.uint8)
    mask[:, 96:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (masked,) = extract_keypoints([replace(image, mask_path=tmp_path / "mask.png")], SETTINGS)
    assert len(masked.xy) == SETTINGS.max_keypoints, "masked keypoints do not count"
    assert masked.xy[:, 0].min() >= 96


def test_missing_package_or_weights_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = shifted_images(tmp_path, 1)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "kornia.feature", None)
        with refused("missing-package", "pip install kornia"):
            extract_keypoints(images, SETTINGS)

    class Unreachable:
        @staticmethod
        def from_pretrained(checkpoint: str) -> None:
            raise OSError("no network")

    monkeypatch.setitem(sys.modules, "kornia.feature", SimpleNamespace(DISK=Unreachable))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/hub")
    with refused("missing-weights", "/hub/checkpoints", "(no network)"):
        extract_keypoints(images, SETTINGS)
