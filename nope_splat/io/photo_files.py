"""List an image folder without reading its files: photos, videos, masks, and files that cannot be read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from nope_splat.io.decoding import IMAGE_SUFFIXES
from nope_splat.io.mask_files import (
    AssignedMasks,
    assign_masks,
    is_mask_folder_name,
    mask_folders,
    masks_beside_photos,
)
from nope_splat.io.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class UnsupportedKind:
    """Kind of files that this package cannot read, but that may be among photos, such as raw files."""

    singular: str
    """Name of one such file, for messages."""
    plural: str
    """Name of several such files, for messages."""
    advice: str
    """Advice to the user, as part of a sentence in which "{them}" stands for the files."""
    suffixes: frozenset[str]
    """File extensions, with dot and in lower case."""


def _kind(singular: str, plural: str, advice: str, suffixes: str) -> UnsupportedKind:
    return UnsupportedKind(singular, plural, advice, frozenset(suffixes.split()))


UNSUPPORTED_KINDS = (
    _kind(
        "raw file",
        "raw files",
        "export {them} as JPEG or TIFF",
        ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .srw .raf .orf .rw2 .rwl .raw .pef .3fr .fff .iiq .x3f"
        " .gpr .dcr .kdc .mrw .erf .mef .mos",
    ),
    _kind("JPEG XL file", "JPEG XL files", "convert {them} to JPEG or PNG", ".jxl"),
    _kind(
        "360-degree photo",
        "360-degree photos",
        "export views of 90 degrees as JPEG",
        ".insp",
    ),
    _kind("layered file", "layered files", "save {them} as PNG or TIFF", ".psd .psb .xcf .kra .afphoto"),
    _kind(
        "HDR file", "HDR files", "save {them} with 8 or 16 bits per channel as PNG or TIFF", ".exr .hdr .pfm"
    ),
    _kind("GIF file", "GIF files", "save {them} as PNG", ".gif"),
    _kind("archive", "archives", "unpack {them}", ".zip .rar .7z .tar .tgz .gz .bz2 .xz .zst"),
    _kind(
        "360-degree video", "360-degree videos", "export a flat view of {them} as an MP4 file", ".insv .360"
    ),
    _kind("raw video", "raw videos", "export {them} as MP4 files", ".braw .r3d .crm"),
)
"""Kinds of files that are not read, but reported to the user, so that no photo is skipped silently."""


@dataclass(frozen=True)
class PhotoFiles:
    """Photos, videos and masks in an image folder and its subfolders, and files that are not read."""

    folder: Path
    """Folder to which the names are relative."""
    photos: tuple[str, ...]
    """Names of the photos, in natural order (see `natural_sort_key`)."""
    videos: tuple[str, ...]
    """Names of the videos, in natural order."""
    masks: AssignedMasks
    """Mask files of photos and videos; the mask of a video is that of all its frames."""
    unread: tuple[str, ...]
    """Parts of messages about files that are not read: one for each unsupported kind, such as "2 raw files
    (.nef) are not read; export them as JPEG or TIFF", and one for videos that belong to photos."""


def image_root(data: Path) -> Path:
    """Return the subfolder `images` (or `Images`, `IMAGES`) of a folder if it exists, else the path itself.

    Args:
        data: The image folder, a folder that contains it as `images/`, or a video.
    """
    for name in ("images", "Images", "IMAGES"):
        if (data / name).is_dir():
            return data / name
    return data


def list_photos(root: Path, on_error: Callable[[OSError], object] = lambda _: None) -> PhotoFiles:
    """List the photos and videos of an image folder with their masks.

    Hidden files and folders are ignored. A video beside a photo of the same name is not listed, because it is
    the moving part of the photo (a live photo).

    Args:
        root: The image folder, or a video.
        on_error: Function that is called with the error of each subfolder that cannot be read.
    """
    if root.is_file():
        return _list_video(root)
    files: list[str] = []
    inner_folders: list[Path] = []
    for folder, subfolders, names in _walk(root, on_error):
        inner_folders += [folder / name for name in subfolders if is_mask_folder_name(name, root)]
        subfolders[:] = [name for name in subfolders if not is_mask_folder_name(name, root)]
        files += [(folder / name).relative_to(root).as_posix() for name in names]
    images = [file for file in files if _is_image(file)]
    videos = sorted((file for file in files if _suffix(file) in VIDEO_SUFFIXES), key=natural_sort_key)
    beside = _masks_beside([*images, *videos])
    photos = sorted((file for file in images if file not in beside), key=natural_sort_key)
    stems = {_without_suffix(photo) for photo in photos}
    live = [video for video in videos if _without_suffix(video) in stems]
    videos = [video for video in videos if _without_suffix(video) not in stems]
    masks = assign_masks(root, [*photos, *videos], inner_folders, beside, _files_in)
    return PhotoFiles(root, tuple(photos), tuple(videos), masks, (*_unread(files), *_unread_live(live)))


