"""EXIF data of photos: orientation, camera and lens, focal length, exposure, time and position."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

logger = logging.getLogger(__name__)

DIAGONAL_35MM = math.hypot(36, 24)
"""Diagonal of a 35 mm film frame in millimeters (43.27)."""
MIN_LENGTH, MIN_LENGTH_35MM, MAX_LENGTH = 0.5, 5.0, 3000.0
"""Limits of plausible focal lengths in millimeters: minimum of the focal length, minimum of its 35 mm
equivalent, and maximum of both."""
MAX_CROP_FACTOR_3_TO_2 = 1.7
"""Sensors with at most this crop factor (35 mm equivalent divided by focal length) are assumed to have the
aspect ratio 3:2, as full-frame (1.0) and APS-C sensors (1.5 or 1.6) do. Smaller sensors are assumed to have
the aspect ratio 4:3, as most compact cameras, phones and drones do."""
MAX_ASPECT_RATIO = 2.0
"""Largest aspect ratio (longer side divided by shorter side) of a photo; longer images are taken for stitched
panoramas."""
MIN_DIGITAL_ZOOM = 1.01
"""Minimum factor of a digital zoom. Smaller factors are ignored: phones write 1.0007 even without zoom."""
MAKERS_INCLUDING_ZOOM = frozenset({"apple"})
"""Camera makers, in lower case, that include the digital zoom in the 35 mm equivalent focal length."""


@dataclass(frozen=True)
class ExifData:
    """EXIF data of one photo. Values that are missing or implausible are replaced by defaults."""

    orientation: int = 1
    """EXIF orientation, 1 to 8: how to rotate and mirror the stored pixels to get the upright photo. 1 means
    that the stored pixels are upright."""
    make: str = ""
    """Maker of the camera."""
    model: str = ""
    """Model of the camera."""
    lens: str = ""
    """Model of the lens."""
    focal_length: float | None = None
    """Focal length of the lens in millimeters."""
    focal_length_35mm: float | None = None
    """Focal length in millimeters at which a 35 mm camera has the same diagonal field of view."""
    digital_zoom: float = 1.0
    """Factor by which the camera enlarged the center of the image; 1 without digital zoom."""
    exposure_time: float | None = None
    """Exposure time in seconds."""
    f_number: float | None = None
    """Focal length divided by the diameter of the aperture."""
    iso: float | None = None
    """Sensitivity of the sensor (ISO)."""
    time: datetime | None = None
    """Local time at which the photo was taken."""
    latitude_longitude: tuple[float, float] | None = None
    """Latitude and longitude of the camera in degrees, positive to the north and east (WGS 84)."""
    altitude: float | None = None
    """Height of the camera above sea level in meters."""

    @property
    def lens_key(self) -> tuple[str, str, str, float]:
        """Key that is equal for photos with the same lens settings: maker, model, lens and focal length.

        Photos with equal keys and sizes are assumed to have the same intrinsics. The focal length, in
        millimeters, includes the digital zoom; 0 if unknown. The 35 mm equivalent is preferred, since some
        cameras include the digital zoom only in this value.
        """
        length = self.focal_length_35mm or self.focal_length or 0.0
        is_included = self.focal_length_35mm is not None and self.make.lower() in MAKERS_INCLUDING_ZOOM
        zoom = 1.0 if is_included else self.digital_zoom
        return self.make, self.model, self.lens, round(length * zoom, 2)

    @property
    def lens_name(self) -> str:
        """Maker and model of the camera, and model of the lens, without repeated words."""
        model = (
            self.model if self.model.lower().startswith(self.make.lower()) else f"{self.make} {self.model}"
        )
        lens = self.lens.removeprefix(self.model).strip()
        return ", ".join(part for part in (model.strip(), lens) if part)

    def focal_in_pixels(self, width: int, height: int) -> float | None:
        """Compute the focal length in pixels.

        With the 35 mm equivalent f35 in millimeters, the focal length in pixels is f35 d / 43.27, where d is
        the diagonal, in pixels, of the image of the whole sensor. If the aspect ratio is not between 4:3 and
        3:2, the image is assumed to be cropped along one side from an image with the aspect ratio of the
        sensor (4:3 or 3:2). The focal plane resolution in EXIF data is not used: programs that scale photos
        keep its value, but may change the image size to which this value refers.

        Args:
            width: Width of the image in pixels.
            height: Height of the image in pixels.

        Returns:
            The focal length; None if the EXIF data do not determine it, if it is ambiguous because of a
            digital zoom, or if the image is a panorama.
        """
        longer, shorter = max(width, height), min(width, height)
        if longer > MAX_ASPECT_RATIO * shorter:
            return None
        if self.digital_zoom > 1 and self.make.lower() not in MAKERS_INCLUDING_ZOOM:
            return None
        if self.focal_length_35mm is None:
            return None
        return self.focal_length_35mm / DIAGONAL_35MM * self._sensor_diagonal(longer, shorter)

    def _sensor_diagonal(self, longer: int, shorter: int) -> float:
        """Return the diagonal, in pixels, of the image of the whole sensor, for a possibly cropped image.

        Args:
            longer: Longer side of the image in pixels.
            shorter: Shorter side of the image in pixels.
        """
        aspect = longer / shorter
        if not 4 / 3 <= aspect <= 3 / 2:
            crop_factor = (self.focal_length_35mm or 0.0) / (self.focal_length or 1.0)
            is_large = self.focal_length is not None and crop_factor <= MAX_CROP_FACTOR_3_TO_2
            sensor_aspect = 3 / 2 if is_large else 4 / 3
            if aspect > sensor_aspect:
                return longer * math.hypot(1, 1 / sensor_aspect)
            return shorter * math.hypot(1, sensor_aspect)
        return math.hypot(longer, shorter)


def read_exif(image: Image.Image) -> ExifData:
    """Read the EXIF data of an opened image.

    Args:
        image: The image. Its pixels are not decoded.

    Returns:
        The EXIF data; values that are missing, damaged or implausible are replaced by defaults.
    """
    try:
        tags = image.getexif()
        details, gps = tags.get_ifd(IFD.Exif), tags.get_ifd(IFD.GPSInfo)
    except Exception:  # Pillow raises many types of exceptions for damaged EXIF data
        logger.debug("The EXIF data are damaged.", exc_info=True)
        return ExifData()
    orientation = _number(tags, Base.Orientation)
    altitude = _number(gps, GPS.GPSAltitude, low=-math.inf)
    is_below_sea = gps.get(GPS.GPSAltitudeRef) in (1, b"\x01")
    zoom = _number(details, Base.DigitalZoomRatio) or 1.0
    return ExifData(
        orientation=int(orientation) if orientation and orientation in range(1, 9) else 1,
        make=_text(tags, Base.Make),
        model=_text(tags, Base.Model),
        lens=_text(details, Base.LensModel),
        focal_length=_plausible(_number(details, Base.FocalLength), MIN_LENGTH),
        focal_length_35mm=_plausible(_number(details, Base.FocalLengthIn35mmFilm), MIN_LENGTH_35MM),
        digital_zoom=zoom if zoom >= MIN_DIGITAL_ZOOM else 1.0,
        exposure_time=_number(details, Base.ExposureTime),
        f_number=_number(details, Base.FNumber),
        iso=_number(details, Base.ISOSpeedRatings),
        time=_time(details),
        latitude_longitude=_position(gps),
        altitude=-altitude if altitude is not None and is_below_sea else altitude,
    )


def _number(tags: Mapping[int, Any], tag: int, low: float = 0.0) -> float | None:
    """Return the first value of a tag as a number; None if missing, not finite, or not above `low`."""
    value = tags.get(tag, math.nan)
    try:
        number = float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, ArithmeticError, IndexError):
        return None
    return number if math.isfinite(number) and number > low else None


def _plausible(length: float | None, shortest: float) -> float | None:
    """Return a focal length in millimeters; None if it is missing, below `shortest` or above `MAX_LENGTH`."""
    return length if length is not None and shortest <= length <= MAX_LENGTH else None


def _text(tags: Mapping[int, Any], tag: int) -> str:
    """Return the text of a tag without unprintable characters and repeated spaces."""
    value = tags.get(tag, "")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _time(tags: Mapping[int, Any]) -> datetime | None:
    """Return the local time at which the photo was taken; None if it is missing or damaged."""
    text = _text(tags, Base.DateTimeOriginal)
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S") if text else None
    except ValueError:
        return None


def _position(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees from GPS tags; None if they are missing, damaged or both 0."""
    try:
        angles = []
        for tag, direction_tag, negative, limit in (
            (GPS.GPSLatitude, GPS.GPSLatitudeRef, "S", 90),
            (GPS.GPSLongitude, GPS.GPSLongitudeRef, "W", 180),
        ):
            degrees, minutes, seconds = (float(part) for part in tags[tag])
            angle = degrees + minutes / 60 + seconds / 3600
            if not 0 <= angle <= limit:
                return None
            angles.append(-angle if _text(tags, direction_tag).upper().startswith(negative) else angle)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (angles[0], angles[1]) if any(angles) else None  # receivers without a fix write zeros
