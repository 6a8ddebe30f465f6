"""Assignment of images to cameras by size, folder and EXIF data, and the focal lengths that EXIF states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from nope_splat.io.images import ImageFile
from nope_splat.utils.typing import Array, Indices

CameraPer = Literal["lens", "folder", "size"]
"""Criteria by which images share a camera; see `assign_cameras`."""


def assign_cameras(images: Sequence[ImageFile], by: CameraPer = "lens") -> Indices:
    """Group images by camera; all images of a camera share one set of intrinsics.

    Args:
        images: The N images.
        by: "size" assigns images of the same size to the same camera; "lens" additionally requires that
            maker, model, lens and focal length are equal in the EXIF data, or missing in both; "folder"
            requires the same size and the same folder. A portrait and a landscape image have the same size if
            only width and height are swapped.

    Returns:
        Camera index of each image; cameras are numbered in the order of their first image. (N,).
    """
    indices: dict[object, int] = {}
    camera_ids = []
    for image in images:
        longer, shorter = max(image.width, image.height), min(image.width, image.height)
        lens = image.exif.lens_key if by == "lens" else None
        folder = PurePosixPath(image.name).parent if by == "folder" else None
        camera_ids.append(indices.setdefault((longer, shorter, lens, folder), len(indices)))
    return np.array(camera_ids, np.int64)


def exif_focals(images: Sequence[ImageFile], camera_ids: Indices) -> Array:
    """Return the focal length of each camera according to the EXIF data of its images.

    Args:
        images: The N images.
        camera_ids: Camera index of each image. (N,).

    Returns:
        Median focal length over the images of each camera, in full-resolution pixels; NaN for cameras whose
        EXIF data do not determine it. (K,).
    """
    focals = np.array([image.exif.focal_in_pixels(image.width, image.height) or np.nan for image in images])
    by_camera = [focals[camera_ids == camera] for camera in range(int(camera_ids.max()) + 1)]
    return np.array([np.nanmedian(values) if np.isfinite(values).any() else np.nan for values in by_camera])
