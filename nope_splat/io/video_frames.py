"""Frames of videos as image files in the cache: choose them, write them once, and log what users should know.

A video is decoded twice: first to measure motion and sharpness of all frames, then to write the chosen ones.
So the memory does not depend on the length of the video. Frames are written as JPEG files of high quality
without chroma subsampling: their PSNR of about 50 dB is far above that of compressed videos, other tools read
them without conversion, and they take less than half of the space of PNG files.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation
from PIL import Image

from nope_splat.io.frame_choice import FrameMeter, FrameOptions, choose_frames, scaled_shape
from nope_splat.io.video import Video, VideoError, open_video
from nope_splat.utils.cache import MAX_ENTRIES_PER_STAGE, Cache
from nope_splat.utils.files import replacing, sha256
from nope_splat.utils.progress import progress_bar

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Version number in the cache keys of frames. Increment it when a code change alters the chosen frames or
their pixels."""
CACHE_STAGE = "frames"
"""Name under which the cache stores frames."""
RECORD = "frames.json"
"""Name of the JSON file with the content of `VideoFrames` in each folder of frames."""
QUALITY = 98
"""JPEG quality of the frames."""
MIN_READABLE_SHARE = 0.9
"""A video is incomplete if less than this share of the duration that the file states can be read."""


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video that are used, and what is known about the video."""

    files: tuple[str, ...]
    """Names of the image files in the folder of the frames, such as `000123.jpg` for frame 123."""
    total: int
    """Number of readable frames of the video."""
    num_damaged: int
    """Number of damaged frames and of frames of another size than the first; they are not used."""
    seconds: float
    """Duration of the readable part."""
    stated_seconds: float | None
    """Duration that the file states; None if unknown."""
    step: float
    """Motion of the image between two frames, as a fraction of its longer side."""
    max_num_frames: int
    """Maximum number of frames according to the options."""


def extract_frames(
    path: Path, name: str, options: FrameOptions, cache: Cache, num_videos: int = 1
) -> tuple[Path, VideoFrames]:
    """Choose frames of a video, and write them to the cache unless they are stored there.

    Args:
        path: The video file.
        name: Name of the video, for messages.
        options: Options of choosing frames.
        cache: Cache in which the frames are stored; the key depends on the content of the file and `options`.
        num_videos: Number of videos whose frames are in use; at least as many folders are kept in the cache.

    Returns:
        Folder of the frames, and their description.

    Raises:
        VideoError: If the file cannot be used as a video.
        NopeSplatError: If the cache is not writable.
    """
    try:
        content = {"format": FORMAT_VERSION, "video": sha256(path), "options": asdict(options)}
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from error
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    num_kept = max(MAX_ENTRIES_PER_STAGE, num_videos)
    folder = cache.subfolder(CACHE_STAGE, key, partial(_write_frames, path, name, options), num_kept)
    record = json.loads((folder / RECORD).read_bytes())
    frames = VideoFrames(**{**record, "files": tuple(record["files"])})
    _log_frames(name, frames, options)
    return folder, frames


def estimate_num_frames(path: Path, options: FrameOptions) -> int:
    """Estimate the number of frames that `extract_frames` chooses, without decoding the video.

    Args:
        path: The video file; the result is 0 if it is no video.
        options: Options of choosing frames.
    """
    try:
        with open_video(path) as video:
            most = options.max_num_frames(video.seconds or 0.0)
            return min(most, video.num_frames or most)
    except VideoError:
        return 0


def _write_frames(path: Path, name: str, options: FrameOptions, folder: Path) -> None:
    """Choose frames of a video, and write them to an empty folder with their description."""
    try:
        with open_video(path) as video:
            frames = _measured(video, name, options)
        indices = [int(Path(file).stem) for file in frames.files]
        with open_video(path) as video:
            for index, image in progress_bar(_images(video, indices), f"Writing {name}", len(indices)):
                file = folder / frames.files[index]
                with replacing(file, file.with_suffix(".partial")) as opened:
                    image.save(opened, "JPEG", quality=QUALITY, subsampling=0)
    except FFmpegError as error:  # an OSError, which is not about the cache
        raise VideoError("its frames cannot be converted; convert it to H.264") from error
    with replacing(folder / RECORD, folder / f"{RECORD}.partial") as opened:
        opened.write(json.dumps(asdict(frames), indent=1).encode())


def _measured(video: Video, name: str, options: FrameOptions) -> VideoFrames:
    """Decode a video, and choose frames; raise `VideoError` if none is usable."""
    meter, measurements, num_damaged, end = FrameMeter(options), [], 0, 0.0
    shape: tuple[int, int] | None = None
    for frame in progress_bar(video.frames(), f"Reading {name}", video.num_frames):
        if frame is None:
            num_damaged += 1
            continue
        length, sharpness = measurements[-1][0] if measurements else 0.0, np.nan
        shape = shape or (frame.height, frame.width)
        if frame.is_corrupt or (frame.height, frame.width) != shape:
            num_damaged += 1
        else:
            height, width = scaled_shape(shape, options.sharpness_size)
            scaled = frame.reformat(width, height, "gray", interpolation=Interpolation.AREA)
            length, sharpness = meter.measure(np.ascontiguousarray(scaled.to_ndarray(), np.uint8))
        measurements.append((length, sharpness))
        end = max(end, video.end_time(frame, len(measurements) - 1))
    path, sharpness = np.array(measurements).reshape(-1, 2).T
    most = options.max_num_frames(end)
    chosen = choose_frames(path, sharpness, most, options)
    if not len(chosen.indices):
        raise VideoError("none of its frames can be decoded; convert it to H.264")
    files = tuple(f"{index:06d}.jpg" for index in chosen.indices.tolist())
    return VideoFrames(files, len(path), num_damaged, end, video.seconds, chosen.step, most)


def _images(video: Video, indices: list[int]) -> Iterator[tuple[int, Image.Image]]:
    """Decode the frames with given ascending indices; yield the position in `indices` and the image."""
    position = 0
    for index, frame in enumerate(frame for frame in video.frames() if frame is not None):
        if index == indices[position]:
            yield position, Image.fromarray(video.read_srgb(frame))
            position += 1
            if position == len(indices):
                return


def _log_frames(name: str, frames: VideoFrames, options: FrameOptions) -> None:
    """Log which frames of a video are used, and what the user should know about them."""
    logger.info(f"{len(frames.files)} of {frames.total} frames of {name} are used.")
    stated = frames.stated_seconds
    if stated is not None and frames.seconds < MIN_READABLE_SHARE * stated:
        logger.warning(
            f"Only {frames.seconds:.1f} of {stated:.1f} seconds of the video {name} can be read. If this is"
            " too little, copy or export it again."
        )
    if frames.num_damaged:
        logger.warning(f"{frames.num_damaged} damaged frames of the video {name} are not used.")
    if len(frames.files) == 1:
        logger.warning(
            f"Only one frame of the video {name} is used, because the camera does not move or the video is"
            " too short."
        )
    elif frames.step > options.max_motion and len(frames.files) < frames.total:
        needed = min(frames.total, round(len(frames.files) * frames.step / options.max_motion) + 1)
        logger.warning(
            f"The image of the video {name} moves by {100 * frames.step:.0f} % of its size between the frames"
            f" that are used. Use more of them: num-frames {needed}."
        )
