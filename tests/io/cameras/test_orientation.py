"""Cameras for stored pixels become cameras for upright pixels, which show points where photos show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image, ImageOps
from scipy.spatial.transform import Rotation

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.rigid import invert, transform
from nope_splat.io.cameras import NamedCamera, read_image_cameras
from nope_splat.io.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_binary
from nope_splat.io.exif import ExifData
from nope_splat.io.images import ImageFile

MIRRORED = (2, 4, 5, 7)
POINT = np.array([0.8, -0.5, 3.0])
DISTORTION = (0.05, 0.02, 0.3, -0.2)
"""Distortion of the camera: k1, k2, p1 and p2. The tangential terms move the point by about 20 pixels."""
TERMS = (*DISTORTION[:2], 0.0, 0.0, *DISTORTION[2:])


def image_file(name: str, size: tuple[int, int], orientation: int = 1) -> ImageFile:
    """Return an image with the given upright size and EXIF orientation."""
    return ImageFile(Path(name), name, *size, exif=ExifData(orientation=orientation))


def write_model(
    folder: Path, size: tuple[int, int], names: list[str], poses: list[np.ndarray], scale: float = 1.0
) -> Path:
    """Write a COLMAP model with an off-center camera with tangential distortion for images of a size."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = (round(scale * side) for side in size)
    focal, center = 300.0 * scale, ((size[0] / 2 + 7) * scale, (size[1] / 2 - 4) * scale)
    params = (focal, focal, *center, *DISTORTION)
    empty = np.zeros((0, 3))
    points = ColmapPoints(
        empty, empty.astype(np.uint8), np.zeros(0), np.zeros(1, np.int64), np.zeros((0, 2), np.int64)
    )
    images = {
        number: ColmapImage(name, 1, pose)
        for number, (name, pose) in enumerate(zip(names, poses, strict=True), 1)
    }
    write_binary(ColmapModel({1: ColmapCamera("OPENCV", width, height, params)}, images, points), folder)
    return folder


def poses(count: int) -> list[np.ndarray]:
    """Return world-to-camera transforms that see `POINT`."""
    result = []
    for index in range(count):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("xyz", [2 * index, 3, -4 * index], degrees=True).as_matrix()
        pose[:3, 3] = 0.1 * index, -0.05, 0.2
        result.append(pose)
    return result


