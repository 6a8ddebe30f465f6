"""Cameras from photos as cameras and other programs write them are as accurate as from clean photos."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fixtures.photo_cases import PhotoCase, clean_photos, make_case
from fixtures.real_images import real_scene

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.images import find_images
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.pipeline import reconstruct

SCENES = ["Herz-Jesus-P8", pytest.param("fountain-P11", marks=pytest.mark.slow)]
MAX_RATIO = 1.3
"""Maximum error of the camera positions, as a multiple of the error from the same clean photos."""
MAX_RATIOS = {"two_zooms": 1.6, "two_zooms_without_exif": 1.6}
"""Larger maxima of some cases. Zoomed photos show half of the scene, so their poses are less accurate."""
MAX_FOCAL_ERROR = 0.003


def position_error(scene: Reconstruction, case: PhotoCase) -> float:
    """Return the absolute trajectory error in percent."""
    estimated = {
        name: scene.T_world_camera[index]
        for index, name in enumerate(scene.image_names)
        if scene.registered[index]
    }
    return compare_poses(estimated, case.poses).ate


@cache
def clean_error(name: str, num_images: int) -> float:
    """Return the absolute trajectory error from the first original photos of a scene, in percent."""
    with TemporaryDirectory() as folder:
        case = clean_photos(real_scene(name), num_images, Path(folder) / "clean")
        return position_error(reconstruct(case.data), case)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("case_name", [*MAX_RATIOS, "mixed", "endings", "wide_gamut"])
def test_photos_as_cameras_write_them(case_name: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    case = make_case(case_name, real_scene(name), tmp_path / "case")
    scene = reconstruct(case.data)
    assert scene.registered.all()
    limit = MAX_RATIOS.get(case_name, MAX_RATIO)
    assert position_error(scene, case) < limit * clean_error(name, len(case.names))
    for index, photo in enumerate(scene.image_names):
        assert scene.camera_of(index).focal == pytest.approx(case.focals[photo], rel=MAX_FOCAL_ERROR)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize(
    ("case_name", "path"),
    [
        ("turned", "sparse/0"),
        ("fisheye", "transforms.json"),
        ("full_opencv", "sparse/full"),
        ("full_opencv", "sparse/opencv"),
        ("nerf_style", "transforms.json"),
    ],
)
def test_known_cameras_of_other_programs(case_name: str, path: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    case = make_case(case_name, real_scene(name), tmp_path / "case")
    known = KnownCamerasInitialization(case.data / path)
    scene = reconstruct(find_images(case.data), options=SfmOptions(initialization=known))
    assert scene.registered.all()
    assert position_error(scene, case) < MAX_RATIO * clean_error(name, len(case.names))
    (camera,) = scene.cameras
    assert camera.focal == pytest.approx(case.focals[case.names[0]], rel=MAX_FOCAL_ERROR)
