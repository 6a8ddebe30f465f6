"""Decoding of videos: orientation, colors, timestamps, and damaged files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fixtures.videos import HEIGHT, WIDTH, pan, write_sound, write_video
from numpy.typing import NDArray

from nope_splat.io import video as videos
from nope_splat.io.tone_mapping import BT709_FROM_BT2020, HLG, PQ, hdr_to_srgb
from nope_splat.io.video import VideoError, open_video


def read(path: Path) -> list[NDArray[np.uint8]]:
    with open_video(path) as video:
        return [video.read_srgb(frame) for frame in video.frames() if frame is not None]


def corners(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Create an image with four different gray levels in its corners."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[: height // 2, width // 2 :] = 100
    image[height // 2 :, : width // 2] = 160
    image[height // 2 :, width // 2 :] = 220
    return image


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    """The display matrix rotates counterclockwise and then mirrors, so the stored pixels are the inverse."""
    upright = corners()
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, -rotation // 90)
    stored = np.ascontiguousarray(stored)
    path = write_video(tmp_path / "a.mp4", [stored] * 2, rotation=rotation, mirrored=mirrored)
    for image in read(path):
        assert image.shape == upright.shape
        assert np.abs(image.astype(int) - upright)[::8, ::8].mean() < 3


@pytest.mark.parametrize(("width", "matrix"), [(160, None), (1280, None), (160, 1), (160, 5), (1280, 5)])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colors_are_those_of_matrix_and_range(
    tmp_path: Path, width: int, matrix: int | None, color_range: int
) -> None:
    """Without a matrix in the file, small videos have that of BT.601, and large ones that of BT.709."""
    color = np.array([200, 60, 40], np.uint8)
    red, green, blue = color / 255
    kr, kb = (0.2126, 0.0722) if matrix == 1 or (matrix is None and width > 1000) else (0.299, 0.114)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    scale, offset, chroma_scale = (219, 16, 224) if color_range == 1 else (255, 0, 255)
    levels = [round(offset + scale * luma), *(round(128 + chroma_scale * value) for value in chroma)]
    height = width * 3 // 4
    path = tmp_path / "a.mp4"
    write_levels(path, levels, (width, height), color_range, matrix)
    np.testing.assert_allclose(read(path)[0][height // 2, width // 2], color, atol=3)


def write_levels(
    path: Path, levels: list[int], size: tuple[int, int], color_range: int, matrix: int | None
) -> None:
    """Write a video of one color, given as levels of Y, Cb and Cr."""
    planes = [
        np.full((size[1] // f, size[0] // f), level) for f, level in zip((1, 2, 2), levels, strict=True)
    ]
    flat = np.concatenate([plane.ravel() for plane in planes]).astype(np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.options = {"crf": "1"}
        stream.codec_context.color_range = color_range
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(flat.reshape(-1, size[0]), format="yuv420p")
            frame.color_range = color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_pixels_are_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [corners()] * 2, sample_aspect_ratio=Fraction(4, 3))
    assert read(path)[0].shape == (HEIGHT, round(WIDTH * 4 / 3), 3)


def test_files_that_are_no_video_are_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 1000)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    write_sound(tmp_path / "sound.mp4")
    path = write_video(tmp_path / "good.mp4", pan(range(4)))
    (tmp_path / "index.mp4").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reasons = {
        "text": "not a video",
        "empty": "empty",
        "list": "not a video",
        "sound": "no video stream",
        "missing": "No such file",
        "index": "incomplete",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=reason), open_video(tmp_path / f"{name}.mp4"):
            pass
    monkeypatch.setattr(videos, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(VideoError, match="more than"), open_video(path):
        pass


def test_hdr_video_is_tone_mapped(tmp_path: Path) -> None:
    """Reference white of PQ is the level .58; 10 bits, BT.2020."""
    levels = np.full((HEIGHT, WIDTH, 3), round(0.4 * 65535), np.uint16)
    path = write_video(
        tmp_path / "a.mp4",
        [levels] * 2,
        pixel_format="yuv420p10le",
        colorspace=9,
        color_primaries=9,
        color_trc=PQ,
        color_range=1,
    )
    expected = hdr_to_srgb(levels, 9, PQ)[0, 0]
    np.testing.assert_allclose(read(path)[0][HEIGHT // 2, WIDTH // 2], expected, atol=2)


@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.5807), (HLG, 0.75)])
def test_tone_mapping_keeps_dark_colors_and_compresses_highlights(transfer: int, white: float) -> None:
    """ITU-R BT.2408: reference white of 203 cd/m^2 has the level .58 in PQ and .75 in HLG."""
    grays = np.rint(65535 * np.array([0, 0.5 * white, white, 1])).astype(np.uint16)
    result = hdr_to_srgb(np.repeat(grays[None, :, None], 3, axis=2), 9, transfer)[0]
    assert (np.ptp(result.astype(int), axis=1) <= 1).all()  # gray stays gray
    black, dark, reference, peak = result[:, 0].tolist()
    assert black == 0
    assert 55 < dark < 140
    assert reference == pytest.approx(
        255 * (1.055 * (0.6 + 0.4 * (1 - np.exp(-1))) ** (1 / 2.4) - 0.055), abs=2
    )
    assert peak == pytest.approx(255, abs=2)


def test_colors_within_srgb_keep_their_hue() -> None:
    """A dim color of BT.709, encoded with the primaries of BT.2020, is restored."""
    linear = np.array([0.2, 0.1, 0.05])
    to_2020 = np.linalg.inv(BT709_FROM_BT2020)
    light = to_2020 @ linear * 203 / 10_000
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    signal = ((c1 + c2 * light**m1) / (1 + c3 * light**m1)) ** m2
    levels = np.rint(65535 * signal).astype(np.uint16).reshape(1, 1, 3)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(hdr_to_srgb(levels, 9, PQ)[0, 0], expected, atol=1)
