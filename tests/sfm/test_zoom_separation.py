"""Separation of images of the same size, but of different focal lengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.synthetic import CAMERA, SyntheticScene, make_scene

from nope_splat.geometry.camera import Camera
from nope_splat.io.exif import DIAGONAL_35MM, ExifData
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.pipeline import reconstruct_from_matches

SIZE = (640, 480)
ZOOM = 1.4


def mixed_zooms() -> SyntheticScene:
    """Create a scene with a longer focal length in every second image; all images have the same size."""
    return make_scene(10, second=(Camera(ZOOM * CAMERA.focal), SIZE))


def run(made: SyntheticScene, folder: Path, held_out: list[int], exif: list[ExifData]) -> Reconstruction:
    """Reconstruct the scene from its matches."""
    images = made.write_images(folder)
    with_exif = tuple(replace(image, exif=data) for image, data in zip(images.images, exif, strict=True))
    is_held_out = np.isin(np.arange(len(exif)), held_out)
    return reconstruct_from_matches(
        replace(images, images=with_exif), is_held_out, made.matches, SfmOptions()
    )


def test_images_without_exif_are_separated_by_focal_length(tmp_path: Path) -> None:
    """A held-out image gets its camera from its matches."""
    made = mixed_zooms()
    scene = run(made, tmp_path, [5], [ExifData()] * 10)
    assert scene.registered.all()
    assert [notice.code for notice in scene.notices] == ["separated-cameras"]
    focals = np.array([scene.camera_of(image_id).focal for image_id in range(10)])
    assert focals[0::2] == pytest.approx(CAMERA.focal, rel=0.01)
    assert focals[1::2] == pytest.approx(ZOOM * CAMERA.focal, rel=0.01)


def test_exif_separates_before_reconstruction(tmp_path: Path) -> None:
    lenses = [ExifData(lens="main", focal_length=4.0), ExifData(lens="tele", focal_length=6.0)]
    scene = run(mixed_zooms(), tmp_path, [], [lenses[image_id % 2] for image_id in range(10)])
    assert scene.camera_ids.tolist() == [0, 1] * 5
    assert scene.notices == ()
    assert [camera.focal for camera in scene.cameras] == pytest.approx([700.0, ZOOM * 700.0], rel=0.01)


def test_a_wrong_exif_focal_length_is_reported(tmp_path: Path) -> None:
    """The images determine the focal length, and therefore outweigh the EXIF data."""
    wrong = ExifData(focal_length_35mm=1.3 * CAMERA.focal * DIAGONAL_35MM / np.hypot(*SIZE))
    scene = run(make_scene(8), tmp_path, [], [wrong] * 8)
    assert [notice.code for notice in scene.notices] == ["exif-focal-length"]
    assert scene.cameras[0].focal == pytest.approx(CAMERA.focal, rel=0.01)


def test_a_wrong_exif_focal_length_of_a_single_photo_does_not_matter(tmp_path: Path) -> None:
    """Its matches with photos of the other camera determine its focal length."""
    right = CAMERA.focal * DIAGONAL_35MM / np.hypot(*SIZE)
    exif = [ExifData(focal_length_35mm=right)] * 7 + [ExifData(focal_length_35mm=1.5 * right)]
    scene = run(make_scene(8), tmp_path, [], exif)
    assert scene.registered.all()
    assert [camera.focal for camera in scene.cameras] == pytest.approx(2 * [CAMERA.focal], rel=0.01)
