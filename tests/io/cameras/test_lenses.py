"""Lenses of other programs project as in those programs, and are replaced by pinhole cameras or refused."""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.geometry.camera import Camera
from nope_splat.io.cameras.colmap_lenses import colmap_lens
from nope_splat.io.cameras.fitting import fit_lens
from nope_splat.io.cameras.lenses import Lens, UnsuitableLens
from nope_splat.io.colmap import CAMERA_MODELS, SINGLE_FOCAL_MODELS

SIZE = (640.0, 480.0)
DISTORTION = {
    "SIMPLE_RADIAL": (-0.1,),
    "RADIAL": (-0.1, 0.02),
    "OPENCV": (-0.1, 0.02, 1e-3, -2e-3),
    "OPENCV_FISHEYE": (0.05, -0.01, 0.003, -0.001),
    "FULL_OPENCV": (-0.1, 0.02, 1e-3, -2e-3, 0.01, 0.03, -0.02, 0.01),
    "FOV": (0.6,),
    "SIMPLE_RADIAL_FISHEYE": (0.05,),
    "RADIAL_FISHEYE": (0.05, -0.01),
    "THIN_PRISM_FISHEYE": (0.05, -0.01, 1e-3, -2e-3, 0.003, -0.001, 2e-3, -1e-3),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        *(0.05, -0.01, 0.003, -0.001, 0.002, -0.001, 1e-3, -2e-3),
        *(2e-3, -1e-3, 1e-3, -2e-3),
    ),
    "SIMPLE_DIVISION": (-0.1,),
    "DIVISION": (-0.1,),
    "EUCM": (0.6, 1.1),
}
"""Typical parameters of each model, after focal lengths and principal point."""
MODELS = [model for model in CAMERA_MODELS if model != "EQUIRECTANGULAR"]


def params(model: str) -> tuple[float, ...]:
    focals = (500.0,) if model in SINGLE_FOCAL_MODELS else (500.0, 510.0)
    return (*focals, 310.0, 250.0, *DISTORTION.get(model, ()))


def points() -> np.ndarray:
    rng = np.random.default_rng(0)
    plane = rng.uniform(-0.6, 0.6, (100, 2))
    return np.column_stack([plane, np.ones(100)]) * rng.uniform(1, 3, (100, 1))


def test_all_models_of_colmap_have_their_ids_and_numbers_of_parameters() -> None:
    pycolmap = pytest.importorskip("pycolmap")
    models = {
        int(model): name for name, model in pycolmap.CameraModelId.__members__.items() if int(model) >= 0
    }
    assert [models[index] for index in sorted(models)][: len(CAMERA_MODELS)] == list(CAMERA_MODELS)
    for model, count in CAMERA_MODELS.items():
        camera = pycolmap.Camera.create_from_model_name(1, model, 500, 640, 480)
        assert len(camera.params) == count


@pytest.mark.parametrize("model", MODELS)
def test_lenses_project_and_unproject_as_colmap_does(model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera(model=model, width=640, height=480, params=params(model))
    lens = colmap_lens(model, params(model))
    xy = np.array(camera.img_from_cam(points()))
    np.testing.assert_allclose(lens.project(points()), xy, rtol=0, atol=1e-9)
    plane, valid = lens.unproject(xy)
    assert valid.all()
    np.testing.assert_allclose(plane, np.array(camera.cam_from_img(xy)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_fitted_pinhole_cameras_project_as_the_lens_up_to_the_reported_error(model: str) -> None:
    lens = colmap_lens(model, params(model))
    fitted = fit_lens(lens, SIZE)
    offset = fitted.center[0] - 320, fitted.center[1] - 240
    pinhole = Camera(fitted.focal, offset, fitted.radial)
    xy = lens.project(points())
    in_image = ((xy >= 0) & (xy <= SIZE)).all(1)
    error = np.linalg.norm(pinhole.project(points(), np.array([640, 480])) - xy, axis=1)[in_image]
    assert error.max() < 1.1 * fitted.max_error + 1e-6
    assert fitted.rms_error <= fitted.max_error < 0.01 * 640


@pytest.mark.parametrize(
    "lens",
    [
        Lens("RADIAL", (500.0, 500.0), (310.0, 250.0), (-0.1, 0.02)),
        Lens("FULL_OPENCV", (500.0, 500.0), (310.0, 250.0), (-0.1, 0.02, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_pinhole_cameras_with_radial_distortion_are_exact(lens: Lens) -> None:
    fitted = fit_lens(lens, SIZE)
    assert (fitted.focal, fitted.center, fitted.radial) == (500.0, (310.0, 250.0), (-0.1, 0.02))
    assert fitted.max_error == 0


@pytest.mark.parametrize("focal", [50.0, 5e5])
def test_scale_of_the_focal_length_does_not_matter_for_accuracy(focal: float) -> None:
    size = 1.28 * focal, 0.96 * focal
    lens = Lens("x", (focal, focal), (size[0] / 2, size[1] / 2), (-0.1, 0.02, 0.001))
    long_lens = Lens("x", (1e4, 1e4), (320.0, 240.0), (-0.1, 0.02, 0.001))
    assert fit_lens(lens, size).max_error < 1e-3 * focal
    fitted = fit_lens(long_lens, SIZE)
    assert fitted.max_error < 1e-6
    assert fitted.focal == pytest.approx(1e4, rel=1e-6)


@pytest.mark.parametrize(
    "lens",
    [
        Lens(
            "FISHEYE", (200.0, 200.0), (320.0, 240.0), projection="equidistant"
        ),  # 180 degrees at the corners
        Lens("FISHEYE", (330.0, 330.0), (320.0, 240.0), projection="equidistant"),  # 140 degrees
        Lens("FULL_OPENCV", (400.0, 400.0), (320.0, 240.0), (-0.6, 0.0, 0.01)),  # folds within the image
        Lens("OPENCV", (500.0, 500.0), (320.0, 240.0), tangential=(0.05, 0.05)),
    ],
)
def test_unsuitable_lenses_are_refused(lens: Lens) -> None:
    with pytest.raises(UnsuitableLens, match=lens.model):
        fit_lens(lens, SIZE)


def test_panoramas_are_refused() -> None:
    with pytest.raises(UnsuitableLens, match="EQUIRECTANGULAR"):
        colmap_lens("EQUIRECTANGULAR", (640.0, 480.0))


def test_sequential_terms_start_from_the_radially_distorted_point() -> None:
    both = {"radial": (0.3,), "tangential": (0.01, 0.02), "thin_prism": (0.01, 0.0, 0.02, 0.0)}
    together, sequential = (
        Lens("x", (1.0, 1.0), (0.0, 0.0), is_sequential=flag, **both)  # type: ignore[arg-type]
        for flag in (False, True)
    )
    radial = Lens("x", (1.0, 1.0), (0.0, 0.0), radial=(0.3,)).project(points())
    others = Lens("x", (1.0, 1.0), (0.0, 0.0), **{**both, "radial": ()})  # type: ignore[arg-type]
    on_plane = np.column_stack([radial, np.ones(len(radial))])
    np.testing.assert_allclose(sequential.project(points()), others.project(on_plane), atol=1e-12)
    assert np.abs(together.project(points()) - sequential.project(points())).max() > 1e-3


@pytest.mark.parametrize("model", ["UNKNOWN\nMODEL", "\n", 300 * "x"])
def test_a_message_with_an_odd_model_has_one_short_line(model: str) -> None:
    message = str(UnsuitableLens(model))
    assert "\n" not in message
    assert len(message) < 150