def project(camera: NamedCamera, point: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    longer = max(size)
    offset = camera.offset[0] * longer, camera.offset[1] * longer
    in_pixels = Camera(camera.focal * longer, offset, camera.distortion, camera.is_fisheye)
    return in_pixels.project(transform(invert(camera.T_world_camera), point), np.array(size))


def upright_position(xy: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """Find where Pillow puts a stored pixel when it turns an image upright."""
    picture = Image.new("L", size)
    picture.putpixel((int(xy[0]), int(xy[1])), 255)
    exif = Image.Exif()
    exif[274] = orientation
    picture.info["exif"] = exif.tobytes()
    picture.getexif()[274] = orientation
    turned = np.asarray(ImageOps.exif_transpose(picture))
    row, column = np.argwhere(turned == 255)[0]
    return np.array([column + 0.5, row + 0.5])


@pytest.mark.parametrize("size", [(320, 240), (256, 256)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_projected_to_upright_pixels(
    orientation: int, size: tuple[int, int], tmp_path: Path
) -> None:
    path = write_model(tmp_path, size, ["0.jpg", "1.jpg"], poses(2))
    upright = (size[1], size[0]) if orientation >= 5 else size
    images = [image_file(f"{index}.jpg", upright, orientation) for index in range(2)]
    cameras = read_image_cameras(path, images)
    world = (
        POINT * [-1, 1, 1] if orientation in MIRRORED else POINT
    )  # the world of mirrored pixels is mirrored
    for index, pose in enumerate(poses(2)):
        x, y, z = transform(pose, POINT)
        bent = distort(np.array([x / z, y / z]), TERMS)
        stored = 300 * bent + np.array([size[0] / 2 + 7, size[1] / 2 - 4])
        expected = upright_position(stored, size, orientation)
        np.testing.assert_allclose(project(cameras[index], world, upright), expected, atol=1.0)
        assert np.linalg.det(cameras[index].T_world_camera) == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.25, 0.5, 3.0])
def test_cameras_of_another_resolution_are_scaled(scale: float, tmp_path: Path) -> None:
    images = [image_file("0.jpg", (240, 321), 6), image_file("1.jpg", (240, 321), 6)]
    full, scaled = (
        read_image_cameras(
            write_model(tmp_path / str(factor), (321, 240), ["0.jpg", "1.jpg"], poses(2), factor), images
        )
        for factor in (1.0, scale)
    )
    for index in range(2):
        np.testing.assert_allclose(full[index].T_world_camera, scaled[index].T_world_camera)
        assert scaled[index].focal == pytest.approx(full[index].focal, rel=0.01)
        assert scaled[index].offset == pytest.approx(full[index].offset, abs=0.01)


def test_cameras_for_upright_pixels_are_not_turned(tmp_path: Path) -> None:
    path = write_model(tmp_path, (240, 320), ["0.jpg", "1.jpg"], poses(2))
    cameras = read_image_cameras(path, [image_file(f"{index}.jpg", (240, 320), 6) for index in range(2)])
    for index, pose in enumerate(poses(2)):
        np.testing.assert_allclose(cameras[index].T_world_camera, invert(pose), atol=1e-12)


def test_cameras_of_exported_copies_are_not_turned(tmp_path: Path) -> None:
    path = write_model(tmp_path, (320, 240), ["0.jpg.png", "1.jpg"], poses(2))
    cameras = read_image_cameras(path, [image_file(f"{index}.jpg", (320, 240), 3) for index in range(2)])
    np.testing.assert_allclose(cameras[0].T_world_camera, invert(poses(1)[0]), atol=1e-12)
    assert not np.allclose(cameras[1].T_world_camera, invert(poses(2)[1]))


def test_another_aspect_ratio_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, (320, 240), ["0.jpg", "1.jpg"], poses(2))
    with refused("wrong-size", path, "0.jpg", "320 x 240", "320 x 180"):
        read_image_cameras(path, [image_file(f"{index}.jpg", (320, 180)) for index in range(2)])


def test_mirrored_photos_among_others_are_taken_as_upright_or_refused(tmp_path: Path) -> None:
    """Stored pixels of mirrored and of other photos cannot have cameras in one world."""
    path = write_model(tmp_path, (320, 240), ["0.jpg", "1.jpg"], poses(2))
    cameras = read_image_cameras(path, [image_file("0.jpg", (320, 240), 2), image_file("1.jpg", (320, 240))])
    np.testing.assert_allclose(cameras[0].T_world_camera, invert(poses(1)[0]), atol=1e-12)
    with refused("unreadable-file", path, "0.jpg"):
        read_image_cameras(path, [image_file("0.jpg", (240, 320), 5), image_file("1.jpg", (320, 240))])


def test_sizes_that_the_file_lacks_are_those_of_the_stored_photos(tmp_path: Path) -> None:
    frame: dict[str, Any] = {"file_path": "./images/0", "transform_matrix": np.eye(4)[:3].tolist()}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"camera_angle_x": 1.0, "frames": [frame]}))
    (camera,) = read_image_cameras(path, [image_file("0.jpg", (240, 320), 6)]).values()
    assert camera.focal == pytest.approx(0.5 / np.tan(0.5))
    (upright,) = read_image_cameras(path, [image_file("0.jpg", (240, 320))]).values()
    assert upright.focal == pytest.approx(0.75 * 0.5 / np.tan(0.5))


def test_other_photos_of_a_file_show_that_its_pixels_are_upright(tmp_path: Path) -> None:
    """The first photo is stored upside down, which its size does not show, the second one on its side."""
    size = (320, 240)
    path = write_model(tmp_path, size, ["0.jpg", "1.jpg"], poses(2))
    images = [image_file("0.jpg", size, 3), image_file("1.jpg", size, 6)]
    upright = read_image_cameras(path, [image_file("0.jpg", size), image_file("1.jpg", size)])
    for index, camera in read_image_cameras(path, images).items():
        np.testing.assert_allclose(camera.T_world_camera, upright[index].T_world_camera)
