"""Names of mask files: which mask belongs to which photo."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nope_splat.io.decoding import IMAGE_SUFFIXES

MASK_FOLDERS = ("masks", "mask", "images_masks", "images_mask")
"""Names of mask folders, preferred names first. A mask folder may also have the name of the image folder with
`_masks` or `_mask` appended."""
BESIDE = re.compile(r"(.+)[._-]mask", re.IGNORECASE)
"""Pattern of the file name, without extension, of a mask in the folder of its photo. The group is the file
name of the photo, with or without extension."""
IN_FOLDER = re.compile(
    r"(.+?)(?:[._ -](?:mask|masks|masked|matte|alpha|cutout|silhouette|segmentation|seg|removebg|nobg|rmbg"
    r"|preview))+",
    re.IGNORECASE,
)
"""Pattern of the file name, without extension, of a mask in a mask folder: the file name of the photo (the
group), followed by one or more of these words. A name with another word may belong to another photo."""


@dataclass(frozen=True)
class AssignedMasks:
    """Mask files of the photos in an image folder."""

    folders: tuple[Path, ...]
    """Existing mask folders, preferred folders first."""
    paths: dict[str, Path]
    """Mask file, by photo name."""
    rejected: dict[str, tuple[Path, ...]]
    """Mask files that are not used because another mask file of the photo is preferred, by photo name."""
    unused: tuple[Path, ...]
    """Files in mask folders whose names match no photo."""


def is_mask_folder_name(name: str, root: Path) -> bool:
    """Check whether a folder contains masks instead of photos, by its name.

    Args:
        name: Name of the folder; the case of letters does not matter.
        root: The image folder.
    """
    return name.casefold() in [folder.casefold() for folder in _folder_names(root)]


def mask_folders(root: Path) -> tuple[Path, ...]:
    """Return the possible paths of mask folders in and next to an image folder; most do not exist.

    Args:
        root: The image folder.
    """
    names = [spelled for name in _folder_names(root) for spelled in (name, name.capitalize(), name.upper())]
    return tuple(folder / name for folder in (root, root.parent) for name in dict.fromkeys(names))


def masks_beside_photos(images: Sequence[str]) -> dict[str, str]:
    """Find the masks among the image files of a folder, such as `a_mask.png` beside the photo `a.jpg`.

    Args:
        images: Names of the image files, relative to the image folder.

    Returns:
        For each mask, by its name: name of its photo in lower case, with or without extension.
    """
    bases = {name: _base(name, BESIDE) for name in images}
    keys = {key for name, base in bases.items() if base is None for key in _photo_keys(name)}
    return {name: base for name, base in bases.items() if base is not None and base in keys}


def assign_masks(
    root: Path,
    photos: Sequence[str],
    inner_folders: Sequence[Path],
    beside: Mapping[str, str],
    files_in: Callable[[Path], list[str]],
) -> AssignedMasks:
    """Assign mask files to photos by their names, ignoring letter case.

    If several masks fit a photo, mask folders in the image folder come first, then mask folders next to it,
    then masks beside the photo. Within a mask folder, the order of names is `a.jpg.png`, `a.png`, `a.jpg`,
    `a_mask.png`, `a.png.png` for a photo `a.jpg`. The first mask is used.

    Args:
        root: The image folder.
        photos: Names of the photos, relative to the image folder.
        inner_folders: Mask folders in the image folder and its subfolders.
        beside: Masks beside photos, from `masks_beside_photos`.
        files_in: Function that lists the image files in a mask folder, as paths relative to this folder.
    """
    folders = _ordered_folders(root, inner_folders)
    index = _PhotoIndex.of(photos)
    candidates: dict[str, list[tuple[tuple[int, int, str], Path]]] = defaultdict(list)
    unused = []
    for rank, folder in enumerate(folders):
        inside = folder.parent == root or root in folder.parent.parents
        base = folder.parent.relative_to(root).as_posix() if inside else "."
        for file in files_in(folder):
            fits = index.photos_of(base, file)
            for photo, name_rank in fits:
                candidates[photo].append(((rank, name_rank, file), folder / file))
            if not fits:
                unused.append(folder / file)
    for file, key in beside.items():
        for photo in index.by_key[key]:
            candidates[photo].append(((len(folders), 0, file), root / file))
    paths, rejected = {}, {}
    for photo in sorted(candidates):
        first, *others = [path for _, path in sorted(candidates[photo])]
        paths[photo] = first
        if others:
            rejected[photo] = tuple(others)
    return AssignedMasks(tuple(folders), paths, rejected, tuple(unused))


@dataclass(frozen=True)
class _PhotoIndex:
    """Lookup tables that find photos by path or file name, ignoring letter case."""

    by_key: Mapping[str, list[str]]
    """Names of photos, by their lower-case path with extension, and by this path without extension."""
    by_name: Mapping[str, list[str]]
    """Names of photos, by their lower-case file name with extension, and by this name without extension."""

    @classmethod
    def of(cls, photos: Sequence[str]) -> _PhotoIndex:
        by_key, by_name = defaultdict(list), defaultdict(list)
        for photo in photos:
            for key in _photo_keys(photo):
                by_key[key].append(photo)
                by_name[key.rpartition("/")[2]].append(photo)
        return cls(by_key, by_name)

    def photos_of(self, base: str, file: str) -> list[tuple[str, int]]:
        """Find the photos to which a mask may belong.

        Normally, the path of a mask in the mask folder is the path of its photo. A mask that is directly in a
        mask folder in or next to the image folder may also belong to a photo in any subfolder, if only one
        photo has the file name.

        Args:
            base: Path, relative to the image folder, of the folder that contains the mask folder.
            file: Path of the mask, relative to the mask folder.

        Returns:
            Name of each photo, and the rank of the mask, which depends on the form of the mask's name: 0
            (preferred) to 4, in the order of names in `assign_masks`.
        """
        path = PurePosixPath(base) / file
        searches = [(self.by_key, path.parent)]
        if path.name == str(path):
            searches.append((self.by_name, PurePosixPath()))
        for photos, folder in searches:
            for key, rank in _mask_keys(path.name):
                fits = photos.get((folder / key).as_posix().casefold(), [])
                # Names that differ only in the case of letters are different photos on some file systems.
                exact = [photo for photo in fits if PurePosixPath(photo).name.startswith(key)]
                fits = exact or fits
                if fits and (photos is self.by_key or len(fits) == 1):
                    return [(photo, rank) for photo in fits]
        return []


def _mask_keys(name: str) -> Iterator[tuple[str, int]]:
    """Yield possible file names of the photo to which a mask belongs, and the rank of the mask for each name.

    The names may lack the extension. If several masks fit a photo, the mask with the lowest rank is used.
    Ranks are 0 to 4, in the order of names in `assign_masks`.
    """
    stem, suffix = os.path.splitext(name)
    yield stem, 0 if os.path.splitext(stem)[1] else 1 if suffix.lower() == ".png" else 2
    if match := IN_FOLDER.fullmatch(stem):
        yield match[1], 3
    inner, inner_suffix = os.path.splitext(stem)
    if inner_suffix.lower() in IMAGE_SUFFIXES:
        yield inner, 4


def _photo_keys(name: str) -> set[str]:
    """Return two lower-case paths of a photo: one with its extension and one without."""
    return {name.casefold(), os.path.splitext(name)[0].casefold()}


def _base(name: str, pattern: re.Pattern[str]) -> str | None:
    """Return the lower-case path of the photo of a mask; None if the mask's name does not match `pattern`."""
    path = PurePosixPath(name)
    match = pattern.fullmatch(path.stem)
    return (path.parent / match[1]).as_posix().casefold() if match else None


def _folder_names(root: Path) -> tuple[str, ...]:
    """Return the names that mask folders may have, preferred names first."""
    name = root.name or root.resolve().name
    return tuple(dict.fromkeys((*MASK_FOLDERS, f"{name}_masks", f"{name}_mask")))


def _ordered_folders(root: Path, inner_folders: Sequence[Path]) -> list[Path]:
    """Return the existing mask folders in and next to an image folder, each once, preferred folders first."""
    names = [name.casefold() for name in _folder_names(root)]
    inner = sorted(inner_folders, key=lambda folder: (names.index(folder.name.casefold()), folder))
    outer = [folder for folder in mask_folders(root) if folder.parent == root.parent and folder.is_dir()]
    folders, seen = [], set()
    for folder in (*inner, *outer):
        status = folder.stat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            folders.append(folder)
    return folders
