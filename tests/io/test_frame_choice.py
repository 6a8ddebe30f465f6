"""Choice of frames of videos by motion and sharpness."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fixtures.videos import WIDTH, Image, pan

from nope_splat.io.frame_choice import ChosenFrames, FrameMeter, FrameOptions, choose_frames, scaled_shape

OPTIONS = FrameOptions()


def measure(images: list[Image]) -> tuple[np.ndarray, np.ndarray]:
    """Measure the path and the sharpness of images."""
    meter = FrameMeter(OPTIONS)
    grays = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    path, sharpness = np.array([meter.measure(np.asarray(gray, np.uint8)) for gray in grays]).T
    return path, sharpness


def choose(images: list[Image], num_frames: int) -> ChosenFrames:
    return choose_frames(*measure(images), num_frames, OPTIONS)


def test_the_path_is_the_motion_of_the_image() -> None:
    offsets = np.concatenate([np.linspace(0, 40, 40), np.linspace(40, 100, 20)])
    path, _ = measure(pan(offsets.tolist()))
    assert path[-1] == pytest.approx(offsets[-1] / WIDTH, rel=0.1)
    np.testing.assert_allclose(path / path[-1], offsets / offsets[-1], atol=0.02)


def test_shaking_is_no_path() -> None:
    offsets = 0.2 * np.random.default_rng(0).random(60)
    path, _ = measure(pan(offsets.tolist()))
    assert path.max() < OPTIONS.min_motion


def test_still_stretches_are_thinned() -> None:
    """The camera stands for 30 frames, moves for 30, and stands again."""
    offsets = [*[0.0] * 30, *np.linspace(0, 80, 30).tolist(), *[80.0] * 30]
    chosen = choose(pan(offsets), 10).indices
    assert 8 <= len(chosen) <= 10
    assert np.count_nonzero(chosen < 29) <= 1
    assert np.count_nonzero(chosen > 61) <= 1
    assert len(choose(pan([0.0] * 10), 5).indices) == 1


def test_sharp_frames_are_preferred() -> None:
    """Four of five frames are blurred."""
    images = pan(np.linspace(0, 100, 50).tolist())
    blurred = [cv2.blur(image, (7, 1)).astype(np.uint8) for image in images]
    images = [image if index % 5 == 2 else blurred[index] for index, image in enumerate(images)]
    chosen = choose(images, 10).indices
    assert len(chosen) >= 9
    assert (chosen % 5 == 2).all()


def test_frames_of_equal_sharpness_are_evenly_spaced_in_motion() -> None:
    """The camera accelerates."""
    path = np.linspace(0, 1, 200) ** 2
    chosen = choose_frames(path, np.ones(200), 10, OPTIONS)
    assert len(chosen.indices) == 10
    np.testing.assert_allclose(np.diff(path[chosen.indices]), 0.1, atol=0.02)
    assert chosen.step == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("num_frames", [2, 3, 7, 50, 99, 100, 500])
def test_the_number_of_frames_is_met(num_frames: int) -> None:
    path = np.cumsum(0.01 + np.random.default_rng(0).random(100))
    assert len(choose_frames(path, np.ones(100), num_frames, OPTIONS).indices) == min(num_frames, 100)


def test_damaged_frames_are_not_chosen() -> None:
    sharpness = np.ones(20)
    sharpness[3:17] = np.nan
    chosen = choose_frames(np.linspace(0, 1, 20), sharpness, 10, OPTIONS).indices
    assert np.isfinite(sharpness[chosen]).all()
    assert not len(choose_frames(np.zeros(3), np.full(3, np.nan), 10, OPTIONS).indices)


def test_the_default_number_grows_with_the_root_of_the_duration() -> None:
    assert [OPTIONS.max_num_frames(seconds) for seconds in (0, 1, 10, 60, 240)] == [2, 16, 51, 124, 248]
    assert FrameOptions(num_frames=7).max_num_frames(60) == 7


def test_images_are_not_enlarged() -> None:
    assert scaled_shape((1920, 1080), 960) == (960, 540)
    assert scaled_shape((100, 50), 960) == (100, 50)
