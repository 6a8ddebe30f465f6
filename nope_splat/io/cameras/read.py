"""Read cameras from files of any supported format, by image name or for given images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nope_splat.errors import NopeSplatError
from nope_splat.io.camera_checks import InvalidCamera, parsing, rigid_pose
from nope_splat.io.cameras import colmap_models, metashape, opensfm, polycam, realityscan, transforms
from nope_splat.io.cameras.conversion import LensConverter, find_image_size
from nope_splat.io.cameras.entries import CameraEntry, check_name, entries_by_name, parsing_camera
from nope_splat.io.cameras.named_camera import NamedCamera
from nope_splat.io.cameras.names import file_name, is_converted_copy, match_names, short_names
from nope_splat.io.cameras.orientation import (
    refers_to_stored_pixels,
    sizes_imply_upright_pixels,
    stored_size,
    turn_upright,
)
from nope_splat.io.images import ImageFile
from nope_splat.io.photo_files import examples
from nope_splat.utils.files import open_regular
from nope_splat.utils.typing import Array

logger = logging.getLogger(__name__)

FORMATS = (
    "pass a transforms.json, a folder with a COLMAP model, a RealityScan CSV file, a Metashape XML file, an"
    " OpenSfM reconstruction.json, a Polycam folder, or a ground truth file (JSON)"
)
FILES_IN_FOLDERS = (
    "transforms.json",
    "reconstruction.json",
    "opensfm/reconstruction.json",
)
"""Camera files in a folder without a COLMAP model; the first one that exists is read."""
COLMAP_FILES = frozenset(f"{name}.{suffix}" for name in ("cameras", "images") for suffix in ("bin", "txt"))


def read_named_cameras(path: Path) -> dict[str, NamedCamera]:
    """Read cameras from a file or folder of any supported format, without applying EXIF orientations.

    Args:
        path: A nerfstudio `transforms.json`, a ground truth file (see `read_ground_truth`), the folder of a
            COLMAP model or a folder that contains models in `sparse`, a RealityScan CSV file, a Metashape XML
            file, an OpenSfM `reconstruction.json`, or a Polycam folder.

    Returns:
        Cameras by image name, with orthonormal rotations. Image names are file names without folders. If two
        images have the same file name, all image names are instead paths relative to the deepest folder that
        contains all images.

    Raises:
        NopeSplatError: If the format is unknown, the file is damaged or contains no camera, an image name
            occurs twice, a pose is mirrored or not finite, an image size is not positive, a focal length is
            implausible for the image size, or a lens cannot be approximated by a `Camera`.
    """
    entries = read_camera_entries(path)
    names = _short_names(path, list(entries))
    converter = LensConverter(path)
    cameras = {}
    for name, entry in zip(names, entries.values(), strict=True):
        with parsing_camera(path, entry.name):
            size = entry.size or find_image_size(path, entry)
            cameras[name] = converter.convert(entry, size)
    converter.log_errors()
    return cameras


def read_matching_cameras(
    path: Path, reference: Path
) -> tuple[dict[str, NamedCamera], dict[str, NamedCamera]]:
    """Read two sets of cameras for the same images; the image names may differ as `match_names` allows.

    Args:
        path: File or folder of the first set (see `read_named_cameras`).
        reference: File or folder of the second set.

    Returns:
        Both sets, by image name. Images in both sets have their name from the second set.
    """
    cameras, others = read_named_cameras(path), read_named_cameras(reference)
    matches = match_names(cameras.keys(), others.keys())
    return {matches.get(name, name): camera for name, camera in cameras.items()}, others


def read_image_cameras(path: Path, images: Sequence[ImageFile]) -> dict[int, NamedCamera]:
    """Read the cameras of given images, for the upright pixels of the images.

    Cameras for stored pixels are rotated or mirrored by the EXIF orientation of their images. Whether a
    camera refers to stored or upright pixels is determined from its image size. If the file has no size, or
    the size fits both, stored pixels are assumed. In three cases, upright pixels are assumed instead: for
    cameras in ground truth files, for images that `export_images` converted, and for files in which other
    image sizes fit upright pixels only.

    Args:
        path: File or folder of the cameras (see `read_named_cameras`).
        images: The images.

    Returns:
        Cameras by image index; images without a camera in the file are missing.

    Raises:
        NopeSplatError: If the cameras cannot be read (see `read_named_cameras`), most cameras belong to
            no image, or the image size of a camera has a different aspect ratio from its image.
    """
    entries = read_camera_entries(path)
    _short_names(path, list(entries))
    index_of_name = {image.name: index for index, image in enumerate(images)}
    matches = match_names(entries.keys(), index_of_name.keys())
    converter = LensConverter(path)
    cameras: dict[int, NamedCamera] = {}
    stored: dict[int, bool] = {}
    sized = [(images[index_of_name[other]], entries[name].size) for name, other in matches.items()]
    only_upright = sizes_imply_upright_pixels(sized)
    for name, entry in entries.items():
        image = images[index_of_name[matches[name]]] if name in matches else None
        with parsing_camera(path, name):
            size = entry.size or (image and stored_size(image)) or find_image_size(path, entry)
            camera = converter.convert(entry, size)
        if image is not None:
            index = index_of_name[image.name]
            cameras[index] = camera
            is_upright = only_upright or entry.is_upright or is_converted_copy(name, image.name)
            stored[index] = refers_to_stored_pixels(image, entry.size, is_upright, path, name)
    _report_missing_photos(path, [name for name in entries if name not in matches], len(entries))
    converter.log_errors()
    return turn_upright(cameras, {index: images[index] for index in cameras}, stored, path)


def _report_missing_photos(path: Path, missing: Sequence[str], num_cameras: int) -> None:
    """Warn if there are cameras without a photo; raise `NopeSplatError` if most cameras have no photo."""
    if 2 * len(missing) > num_cameras:
        raise NopeSplatError(
            "name-mismatch",
            f"most cameras in {path} belong to none of the photos, such as the camera of {missing[0]}; rename"
            " the photos to the names in the file",
        )
    if missing:
        logger.warning(
            f"These cameras in {path} are not used because there are no such photos: {examples(missing)}."
        )


def _short_names(path: Path, names: list[str]) -> list[str]:
    """Shorten image names; raise `NopeSplatError` if a name occurs twice (see `short_names`)."""
    with parsing(f"the photo names in {path} cannot be used", "give every camera a different, relative name"):
        return short_names(names)


def read_camera_entries(path: Path) -> dict[str, CameraEntry]:
    """Read camera entries, with the lens models of the file, from a file or folder of any supported format.

    Args:
        path: The file or folder.

    Returns:
        Entries by their image names; at least one.
    """
    if path.name in COLMAP_FILES and path.is_file():
        path = path.parent
    entries = entries_by_name(path, _read_folder(path) if path.is_dir() else _read_file(path))
    if not entries:
        raise NopeSplatError("unreadable-file", f"{path} contains no cameras; {FORMATS}")
    return entries


def _read_folder(path: Path) -> Iterator[CameraEntry]:
    """Read a COLMAP model, Polycam files, or one of `FILES_IN_FOLDERS` from a folder."""
    models = colmap_models.find_models(path)
    if models:
        return colmap_models.model_entries(path, colmap_models.read_largest_model(models)[1])
    for name in FILES_IN_FOLDERS:
        if (path / name).is_file():
            return _read_file(path / name)
    with parsing(f"{path} cannot be read", "check its permissions"):
        files = polycam.find_files(path)
    if files:
        return polycam.read_files(files)
    raise NopeSplatError(
        "missing-file",
        f"{path} contains no cameras that can be read: no COLMAP model (cameras.bin and images.bin, or .txt),"
        " no transforms.json, reconstruction.json or Polycam cameras; check the path, or pass a file",
    )


def _read_file(path: Path) -> Iterator[CameraEntry]:
    """Read a camera file, whose format is detected from its content."""
    with parsing(f"{path} contains no cameras", FORMATS):
        with open_regular(path) as file:
            content = file.read()
        start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
        if start[:1] == b"<":
            return iter(list(metashape.read_chunk(path, metashape.parse_xml(content))))
        if start[:1] in (b"{", b"["):
            return iter(list(_json_entries(path, json.loads(content))))
        text = content.decode("utf-8-sig", errors="replace")
        if not any(realityscan.is_header(line) for line in text.splitlines()):
            raise InvalidCamera("it is neither JSON nor XML nor a table with the column names of RealityScan")
        return iter(list(realityscan.read_table(path, text)))


def _json_entries(path: Path, content: Any) -> Iterator[CameraEntry]:
    """Read camera entries from the content of a JSON file."""
    if isinstance(content, list) or (isinstance(content, dict) and "shots" in content):
        return opensfm.read_shots(path, opensfm.largest_reconstruction(path, content))
    if not isinstance(content, dict):
        raise InvalidCamera("it is not a JSON object")
    return transforms.read_frames(path, content)


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth poses and focal length of a scene."""

    T_world_camera: dict[str, Array]
    """Camera-to-world transforms, OpenCV axes, by image file name without folders. (4, 4) each."""
    focal: float
    """Focal length (mean of fx and fy) in pixels, for an image of size `size`."""
    size: tuple[int, int]
    """Width and height, in pixels, of the image to which the focal length refers."""


