"""Convert camera entries to cameras with normalized intrinsics.

Other lens models are approximated by perspective or fisheye cameras with distortion. Focal lengths and
principal points are divided by the longer image side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from nope_splat.errors import NopeSplatError
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, one_line
from nope_splat.io.cameras.entries import CameraEntry
from nope_splat.io.cameras.fitting import NEGLIGIBLE_ERROR, FittedLens, fit_lens
from nope_splat.io.cameras.lenses import Size, UnsuitableLens
from nope_splat.io.cameras.named_camera import NamedCamera
from nope_splat.io.cameras.names import split_path
from nope_splat.io.decoding import IMAGE_SUFFIXES, open_image

logger = logging.getLogger(__name__)


class LensConverter:
    """Convert the camera entries of a file to cameras, and log the largest error of this conversion.

    Args:
        path: File or folder that contains the cameras, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._models: set[str] = set()
        self._num_fitted = 0
        self._max_error = 0.0
        self._rms_error = 0.0

    def convert(self, entry: CameraEntry, size: Size) -> NamedCamera:
        """Convert a camera entry to a camera with one focal length and distortion.

        Args:
            entry: The entry.
            size: Width and height, in pixels, of the image to which the camera refers.

        Returns:
            The camera, for the same pixels (stored or upright) as the entry.

        Raises:
            InvalidCamera: If the intrinsics are implausible.
            NopeSplatError: If the lens cannot be approximated by a `Camera`.
        """
        try:
            lens = entry.lens_for(size)
            fitted = fit_lens(lens, size)
        except UnsuitableLens as error:
            raise NopeSplatError(
                "unreadable-file",
                f"the lens of {one_line(entry.name)} in {self._path} cannot be used: {error};"
                " convert the photos to perspective photos with the program that wrote the file, and pass"
                " these photos and their cameras",
            ) from error
        check_intrinsics(size, (fitted.focal,), (*fitted.center, *fitted.distortion))
        self._record(lens.model, fitted)
        longer_side = max(size)
        offset = (
            (fitted.center[0] - size[0] / 2) / longer_side,
            (fitted.center[1] - size[1] / 2) / longer_side,
        )
        return NamedCamera(
            entry.T_world_camera, fitted.focal / longer_side, offset, fitted.distortion, fitted.is_fisheye
        )

    def log_errors(self) -> None:
        """Log the largest errors of the fitted lenses, if any exceeds `NEGLIGIBLE_ERROR`."""
        if self._num_fitted:
            logger.info(
                f"The lenses of {self._num_fitted} photos in {self._path} ({', '.join(sorted(self._models))})"
                " are approximated by cameras with fewer parameters; the largest error is"
                f" {self._max_error:.2g} pixels ({self._rms_error:.2g} in the root mean square)."
            )

    def _record(self, model: str, fitted: FittedLens) -> None:
        """Record the errors of a fitted lens, if they exceed `NEGLIGIBLE_ERROR`."""
        if fitted.max_error > NEGLIGIBLE_ERROR:
            self._num_fitted += 1
            self._models.add(model)
            self._max_error = max(self._max_error, fitted.max_error)
            self._rms_error = max(self._rms_error, fitted.rms_error)


def find_image_size(path: Path, entry: CameraEntry) -> Size:
    """Find the image size for a camera entry without `size`.

    The image file may be at the path given by the image name, relative to the folder of the camera file, or
    in the subfolder `images` of this folder. The image name may lack the extension.

    Args:
        path: The camera file.
        entry: The entry.

    Returns:
        Width and height of the stored image in pixels; the default size of the entry if no image is found.

    Raises:
        InvalidCamera: If the image cannot be read, or if no image is found and the entry has no default size.
    """
    for file in _candidates(path.parent, entry.name):
        if file.is_file():
            try:
                with open_image(file) as image:
                    return image.size
            except Exception as error:  # decoders raise many types of exceptions for damaged files
                raise InvalidCamera(
                    f"it has no image size (w and h), and its photo {file} cannot be read"
                ) from error
    if entry.default_size is not None:
        return entry.default_size
    raise InvalidCamera(
        "it has no image size (w and h), and its photo is not in the folder of the camera file"
    )


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    """Yield possible paths of an image file, for its name and the folder of the camera file."""
    *folders, last = split_path(name)
    for parent in (folder.joinpath(*folders), folder / "images"):
        yield parent / last
        for suffix in sorted(IMAGE_SUFFIXES):
            yield parent / f"{last}{suffix}"
            yield parent / f"{last}{suffix.upper()}"
