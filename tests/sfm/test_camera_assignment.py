"""Assignment of images to cameras, and focal lengths from EXIF data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nope_splat.io.exif import ExifData
from nope_splat.io.images import ImageFile
from nope_splat.sfm.camera_assignment import assign_cameras, find_lenses, upright_from_sensor

WIDE = ExifData(make="Maker", model="Phone", lens="main", focal_length_35mm=26.0)
NONE = ExifData()
LONG = ExifData(make="Maker", model="Phone", lens="tele", focal_length_35mm=77.0)


def image(name: str, width: int, height: int, exif: ExifData = NONE) -> ImageFile:
    """Create an image without a file."""
    return ImageFile(Path(name), name, width, height, exif=exif)


def test_images_of_one_size_and_lens_share_a_camera() -> None:
    """Portrait and landscape format count as the same; cameras are numbered by their first images."""
    images = [
        image("a.jpg", 4000, 3000, WIDE),
        image("b.jpg", 3000, 4000, WIDE),
        image("c.jpg", 4000, 3000, LONG),
        image("d.jpg", 4000, 3000),
        image("sub/e.jpg", 4000, 3000, WIDE),
        image("f.jpg", 2000, 1500, WIDE),
    ]
    assert assign_cameras(images).tolist() == [0, 0, 1, 2, 0, 3]
    assert assign_cameras(images, "size").tolist() == [0, 0, 0, 0, 0, 1]
    assert assign_cameras(images, "folder").tolist() == [0, 0, 0, 0, 1, 2]


def test_each_video_has_a_camera_of_its_own() -> None:
    """With "size", videos of one size share a camera, but not with photos."""
    videos = [replace(image(f"{name}/0.jpg", 1920, 1080), video=name) for name in ("a.mp4", "a.mp4", "b.mp4")]
    images = [*videos, image("c.jpg", 1920, 1080), image("d.jpg", 1920, 1080)]
    assert assign_cameras(images).tolist() == [0, 0, 1, 2, 2]
    assert assign_cameras(images, "folder").tolist() == [0, 0, 1, 2, 2]
    assert assign_cameras(images, "size").tolist() == [0, 0, 0, 1, 1]


def test_photos_are_turned_by_their_exif_orientation() -> None:
    """One that is stored in another format than most photos of its camera was turned in an unknown way."""
    upright, quarter, half = (ExifData(orientation=number) for number in (1, 6, 3))
    images = [
        image("a.jpg", 4000, 3000, upright),
        image("b.jpg", 3000, 4000, quarter),
        image("c.jpg", 4000, 3000, half),
        image("turned by hand.jpg", 3000, 4000),
        image("another camera.jpg", 1500, 2000),
    ]
    turns = upright_from_sensor(images, np.array([0, 0, 0, 0, 1]))
    right, down = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert (turns[0] @ right).tolist() == right.tolist()
    assert (turns[1] @ right).tolist() == down.tolist()
    assert (turns[2] @ right).tolist() == (-right).tolist()
    assert not turns[3].any()
    assert turns[4].tolist() == np.eye(2).tolist()


def test_lens_of_a_camera() -> None:
    """The focal length is the median of the images, and the name is that of all images."""
    close = replace(WIDE, focal_length_35mm=27.0)
    images = [image(f"{number}.jpg", 4000, 3000, exif) for number, exif in enumerate((WIDE, WIDE, close))]
    images += [
        image("none.jpg", 4000, 3000),
        image("a.jpg", 4000, 3000, LONG),
        image("b.jpg", 4000, 3000, WIDE),
    ]
    lenses = find_lenses(images, np.array([0, 0, 0, 1, 2, 2]))
    assert [lens.name for lens in lenses] == ["Maker Phone, main", "", ""]
    assert lenses[0].focal == WIDE.focal_in_pixels(4000, 3000)
    assert lenses[1].focal is None
    assert lenses[2].focal is None  # the lenses differ