def _list_video(path: Path) -> PhotoFiles:
    """List a single video with its mask, which is in the video's folder or in a mask folder there."""
    folder = path.parent
    inside = [other for other in mask_folders(folder) if other.parent == folder and other.is_dir()]
    beside = _masks_beside([path.name, *os.listdir(folder)])
    keys = path.name.casefold(), _without_suffix(path.name)
    beside = {name: key for name, key in beside.items() if key in keys}
    masks = assign_masks(folder, [path.name], inside, beside, _files_in)
    return PhotoFiles(folder, (), (path.name,), replace(masks, unused=()), ())


def natural_sort_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key for image names that orders numbers by value, so that `photo9` precedes `photo10`.

    Args:
        name: The image name.
    """
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def examples(names: Sequence[str]) -> str:
    """List up to three file names for a sentence, such as "a.jpg, b.jpg, c.jpg and 5 more".

    Args:
        names: Names of at least one file.
    """
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _walk(
    root: Path, on_error: Callable[[OSError], object] = lambda _: None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below `root` with the names of its subfolders and files, without hidden ones.

    Symbolic links are followed, but each folder is visited only once. As in `os.walk`, the caller may remove
    subfolders from the list, which are then not visited. `on_error` is called with the error of each
    subfolder that cannot be read.
    """
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, onerror=on_error, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError as error:
            on_error(error)
            subfolders.clear()
            continue
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        yield Path(folder), subfolders, [file for file in files if file[0] != "."]


def _files_in(folder: Path) -> list[str]:
    """List the image files in a mask folder and its subfolders: sorted paths, relative to the mask folder."""
    paths = [path / name for path, _, files in _walk(folder) for name in files]
    images = [path for path in paths if _suffix(path.name) in IMAGE_SUFFIXES | {".gif"}]
    return sorted(path.relative_to(folder).as_posix() for path in images)


def _suffix(name: str) -> str:
    """Return the extension of a file name, with dot and in lower case."""
    return PurePosixPath(name).suffix.lower()


def _masks_beside(files: Sequence[str]) -> dict[str, str]:
    """Find the masks among images and videos, as `masks_beside_photos` does; only images can be masks."""
    return {name: key for name, key in masks_beside_photos(files).items() if _is_image(name)}


def _without_suffix(name: str) -> str:
    """Return the path of a file without extension, in lower case."""
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _is_image(name: str) -> bool:
    """Check whether a file is read as an image, by its extension."""
    return _suffix(name) in IMAGE_SUFFIXES


def _unread_live(live: Sequence[str]) -> Iterator[str]:
    """Yield part of a message about videos that belong to photos, if there are any."""
    if live:
        verb = "is" if len(live) == 1 else "are"
        yield (
            f"{examples(live)} {verb} not read because there is a photo of the same name; to use a video,"
            " move it to another folder"
        )


def _unread(files: Sequence[str]) -> Iterator[str]:
    """Yield part of a message for each kind of files that cannot be read: number, extensions and advice."""
    suffixes = [_suffix(file) for file in files]
    for kind in UNSUPPORTED_KINDS:
        found = [suffix for suffix in suffixes if suffix in kind.suffixes]
        if found:
            endings = ", ".join(sorted(set(found)))
            if len(found) == 1:
                yield f"1 {kind.singular} ({endings}) is not read; {kind.advice.format(them='it')}"
            else:
                count = f"{len(found)} {kind.plural}"
                yield f"{count} ({endings}) are not read; {kind.advice.format(them='them')}"
