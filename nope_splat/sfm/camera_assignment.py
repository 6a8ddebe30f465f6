"""Assignment of images to cameras by size, folder, video and EXIF data, and focal lengths from EXIF data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from nope_splat.io.cameras.orientation import UPRIGHT_FROM_STORED, stored_size
from nope_splat.io.images import ImageFile
from nope_splat.scene.reconstruction import Lens
from nope_splat.utils.typing import Array, Indices

CameraPer = Literal["lens", "folder", "size"]
"""Criterion by which images are assigned to the same camera; see `assign_cameras`."""
MAX_FOCAL_RATIO = 1.1
"""Ratio of focal lengths of EXIF data beyond which they are not those of one camera."""


def assign_cameras(images: Sequence[ImageFile], by: CameraPer = "lens") -> Indices:
    """Group images by camera; all images of a camera share one set of intrinsics.

    Args:
        images: The N images.
        by: "size" assigns images of the same size to the same camera; "lens" additionally requires that
            maker, model, lens and focal length are equal in the EXIF data, or missing in both; "folder"
            requires the same size and the same folder. A portrait and a landscape image have the same size if
            only width and height are swapped. Frames of videos never share a camera with photos, because
            cameras record videos with another part of the sensor; and with frames of other videos only if
            `by` is "size".

    Returns:
        Camera index of each image; cameras are numbered in the order of their first image. (N,).
    """
    indices: dict[object, int] = {}
    camera_ids = []
    for image in images:
        longer, shorter = max(image.width, image.height), min(image.width, image.height)
        lens = image.exif.lens_key if by == "lens" else None
        folder = PurePosixPath(image.name).parent if by == "folder" else None
        video = image.video is not None if by == "size" else image.video
        camera_ids.append(indices.setdefault((longer, shorter, lens, folder, video), len(indices)))
    return np.array(camera_ids, np.int64)


def upright_from_sensor(images: Sequence[ImageFile], camera_ids: Indices) -> Array:
    """Determine how each image was turned upright from the pixels of the sensor of its camera.

    The EXIF orientation says how. Cameras store all photos in the same format, portrait or landscape; a photo
    that is stored in the other format was rotated by a program. If its EXIF orientation rotates it by 90
    degrees, the upright photo has the format of the camera, and its pixels are taken for those of the sensor.
    Otherwise, the direction of the rotation is unknown.

    Args:
        images: The N images.
        camera_ids: Camera index of each image. (N,).

    Returns:
        Rotation and mirroring from pixels of the sensor to pixels of the upright image, both relative to the
        image center; zeros if unknown. (N, 2, 2).
    """
    turns = np.array([UPRIGHT_FROM_STORED[image.exif.orientation] for image in images], np.float64)
    is_portrait = np.array([height > width for width, height in map(stored_size, images)])
    shares = np.bincount(camera_ids, is_portrait) / np.bincount(camera_ids)
    is_other_format = is_portrait != (shares > 0.5)[camera_ids]
    is_turned_back = np.array([image.exif.orientation >= 5 for image in images])
    turns[is_other_format & is_turned_back] = np.eye(2)
    turns[is_other_format & ~is_turned_back] = 0
    return turns


def find_lenses(images: Sequence[ImageFile], camera_ids: Indices) -> tuple[Lens, ...]:
    """Return the lens of each camera according to the EXIF data of its images.

    Args:
        images: The N images.
        camera_ids: Camera index of each image. (N,).

    Returns:
        Lens of each of the K cameras. Its focal length is the median over the images of the camera; None if
        the EXIF data of the images differ.
    """
    lenses = []
    for camera in range(int(camera_ids.max()) + 1):
        members = [images[image_id] for image_id in np.flatnonzero(camera_ids == camera).tolist()]
        names = {image.exif.lens_name for image in members}
        focals = [image.exif.focal_in_pixels(image.width, image.height) for image in members]
        known = [focal for focal in focals if focal is not None]
        name = names.pop() if len(names) == 1 else ""
        agree = bool(known) and max(known) < MAX_FOCAL_RATIO * min(known)
        lenses.append(Lens(name, float(np.median(known)) if agree else None))
    return tuple(lenses)
