"""EXIF data: reading, and the focal length in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from nope_splat.io.exif import ExifData, read_exif

Tags = Mapping[Any, object]


def saved(path: Path, tags: Tags, details: Tags, gps: Tags) -> ExifData:
    """Save an image with EXIF data, and read the data back."""
    exif = Image.Exif()
    exif.update(tags)
    exif.get_ifd(IFD.Exif).update(details)
    exif.get_ifd(IFD.GPSInfo).update(gps)
    Image.new("RGB", (64, 48)).save(path, exif=exif)
    with Image.open(path) as image:
        return read_exif(image)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_values_are_read(suffix: str, tmp_path: Path) -> None:
    details = {
        Base.LensModel: "back camera",
        Base.FocalLength: IFDRational(425, 100),
        Base.FocalLengthIn35mmFilm: 26,
        Base.DigitalZoomRatio: IFDRational(10007, 10000),
        Base.ExposureTime: IFDRational(1, 50),
        Base.DateTimeOriginal: "2026:11:29 12:30:00",
    }
    gps = {
        GPS.GPSLatitudeRef: "S",
        GPS.GPSLatitude: (IFDRational(33), IFDRational(30), IFDRational(0)),
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: (IFDRational(151), IFDRational(0), IFDRational(36)),
        GPS.GPSAltitudeRef: b"\x01",
        GPS.GPSAltitude: IFDRational(25, 10),
    }
    found = saved(tmp_path / f"photo{suffix}", {Base.Orientation: 6, Base.Make: "Maker\0"}, details, gps)
    assert (found.orientation, found.make, found.model, found.lens) == (6, "Maker", "", "back camera")
    assert (found.focal_length, found.focal_length_35mm, found.exposure_time) == (4.25, 26.0, 0.02)
    assert found.digital_zoom == 1.0
    assert found.time == datetime(2026, 11, 29, 12, 30)
    assert found.latitude_longitude == pytest.approx((-33.5, 151.01))
    assert found.altitude == -2.5
    assert found.lens_key == ("Maker", "", "back camera", 26.0)


def test_nonsense_is_ignored(tmp_path: Path) -> None:
    details = {
        Base.FocalLength: IFDRational(0, 0),
        Base.FocalLengthIn35mmFilm: 65535,
        Base.DateTimeOriginal: "0000:00:00 00:00:00",
    }
    gps = {GPS.GPSLatitude: (IFDRational(200), IFDRational(0), IFDRational(0)), GPS.GPSLatitudeRef: "N"}
    assert saved(tmp_path / "photo.jpg", {Base.Orientation: 77}, details, gps) == ExifData()


def test_damaged_exif_data_are_ignored(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with Image.open(tmp_path / "photo.jpg") as image:
        assert read_exif(image) == ExifData()


@pytest.mark.parametrize(
    ("size", "focal_length", "expected"),
    [
        ((6000, 4000), None, 6000 * 26 / 36),  # uncropped 3:2
        ((4000, 3000), None, 5000 * 26 / 43.267),  # uncropped 4:3
        ((3000, 4000), None, 5000 * 26 / 43.267),  # the same, in portrait format
        ((4000, 2250), 4.25, 5000 * 26 / 43.267),  # 16:9, cropped from 4:3 at the same width
        ((3000, 3000), 4.25, 5000 * 26 / 43.267),  # square, cropped from 4:3 at the same height
        ((6000, 3375), 17.0, 6000 * 26 / 36),  # 16:9, cropped from a large 3:2 sensor
        ((9000, 3000), None, None),  # panorama
    ],
)
def test_focal_length_from_the_35_mm_equivalent(
    size: tuple[int, int], focal_length: float | None, expected: float | None
) -> None:
    found = ExifData(focal_length_35mm=26.0, focal_length=focal_length).focal_in_pixels(*size)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_focal_length_is_unknown_without_a_35_mm_equivalent() -> None:
    assert ExifData(focal_length=50.0).focal_in_pixels(2880, 1920) is None


def test_digital_zoom_is_ambiguous_except_for_known_makers() -> None:
    assert ExifData(focal_length_35mm=52.0, digital_zoom=2.0).focal_in_pixels(4000, 3000) is None
    apple = ExifData(focal_length_35mm=52.0, digital_zoom=2.0, make="Apple")
    assert apple.focal_in_pixels(4000, 3000) == pytest.approx(5000 * 52 / 43.267, rel=1e-4)
    assert apple.lens_key[-1] == 52.0
