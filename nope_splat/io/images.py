"""Image folders: find, check and read photos, frames of videos, and masks, rotated upright."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.color import color_problem
from nope_splat.io.decoding import failure_reason, open_image, read_alpha, read_pixels, turn_upright
from nope_splat.io.exif import ExifData, read_exif
from nope_splat.io.frame_choice import FrameOptions
from nope_splat.io.masks import require_mask_fits, scale_mask, turn_mask_upright, used_pixels
from nope_splat.io.photo_files import PhotoFiles, image_root, list_photos, natural_sort_key
from nope_splat.io.photo_notices import FileFindings, log_findings, log_listing
from nope_splat.io.video import VIDEO_SUFFIXES, VideoError
from nope_splat.io.video_frames import estimate_num_frames, extract_frames
from nope_splat.utils.cache import Cache, temporary_cache
from nope_splat.utils.progress import progress_bar

logger = logging.getLogger(__name__)

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Pattern of control characters and surrogates (bytes that are not UTF-8). Images with such characters in
their names are skipped, because other tools cannot write these names."""
UNPRINTABLE_REASON = "its name contains control characters or bytes that are not UTF-8; rename it"

MAX_READING_THREADS = min(8, os.cpu_count() or 1)
"""Number of threads that read and check images. The number is limited because the C library may keep 64 MB of
memory per thread after large images."""
MIN_SIDE = 32
"""Minimum length of the shorter image side in pixels; smaller images have no keypoints and are skipped."""


@dataclass(frozen=True)
class ImageFile:
    """Readable image file with its name, size and mask."""

    path: Path
    """Path of the image file."""
    name: str
    """Path relative to the image folder, with forward slashes; identifies the image in all stages. The name
    of a frame is the name of its video and the index of the frame, such as `clip.mp4/000123.jpg`."""
    width: int
    """Width in pixels at full resolution, after EXIF orientation."""
    height: int
    """Height in pixels at full resolution, after EXIF orientation."""
    mask_path: Path | None = None
    """Path of the mask file, whose black pixels (or white, see `mask_inverted`) are ignored; None without."""
    ignored: NDArray[np.bool_] | None = field(default=None, compare=False)
    """Regular grid of cells over the image (rows, columns): True for cells whose pixels are ignored, in
    addition to those that the mask file excludes; None if no cell is ignored."""
    exif: ExifData = field(default=ExifData(), compare=False)
    """EXIF data of the file; defaults for values that are missing."""
    mask_inverted: bool = False
    """Whether the white pixels of the mask file are ignored instead of the black pixels."""
    video: str | None = None
    """Name of the video of which the image is a frame; None for photos."""


@dataclass(frozen=True)
class ImageFolder:
    """Usable and skipped images of a folder."""

    root: Path
    """Folder to which image names are relative, or the video if there is no folder."""
    images: tuple[ImageFile, ...]
    """Usable images, in natural order of their names (`photo9` before `photo10`)."""
    skipped: dict[str, str]
    """Why image files, videos or subfolders cannot be used: reason by name."""


class _Candidate(NamedTuple):
    """File that may be an image; the fields are those of `ImageFile`."""

    path: Path
    mask_path: Path | None
    video: str | None = None


