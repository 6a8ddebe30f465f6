"""Masks that hide the subject are recognized by the keypoints that they hide."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nope_splat.io.images import find_images, read_image
from nope_splat.matching.matching import extract_keypoints
from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.sift import sift_keypoints

SIZE = (320, 240)
WARNING = "seem to be inverted"


@pytest.fixture
def scene(valley: Path, tmp_path: Path) -> Path:
    """Copy three photos of the demo scene."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for path in sorted((valley / "images").iterdir())[:3]:
        Image.open(path).save(tmp_path / "images" / f"{path.stem}.png")
    return tmp_path


def disk(radius: int) -> np.ndarray:
    """Return a mask that uses a disk in the middle."""
    return cv2.circle(np.zeros(SIZE[::-1], np.uint8), (160, 130), radius, 255, -1)


def set_masks(scene: Path, mask: np.ndarray) -> None:
    for path in (scene / "images").iterdir():
        Image.fromarray(mask).save(scene / "masks" / path.name)


def put_before_a_blank_wall(scene: Path, shown: np.ndarray) -> None:
    for path in (scene / "images").iterdir():
        photo = np.array(Image.open(path))
        photo[shown == 0] = (190, 200, 180)
        Image.fromarray(photo).save(path)


def warned(scene: Path, caplog: pytest.LogCaptureFixture, invert: bool = False) -> bool:
    caplog.clear()
    extract_keypoints(find_images(scene, invert).images, MatchingSettings())
    return WARNING in caplog.text


@pytest.mark.parametrize("radius", [20, 40, 70])
def test_masks_of_an_object_in_textured_surroundings(
    scene: Path, radius: int, caplog: pytest.LogCaptureFixture
) -> None:
    set_masks(scene, disk(radius))
    assert not warned(scene, caplog)
    assert not warned(scene, caplog, invert=True), "the surroundings have enough keypoints"


def test_inverted_masks_of_an_object_before_a_blank_wall(
    scene: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = disk(70)
    put_before_a_blank_wall(scene, mask)
    set_masks(scene, mask)
    assert not warned(scene, caplog)
    assert warned(scene, caplog, invert=True)
    assert "remove the option" in caplog.text
    set_masks(scene, 255 - mask)
    assert warned(scene, caplog)
    assert "set the option" in caplog.text
    assert not warned(scene, caplog, invert=True)


def test_a_mask_does_not_change_the_keypoints_that_it_leaves(scene: Path) -> None:
    """They are those of OpenCV's detection with a mask."""
    set_masks(scene, disk(70))
    image = find_images(scene).images[0]
    settings = MatchingSettings()
    features = sift_keypoints(image, settings)
    gray = cv2.cvtColor(read_image(image), cv2.COLOR_RGB2GRAY)
    contrast = settings.sift.contrast_threshold
    detector = cv2.SIFT.create(contrastThreshold=contrast, enable_precise_upscale=True)
    expected = np.array([detection.pt for detection in detector.detect(gray, disk(70))]) + 0.5
    assert np.array_equal(np.sort(features.xy, axis=0), np.sort(expected, axis=0))
    assert features.mask_effect is not None
    assert features.mask_effect.num_used == len(expected)
    assert features.mask_effect.num_used + features.mask_effect.num_hidden == len(detector.detect(gray, None))
