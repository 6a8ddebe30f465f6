"""Read videos: open files, decode frames, and convert frames to upright images in sRGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from nope_splat.io.color import CODED_HDR
from nope_splat.io.decoding import MAX_PIXELS, read_pixels
from nope_splat.io.tone_mapping import hdr_to_srgb
from nope_splat.utils.files import NotAFileError, open_regular

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv"}
    | {".mts", ".m2ts", ".mpg", ".mpeg", ".ogv", ".flv"}
)
"""File extensions, in lower case, of files that are read as videos. The content determines the format."""
FORMATS = "mov,matroska,avi,asf,mpegts,mpeg,ogg,flv"
"""FFmpeg's names of the accepted formats. Others are excluded because FFmpeg would, for example, open the
addresses in a playlist."""
BUFFER_SIZE = 1 << 20
"""Number of bytes that are read from a file at a time."""

DEFAULT_RATE = 30
"""Frames per second of a video that does not state them."""
BT709, BT601, UNSPECIFIED = 1, 5, 2
"""Codes in ITU-T H.273 of the conversion from YCbCr to RGB. The code `UNSPECIFIED` has the same meaning for
transfer functions."""
SD_SIZE = (1279, 576)
"""Largest width and height, in pixels, of videos in standard definition. If a file does not state the
conversion from YCbCr to RGB, BT.601 is assumed for videos up to this size, and BT.709 for larger videos, as
video players do."""

INTERPOLATION = 0x4 | 0x2000 | 0x40000
"""FFmpeg's flags SWS_BICUBIC, SWS_FULL_CHR_H_INT and SWS_ACCURATE_RND, as numbers because PyAV 17 has no
names for them. Without SWS_FULL_CHR_H_INT, chroma would be repeated instead of interpolated."""
MAX_PIXEL_ASPECT = 4
"""Maximum ratio of the longer to the shorter side of a pixel; files with a larger ratio count as damaged, and
their pixels as square."""


class VideoError(ValueError):
    """Error for a file that cannot be used as a video; the message is part of a sentence for the user."""


@dataclass(frozen=True)
class Video:
    """An opened video file."""

    container: InputContainer
    """The open file."""
    stream: VideoStream
    """The video stream of the file."""

    @property
    def seconds(self) -> float | None:
        """Duration in seconds according to the file; None if unknown."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None if self.container.duration is None else self.container.duration / av.time_base

    @property
    def num_frames(self) -> int | None:
        """Number of frames according to the file, possibly estimated from its duration; None if unknown."""
        if self.stream.frames:
            return self.stream.frames
        rate = self.stream.average_rate
        return None if self.seconds is None or not rate else max(1, round(self.seconds * float(rate)))

    def frames(self) -> Iterator[av.VideoFrame | None]:
        """Decode the video from its current position.

        Yields:
            The frames in the order of their display; None for each damaged part that cannot be decoded.
        """
        packets = self.container.demux(self.stream)
        is_end = False
        while not is_end:
            try:
                packet = next(packets, None)
            except FFmpegError:  # the rest of the file is missing
                packet = None
            is_empty = packet is None or not packet.size
            is_end = is_empty and (packet is None or packet.dts is None)
            if is_empty and not is_end:  # a repeated frame, which the decoder would take for the end
                continue
            try:
                yield from self.stream.codec_context.decode(packet)
            except FFmpegError:
                yield None

    def end_time(self, frame: av.VideoFrame, index: int) -> float:
        """Return the time at which the display of a frame ends, in seconds from the start of the video.

        Args:
            frame: A frame of this video.
            index: Index of the frame in the video. If the file has no timestamps, the time is estimated from
                this index.
        """
        rate = float(self.stream.average_rate or DEFAULT_RATE)
        if frame.pts is None or frame.time_base is None:
            return (index + 1) / rate
        ticks = frame.pts - (self.stream.start_time or 0)
        duration = float(frame.duration * frame.time_base) if frame.duration else 1 / rate
        return float(ticks * frame.time_base) + duration

    def read_srgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Convert a frame to an upright image with square pixels in sRGB.

        HDR colors (PQ, HLG) are tone-mapped (see `nope_splat.io.tone_mapping`).

        Args:
            frame: A frame of this video.

        Returns:
            Colors, 0 to 255. (H, W, 3).
        """
        context = self.stream.codec_context
        primaries, transfer = int(context.color_primaries), int(context.color_trc)
        if transfer in CODED_HDR:
            return _turn_upright(hdr_to_srgb(self._rgb(frame, "rgb48le"), primaries, transfer), frame)
        image = Image.fromarray(_turn_upright(self._rgb(frame, "rgb24"), frame))
        # As in video players, all transfer functions except those of HDR count as that of sRGB.
        image.info["nclx_profile"] = {"color_primaries": primaries, "transfer_characteristics": UNSPECIFIED}
        return read_pixels(image)

    def _rgb(self, frame: av.VideoFrame, pixel_format: str) -> NDArray[Any]:
        """Convert a frame from YCbCr to RGB with square pixels, without changing primaries and transfer."""
        matrix = int(frame.colorspace)
        if matrix in (0, UNSPECIFIED):  # 0 is RGB, for which the matrix has no effect
            is_small = frame.width <= SD_SIZE[0] and frame.height <= SD_SIZE[1]
            matrix = BT601 if is_small else BT709
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            aspect = Fraction(1)
        return frame.reformat(
            width=round(frame.width * max(aspect, Fraction(1))),
            height=round(frame.height / min(aspect, Fraction(1))),
            format=pixel_format,
            src_colorspace=matrix,
            interpolation=INTERPOLATION,
        ).to_ndarray()


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video file within a `with` block.

    Args:
        path: The file.

    Yields:
        The video.

    Raises:
        VideoError: If the file cannot be read, is no video, has no video stream, or is too large.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path))
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
            container = stack.enter_context(av.open(file, options=options, buffer_size=BUFFER_SIZE))
        except (FFmpegError, OSError, ValueError) as error:
            raise VideoError(_reason(path, error)) from error
        yield Video(container, _video_stream(container))


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the video stream of a file; raise `VideoError` if there is none that can be decoded."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError("it has no video stream")
    context = stream.codec_context
    if context is None or context.pix_fmt is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise VideoError("its codec is unknown, or it is damaged; convert it to H.264")
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(f"its frames have more than {MAX_PIXELS:,} pixels")
    stream.thread_type = "AUTO"
    return stream


def _reason(path: Path, error: Exception) -> str:
    """Describe for the user why a video cannot be opened, as part of a sentence."""
    if path.is_file() and path.stat().st_size == 0:
        return "an empty file"
    if isinstance(error, NotAFileError):
        return "not a file"
    if isinstance(error, FFmpegError) or not isinstance(error, OSError):
        return "not a video, or damaged or incomplete"
    return f"cannot be read ({error.strerror})"


def _turn_upright(image: NDArray[np.uint8], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Rotate and mirror the pixels of a frame by its display matrix, rounded to quarter turns.

    The matrix [a b u; c d v; x y w] (fixed-point numbers) takes pixel coordinates (x, y), with y down, to
    (a x + c y, b x + d y). A rotation by t counterclockwise has a = d = cos t and c = -b = sin t.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].astype(np.float64)
    is_mirrored = a * d - b * c < 0
    if is_mirrored:  # a rotation, and then a change of the sign of x
        a, c = -a, -c
    image = np.rot90(image, round(np.arctan2(c, a) / (np.pi / 2)))
    return np.ascontiguousarray(image[:, ::-1] if is_mirrored else image)