def find_images(
    data: Path | str,
    invert_masks: bool = False,
    frame_options: FrameOptions | None = None,
    cache_dir: Path | None = None,
) -> ImageFolder:
    """Find and check the images in a folder and its subfolders, and choose frames of the videos.

    Every image file is decoded once, so that damaged files are reported before later stages start. Hidden
    files and folders are ignored. Possible masks of `a/b.jpg` are `masks/a/b.jpg.png`, `masks/a/b.png`,
    `masks/a/b_mask.jpg` and `a/b_mask.png`, for example; the folder `masks` is in the image folder or next to
    it (see `nope_splat.io.mask_files.assign_masks`).

    Args:
        data: The image folder, a folder that contains it as `images/`, or a video.
        invert_masks: Whether to ignore the white pixels of mask files instead of the black pixels.
        frame_options: Options of choosing frames of videos; default options if None.
        cache_dir: Folder in which frames of videos are cached; if None, the frames are stored in a temporary
            folder, which is removed when the process ends.

    Returns:
        The images, and the files and subfolders that were skipped.

    Raises:
        NopeSplatError: If the folder or video does not exist or cannot be read, fewer than two images are
            usable, or a mask is damaged or has a different aspect ratio from its image.
    """
    data = Path(data)
    _require_readable(data)
    root = image_root(data)
    skipped: dict[str, str] = {}

    def skip_folder(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        skipped[_escape(name)] = f"folder cannot be read ({error.strerror})"

    files = list_photos(root, skip_folder)
    if not files.photos and not files.videos:
        advice = "; ".join(files.unread) or (
            "pass a folder that contains image files such as .jpg, .png, .webp or .tiff, or a video"
        )
        raise NopeSplatError("too-few-images", f"no photos in {root}; {advice}")
    candidates = _candidates(files, skipped, frame_options or FrameOptions(), cache_dir)
    findings: dict[str, FileFindings] = {}

    def check(name: str) -> ImageFile | str:
        candidate = candidates[name]
        image, findings[name] = _check(candidate.path, name, candidate.mask_path)
        if isinstance(image, ImageFile):
            return replace(image, mask_inverted=invert_masks, video=candidate.video)
        return image

    with ThreadPoolExecutor(MAX_READING_THREADS) as pool:
        checked = list(progress_bar(pool.map(check, candidates), "Reading photos", len(candidates)))
    images = tuple(image for image in checked if isinstance(image, ImageFile))
    reasons = zip(candidates, checked, strict=True)
    skipped |= {_escape(name): reason for name, reason in reasons if isinstance(reason, str)}
    log_listing(root, files)
    _require_two(root, images, skipped)
    for folder in files.masks.folders:
        if not os.access(folder, os.R_OK | os.X_OK):
            raise NopeSplatError(
                "unreadable-file", f"no permission to read the mask folder {folder}; check its permissions"
            )
    log_findings({image.name: findings[image.name] for image in images})
    return ImageFolder(root, images, skipped)


def read_image(image: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image, rotate it upright, and convert it to 8 bits per channel.

    Args:
        image: The image.
        size: Width and height of the result in pixels; the image is scaled by averaging over pixel areas.
            None for full resolution.

    Returns:
        Colors, 0 to 255: RGB (H, W, 3) or, for images with transparency, RGBA (H, W, 4) with colors not
        premultiplied by alpha.

    Raises:
        NopeSplatError: If the file can no longer be read.
    """
    with reopen_image(image.path, size) as opened:
        turn_upright(opened)
        pixels = read_pixels(opened)
        if size is None or size == (pixels.shape[1], pixels.shape[0]):
            return pixels
        if pixels.shape[2] == 3:
            return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return _scale_transparent(pixels, size)


def read_mask(image_file: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.bool_] | None:
    """Read the mask of an image: its mask file, transparency and ignored grid cells combined.

    Args:
        image_file: The image.
        size: Width and height of the result in pixels; None for full resolution.

    Returns:
        True for used pixels. (H, W). A pixel is used if the mask file marks its whole area as used (see
        `nope_splat.io.masks.used_pixels`), the image is at least half opaque there, and the pixel is in no
        ignored cell. None if the image has no mask file, no transparency and no ignored cells.

    Raises:
        NopeSplatError: If the image or its mask file can no longer be read.
    """
    full_size = (image_file.width, image_file.height)
    size = size or full_size
    used = None
    if image_file.mask_path is not None:
        # Scaling averages colors without the mask, so a partly masked pixel also contains masked colors.
        with reopen_image(image_file.mask_path) as mask:
            turn_mask_upright(mask, full_size, image_file.exif.orientation)
            used = scale_mask(used_pixels(mask) != image_file.mask_inverted, size)
    with reopen_image(image_file.path) as image:
        if image.has_transparency_data:  # scaling weights colors by alpha, so half opacity is enough
            turn_upright(image)
            alpha = read_alpha(image)
            if size != full_size:
                alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
            used = alpha > 127 if used is None else used & (alpha > 127)
    if image_file.ignored is not None:
        ignored = image_file.ignored.astype(np.uint8)
        shown = cv2.resize(ignored, size, interpolation=cv2.INTER_NEAREST) == 0
        used = shown if used is None else used & shown
    return used


def count_images(data: Path, frame_options: FrameOptions | None = None) -> int:
    """Count the image files, except masks, in a folder and its subfolders, without reading them.

    Args:
        data: The image folder, a folder that contains it as `images/`, or a video.
        frame_options: Options of choosing frames of videos, whose number is estimated; default options if
            None.
    """
    files = list_photos(image_root(data))
    options = frame_options or FrameOptions()
    return len(files.photos) + sum(estimate_num_frames(files.folder / name, options) for name in files.videos)


def list_files(data: Path) -> dict[str, tuple[Path, Path | None]]:
    """List the image files and videos of a folder with their mask files, without reading or checking them.

    Args:
        data: The image folder, a folder that contains it as `images/`, or a video.

    Returns:
        Path of the file and path of its mask file (None without a mask file), by name.
    """
    files = list_photos(image_root(data))
    names = (*files.photos, *files.videos)
    return {name: (files.folder / name, files.masks.paths.get(name)) for name in names}


def _candidates(
    files: PhotoFiles, skipped: dict[str, str], frame_options: FrameOptions, cache_dir: Path | None
) -> dict[str, _Candidate]:
    """Return the photos and the frames of the videos by name, in natural order.

    Args:
        files: The files in the image folder.
        skipped: Reasons why files cannot be used, by name; the reasons for videos are added.
        frame_options: Options of choosing frames.
        cache_dir: Folder in which frames are cached; None for a temporary folder.
    """
    masks = files.masks.paths
    candidates = {name: _Candidate(files.folder / name, masks.get(name)) for name in files.photos}
    for video in files.videos:
        path = files.folder / video
        if UNPRINTABLE.search(video):
            skipped[_escape(video)] = UNPRINTABLE_REASON
            continue
        cache = Cache(cache_dir) if cache_dir else temporary_cache()
        try:
            folder, frames = extract_frames(path, video, frame_options, cache, len(files.videos))
        except VideoError as error:
            skipped[video] = str(error)
            continue
        for file in frames.files:
            candidates[f"{video}/{file}"] = _Candidate(folder / file, masks.get(video), video)
    return dict(sorted(candidates.items(), key=lambda item: natural_sort_key(item[0])))


def _require_readable(data: Path) -> None:
    """Raise an error if a path is neither a folder nor a video, does not exist, or cannot be read."""
    if not data.exists():
        raise NopeSplatError("missing-file", f"the photo folder {data} does not exist; check the path")
    if not data.is_dir() and data.suffix.lower() not in VIDEO_SUFFIXES:
        raise NopeSplatError(
            "unreadable-file",
            f"{data} is neither a folder nor a video; pass the folder that contains the photos",
        )
    if not os.access(data, os.R_OK | os.X_OK if data.is_dir() else os.R_OK):
        raise NopeSplatError(
            "unreadable-file", f"no permission to read the photo folder {data}; check its permissions"
        )


def _require_two(root: Path, images: Sequence[ImageFile], skipped: Mapping[str, str]) -> None:
    """Raise an error if fewer than two images are usable.

    Args:
        root: The image folder, or the video.
        images: The usable images.
        skipped: Reasons why files cannot be used, by name.
    """
    if len(images) >= 2:
        return
    if root.is_file() and root.name in skipped:
        raise NopeSplatError("unreadable-file", f"{root} cannot be used: {skipped[root.name]}")
    kind = "frame" if root.is_file() else "photo"
    found = f"only one readable {kind} ({images[0].name})" if images else f"no readable {kind}s"
    unread = "".join(f"; {name}: {reason}" for name, reason in list(skipped.items())[:5])
    raise NopeSplatError("too-few-images", f"{root} contains {found}, but at least two are needed{unread}")


def _escape(name: str) -> str:
    r"""Replace the unprintable characters of a file name by escapes such as `\x1b`."""
    return UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)


def _check(path: Path, name: str, mask_path: Path | None) -> tuple[ImageFile | str, FileFindings]:
    """Check an image file and its mask file by decoding them.

    Returns:
        The image, or the reason (text) why it cannot be used; and what the user should know about its files.
    """
    if UNPRINTABLE.search(name):
        return UNPRINTABLE_REASON, FileFindings()
    try:
        with open_image(path) as image:
            image.load()  # `read_exif` ignores errors, also those of decoding PNG files up to their EXIF data
            exif = read_exif(image)
            # A second picture in a JPEG file is a preview or the other eye of a stereo camera.
            has_frames = image.format != "MPO" and getattr(image, "is_animated", False)
            turn_upright(image)
            size = image.size
            if image.mode not in ("L", "RGB", "RGBA") or "transparency" in image.info:
                read_pixels(image)  # converting other modes to RGB can fail
            problem = color_problem(image)
    except Exception as error:  # decoders raise many types of exceptions for damaged files
        return failure_reason(path, error), FileFindings()
    if min(size) < MIN_SIDE:
        return f"too small, {size[0]} x {size[1]} pixels", FileFindings()
    mask_size = None
    if mask_path is not None:
        mask_size = _check_mask(mask_path, size, exif.orientation)
    findings = FileFindings(has_frames, problem, mask_path if mask_size not in (None, size) else None)
    return ImageFile(path, name, *size, mask_path, exif=exif), findings


def _scale_transparent(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an RGBA image (H, W, 4) to `size` (width, height).

    Colors are weighted by alpha, so that transparent pixels do not affect the colors of their neighbors.
    """
    alpha = pixels[..., 3].astype(np.float32)
    scaled = np.empty((size[1], size[0], 4), np.float32)
    scaled[..., 3] = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    for channel in range(3):  # channel by channel, since float32 takes four times the memory of uint8
        weighted = pixels[..., channel] * alpha
        scaled[..., channel] = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    scaled[..., :3] /= np.maximum(scaled[..., 3:], 1e-6)
    return np.rint(scaled).astype(np.uint8)


@contextmanager
def reopen_image(path: Path, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Open an image or mask file (see `open_image`); raise `NopeSplatError` if it can no longer be read."""
    try:
        with open_image(path, size) as image:
            yield image
    except Exception as error:  # decoders raise many types of exceptions for damaged files
        raise NopeSplatError(
            "unreadable-image", f"{path} cannot be read anymore: {failure_reason(path, error)}"
        ) from error


def _check_mask(file: Path, size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Check that a mask is readable, and has the aspect ratio of its image.

    Args:
        file: The mask file.
        size: Width and height of the image in pixels.
        orientation: EXIF orientation of the image.

    Returns:
        Width and height of the mask in pixels.

    Raises:
        NopeSplatError: If the mask is damaged, or has a different aspect ratio from the image.
    """
    try:
        with open_image(file) as mask:
            turn_mask_upright(mask, size, orientation)
            mask_size = mask.size
            if mask.mode not in ("L", "RGB", "RGBA"):
                used_pixels(mask)  # converting other modes can fail
    except Exception as error:  # decoders raise many types of exceptions for damaged files
        raise NopeSplatError(
            "unreadable-image", f"the mask {file} cannot be read: {failure_reason(file, error)}"
        ) from error
    require_mask_fits(file, mask_size, size)
    return mask_size
