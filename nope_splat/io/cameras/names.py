"""Match the image names in a camera file to the names of photos, or to the image names in another file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from nope_splat.io.camera_checks import InvalidCamera
from nope_splat.io.decoding import IMAGE_SUFFIXES

IMAGE_ENDINGS = IMAGE_SUFFIXES | {".gif"}
"""File extensions that are ignored when image names are compared. Other extensions, such as `.001` in
`frame.001`, are part of the name."""
EXPORTED = re.compile(r"(?P<original>.+\.[^./_]+)(_\d+)?\.(png|jpg)", re.IGNORECASE)
"""Pattern of the file names of exported images that were converted: the file name of the photo, followed by
`.png` or `.jpg`, or by `_1.png` and so on (see `nope_splat.io.image_export.exported_names`)."""


Paths = Mapping[str, tuple[str, ...]]
"""Parts of the path of each image (folders, then file name), by image name."""


def match_names(names: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Match image names that may differ in folders, path separators, extensions and letter case.

    Equal names match. The remaining names are compared in three rounds: with unchanged file names; with
    exported copies renamed to their original photos (`a.heic.png` to `a.heic`); and with lower-case file
    names without extension (`a.jpg` and `A.PNG` become `a`). Each round first compares paths relative to the
    deepest folder that all images of a collection share. Then it compares the last parts of the paths, from
    the most parts down to the file name alone. Ambiguous names do not match: a match must be the only one
    for both of its names.

    Args:
        names: Image names. Backslashes separate folders, as slashes do.
        others: Image names to compare with.

    Returns:
        Matching name in `others`, by name in `names`. Names without a match are missing.

    Example:
        >>> match_names(["images/a/1.jpg", "images/b/1.jpg", "images/b/2"], ["a/1.jpg", "b/1.jpg", "b/2.jpg"])
        {'images/a/1.jpg': 'a/1.jpg', 'images/b/1.jpg': 'b/1.jpg', 'images/b/2': 'b/2.jpg'}
    """
    sides = {name: split_path(name) for name in names}, {name: split_path(name) for name in others}
    shared = [_common_length(list(side.values())) for side in sides]
    below = [
        {name: path[count:] for name, path in side.items()} for side, count in zip(sides, shared, strict=True)
    ]
    depth = max((len(path) for side in sides for path in side.values()), default=0)
    matches = {name: name for name in sides[0] if name in sides[1]}
    for convert in (str, original_name, _stem):
        # Other names cannot be meant by names that match exactly, so these make no path ambiguous.
        taken = set(matches.values())
        left = {name: path for name, path in below[0].items() if name not in matches}
        free = {name: path for name, path in below[1].items() if name not in taken}
        _add_matches(matches, left, free, convert, depth)
        for count in range(depth, 0, -1):
            _add_matches(matches, *sides, convert, count)
    return {name: matches[name] for name in names if name in matches}


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten image paths to file names; if a file name occurs twice, remove only common folders.

    Args:
        names: Image paths.

    Returns:
        The shortened names, in the same order.

    Raises:
        InvalidCamera: If a path occurs twice, or if a file name occurs twice and only some of the paths are
            absolute.
    """
    paths = [split_path(name) for name in names]
    shortened = [path[-1] for path in paths]
    if len(set(shortened)) < len(shortened):
        if len({name.startswith("/") for name in names}) == 2:
            raise InvalidCamera("file names repeat, and some paths are absolute and others relative")
        common = _common_length(paths)
        shortened = ["/".join(path[common:]) for path in paths]
    if len(set(shortened)) < len(shortened):
        raise InvalidCamera("two paths are the same")
    return shortened


def split_path(name: str) -> tuple[str, ...]:
    """Split an image path at slashes into folders and file name, without `.`, `..` and empty parts.

    A path that contains backslashes but no slashes is split at its backslashes.
    """
    separated = name if "/" in name else name.replace("\\", "/")
    parts = tuple(part for part in separated.split("/") if part not in ("", ".", ".."))
    return parts or ("",)


def file_name(name: str) -> str:
    """Return the last part of an image path; empty if the path has no file name."""
    return split_path(name)[-1]


def original_name(name: str) -> str:
    """Return the file name of the photo from which an exported image was converted.

    Args:
        name: File name, such as `a.heic.png`.

    Returns:
        The file name without the `.png` or `_1.png` that the export appended to the name of the photo, such
        as `a.heic`. Names of other images are returned unchanged.
    """
    match = EXPORTED.fullmatch(name)
    if match is None or os.path.splitext(match["original"])[1].lower() not in IMAGE_ENDINGS:
        return name
    return match["original"]


def is_converted_copy(name: str, photo: str) -> bool:
    """Check whether a name in a camera file is that of a copy of a photo, converted by `export_images`.

    Such copies are upright.

    Args:
        name: Image name in the camera file, such as `a.heic.png`.
        photo: Name of the photo that the image name matches, such as `a.heic`.

    Returns:
        True if `name` differs from `photo` and is a name that `export_images` gives to converted copies.
    """
    last = file_name(name)
    return last != file_name(photo) and original_name(last) != last


def _stem(name: str) -> str:
    """Apply `original_name` to a file name; return the result in lower case, without image extension."""
    stem, ending = os.path.splitext(original_name(name).casefold())
    return stem if ending in IMAGE_ENDINGS else stem + ending


def _add_matches(
    matches: dict[str, str], side: Paths, other_side: Paths, convert: Callable[[str], str], count: int
) -> None:
    """Match the names of images whose paths end with the same parts, if these parts are unique on each side.

    Args:
        matches: Matches found so far; new matches are added in place.
        side: Path parts of the images on the first side, by image name.
        other_side: Path parts of the images on the second side, by image name.
        convert: Function that is applied to file names before they are compared.
        count: Number of parts to compare, from the end of the path.
    """
    keys, other_keys = (_unique_keys(paths, convert, count) for paths in (side, other_side))
    used = set(matches.values())
    for key, name in keys.items():
        other = other_keys.get(key)
        if name not in matches and other is not None and other not in used:
            matches[name] = other


def _unique_keys(paths: Paths, convert: Callable[[str], str], count: int) -> dict[tuple[str, ...], str]:
    """Return the image name for the last `count` parts of each path, with the file name after `convert`.

    The parts are the keys of the result. Parts that several paths share are omitted.
    """
    names: dict[tuple[str, ...], list[str]] = {}
    for name, path in paths.items():
        names.setdefault((*path[-count:-1], convert(path[-1])), []).append(name)
    return {key: group[0] for key, group in names.items() if len(group) == 1}


def _common_length(paths: Sequence[tuple[str, ...]]) -> int:
    """Return the number of leading folders that all paths have in common."""
    folders = [path[:-1] for path in paths]
    if not folders:
        return 0
    first, last = min(folders), max(folders)
    differs = [one != other for one, other in zip(first, last, strict=False)]
    return differs.index(True) if True in differs else min(len(first), len(last))
