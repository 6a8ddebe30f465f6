"""Choose frames of a video by the motion of the image and by sharpness.

The motion is measured by dense optical flow from a reference frame. Once it exceeds `reference_motion`, the
current frame becomes the next reference. The sum of the motions between reference frames is the path of the
image up to a frame; shaking of a still camera does not add to it. The path is divided into steps of equal
length, and the sharpest frame of each step is chosen. So frames are evenly spaced in motion, not in time, and
blurred frames are chosen only if a whole step is blurred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from tyro.conf import Suppress

from nope_splat.utils.ranges import NOT_NEGATIVE, POSITIVE
from nope_splat.utils.typing import Array, Indices

NUM_BISECTIONS = 40
"""Number of bisections of the step length; the result is exact to rounding."""


@dataclass(frozen=True)
class FrameOptions:
    """Options of choosing frames of videos."""

    num_frames: Annotated[int | None, Ge(2)] = None
    """Maximum number of frames to use of each video; fewer are used if the camera hardly moves. By default,
    16 times the square root of the duration in seconds: 51 for 10 seconds, 124 for a minute."""
    frames_per_root_second: Annotated[Suppress[float], POSITIVE] = 16.0
    """Default number of frames of a video of one second. It grows with the square root of the duration."""
    min_motion: Annotated[Suppress[float], POSITIVE] = 0.002
    """Minimum motion of the image between two chosen frames, as a fraction of its longer side. With less
    motion, frames show nothing new."""
    reference_motion: Annotated[Suppress[float], POSITIVE] = 0.02
    """Motion of the image, as a fraction of its longer side, after which the motion is measured from another
    frame. Errors of optical flow and shaking of the camera are small compared with it."""
    max_motion: Annotated[Suppress[float], POSITIVE] = 0.25
    """Motion of the image between two chosen frames, as a fraction of its longer side, above which users are
    advised to use more frames, because each point is visible in too few of them."""
    border_penalty: Annotated[Suppress[float], NOT_NEGATIVE] = 0.1
    """By what fraction a frame at the border of a step must be sharper than one at the center to be
    preferred. Frames of equal sharpness are thus evenly spaced."""
    sharpness_size: Annotated[Suppress[int], Ge(32)] = 960
    """Maximum longer side, in pixels, of the images whose sharpness is measured. Blur of a few pixels is not
    visible in smaller images."""
    flow_size: Annotated[Suppress[int], Ge(32)] = 320
    """Maximum longer side, in pixels, of the images between which optical flow is computed."""

    def max_num_frames(self, seconds: float) -> int:
        """Return the maximum number of frames of a video.

        Args:
            seconds: Duration of the video.
        """
        if self.num_frames is not None:
            return self.num_frames
        return max(2, math.ceil(self.frames_per_root_second * math.sqrt(seconds)))


@dataclass(frozen=True)
class ChosenFrames:
    """Frames of a video that are used."""

    indices: Indices
    """Indices of the chosen frames in the video, ascending. (n,)."""
    step: float
    """Motion of the image between two chosen frames, as a fraction of its longer side."""


class FrameMeter:
    """Measure the motion and the sharpness of consecutive frames.

    Args:
        options: Options of choosing frames.
    """

    def __init__(self, options: FrameOptions) -> None:
        self._options = options
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._reference: NDArray[np.uint8] | None = None
        self._textured: NDArray[np.bool_] | None = None
        self._length = 0.0

    def measure(self, gray: NDArray[np.uint8]) -> tuple[float, float]:
        """Measure the next frame.

        Args:
            gray: Gray levels, scaled to `sharpness_size`. (H, W).

        Returns:
            Length of the path of the image up to this frame, as a multiple of its longer side; it may
            decrease by less than `reference_motion`. And sharpness: the standard deviation of the Laplacian.
        """
        sharpness = float(cv2.Laplacian(gray, cv2.CV_16S).std())
        height, width = scaled_shape(gray.shape, self._options.flow_size)
        small = np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        if self._reference is None:
            self._set_reference(small)
            return 0.0, sharpness
        flow = self._flow.calc(self._reference, small, np.zeros((height, width, 2), np.float32))
        motion = float(np.median(np.linalg.norm(flow[self._textured], axis=-1))) / max(height, width)
        length = self._length + motion
        if motion > self._options.reference_motion:
            self._length = length
            self._set_reference(small)
        return length, sharpness

    def _set_reference(self, small: NDArray[np.uint8]) -> None:
        """Set the reference frame, and find its half with more texture, where optical flow is reliable."""
        gradient = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        self._reference, self._textured = small, gradient >= np.median(gradient)


def choose_frames(path: Array, sharpness: Array, max_num_frames: int, options: FrameOptions) -> ChosenFrames:
    """Choose the sharpest frame in each of several steps of equal motion.

    Args:
        path: Length of the path of the image up to each frame, as a multiple of its longer side. (N,).
        sharpness: Sharpness of each frame; NaN for damaged frames, which are not chosen. (N,).
        max_num_frames: Maximum number of frames to choose.
        options: Options of choosing frames.

    Returns:
        The frames; none if all are damaged.
    """
    intact = np.flatnonzero(np.isfinite(sharpness))
    if not len(intact):
        return ChosenFrames(intact, 0.0)
    path = np.maximum.accumulate(path[intact])
    score = np.log(np.maximum(sharpness[intact], 1e-9))
    step = _step_length(path, max_num_frames, options.min_motion)
    starts = _step_starts(path, step)
    chosen = []
    for first, last in zip(starts, [*starts[1:], len(path)], strict=True):
        offset = 2 * (path[first:last] - path[first]) / step - 1  # -1 to 1
        chosen.append(first + int(np.argmax(score[first:last] - options.border_penalty * offset**2)))
    return ChosenFrames(intact[chosen], step)


def scaled_shape(shape: tuple[int, ...], longer_side: int) -> tuple[int, int]:
    """Return the shape of an image after it is reduced to a maximum length of its longer side.

    Args:
        shape: Height and width in pixels.
        longer_side: Maximum length of the longer side in pixels; smaller images are not enlarged.
    """
    scale = min(1.0, longer_side / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _step_length(path: Array, max_num_steps: int, shortest: float) -> float:
    """Find the shortest step with which the path has at most `max_num_steps` steps.

    Args:
        path: Length of the path up to each frame, ascending. (N,).
        max_num_steps: Maximum number of steps.
        shortest: Minimum length of a step.
    """
    if len(_step_starts(path, shortest)) <= max_num_steps:
        return shortest
    low, high = shortest, float(path[-1] - path[0]) + shortest
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        if len(_step_starts(path, middle)) <= max_num_steps:
            high = middle
        else:
            low = middle
    return high


def _step_starts(path: Array, step: float) -> list[int]:
    """Return the index of the first frame of each step; a step begins at the first frame after the last step.

    Steps begin at frames instead of multiples of the length, so that none is empty if frames are far apart.
    """
    starts = [0]
    while (start := int(np.searchsorted(path, path[starts[-1]] + step))) < len(path):
        starts.append(start)
    return starts