def read_ground_truth(path: Path) -> GroundTruth:
    """Read ground truth cameras from a JSON file.

    The file contains `w`, `h`, `fl_x`, `fl_y` (pixels), and `frames` with `file_path` and
    `camera_to_world_opencv`, a camera-to-world transform with OpenCV axes (4, 4).

    Args:
        path: The JSON file.

    Returns:
        Poses and focal length; the rotation of each pose is replaced by the nearest orthonormal matrix.

    Raises:
        NopeSplatError: If the file cannot be read, a value is missing or invalid, or two frames have the same
            file name.
    """
    with parsing(f"{path} is not a ground truth file", "it needs w, h, fl_x, fl_y and frames"):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise InvalidCamera("it is not a JSON object")
        size = transforms.image_size(content)
        if size is None:
            raise InvalidCamera("it has no image size (w and h)")
        lens = transforms.read_lens(content, size)
        frames = transforms.frames_of(content)
    poses: dict[str, Array] = {}
    for index, frame in enumerate(frames):
        with parsing_camera(path, transforms.frame_name(frame, index)):
            name = file_name(frame["file_path"])
            check_name(name, poses)
            poses[name] = rigid_pose(frame["camera_to_world_opencv"])
    return GroundTruth(poses, sum(lens.focals) / 2, (round(size[0]), round(size[1])))
