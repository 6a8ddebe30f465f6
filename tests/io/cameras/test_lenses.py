"""Lenses of other programs project as in those programs, and are replaced by cameras or refused."""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.geometry.camera import Camera
from nope_splat.io.cameras.colmap_lenses import colmap_lens
from nope_splat.io.cameras.fitting import FittedLens, fit_lens
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
WIDE = {
    "OPENCV_FISHEYE": (0.02, -0.01, 0.003, -0.001),
    "FISHEYE": (),
    "SIMPLE_FISHEYE": (),
    "RADIAL_FISHEYE": (0.02, -0.005),
    "THIN_PRISM_FISHEYE": (0.02, -0.01, 1e-4, -2e-4, 0.003, -0.001, 2e-4, -1e-4),
    "FOV": (0.9,),
    "EUCM": (0.6, 1.1),
    "DIVISION": (-0.3,),
}
"""Parameters of lenses with a field of view of about 180 degrees, after focal lengths and principal point."""

"""Typical parameters of each model, after focal lengths and principal point."""
MODELS = [model for model in CAMERA_MODELS if model != "EQUIRECTANGULAR"]


def params(model: str) -> tuple[float, ...]:
    focals = (500.0,) if model in SINGLE_FOCAL_MODELS else (500.0, 510.0)
    return (*focals, 310.0, 250.0, *DISTORTION.get(model, ()))


def camera_of(fitted: FittedLens) -> Camera:
    offset = fitted.center[0] - 320, fitted.center[1] - 240
    return Camera(fitted.focal, offset, fitted.distortion, fitted.is_fisheye)


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
    rays, valid = lens.unproject(xy)
    assert valid.all()
    expected = np.column_stack([np.array(camera.cam_from_img(xy)), np.ones(len(xy))])
    np.testing.assert_allclose(rays / rays[:, 2:], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_fitted_cameras_project_as_the_lens_up_to_the_reported_error(model: str) -> None:
    lens = colmap_lens(model, params(model))
    fitted = fit_lens(lens, SIZE)
    xy = lens.project(points())
    in_image = ((xy >= 0) & (xy <= SIZE)).all(1)
    error = np.linalg.norm(camera_of(fitted).project(points(), np.array([640, 480])) - xy, axis=1)[in_image]
    assert error.max() < 1.1 * fitted.max_error + 1e-6
    assert fitted.rms_error <= fitted.max_error < 0.01 * 640


@pytest.mark.parametrize("model", WIDE)
def test_lenses_that_show_more_than_a_half_space_become_fisheye_cameras(model: str) -> None:
    focals = (200.0,) if model in SINGLE_FOCAL_MODELS else (200.0, 200.0)
    lens = colmap_lens(model, (*focals, 310.0, 250.0, *WIDE[model]))
    fitted = fit_lens(lens, SIZE)
    assert fitted.is_fisheye
    pixels = np.stack(np.meshgrid(np.linspace(0, 640, 31), np.linspace(0, 480, 23)), -1).reshape(-1, 2)
    rays, valid = lens.unproject(pixels)
    assert valid.mean() > 0.9
    assert rays[valid, 2].min() < 0
    error = np.linalg.norm(camera_of(fitted).project(rays, np.array([640, 480])) - pixels, axis=1)[valid]
    assert error.max() < 1.1 * fitted.max_error + 1e-6
    assert error.max() < 0.5


@pytest.mark.parametrize("model", ["FULL_OPENCV", "SIMPLE_DIVISION", "DIVISION", "FOV"])
def test_perspective_cameras_are_preferred_where_they_are_as_accurate(model: str) -> None:
    assert not fit_lens(colmap_lens(model, params(model)), SIZE).is_fisheye


def test_corners_that_a_circular_fisheye_does_not_show_do_not_matter() -> None:
    circular = Lens(
        "x", (250.0, 250.0), (320.0, 320.0), (-0.03, -0.005, 0.0, 0.0, 1e-5), projection="equidistant"
    )
    pixels = np.array([[0.5, 320.0], [0.5, 0.5]])
    assert circular.unproject(pixels)[1].tolist() == [True, False]
    assert fit_lens(circular, (640.0, 640.0)).max_error < 0.5


@pytest.mark.parametrize(
    ("model", "others", "terms"),
    [
        ("RADIAL", (-0.1, 0.02), (-0.1, 0.02, 0.0, 0.0, 0.0, 0.0)),
        ("FULL_OPENCV", (-0.1, 0.02, 0.001, 0.002, 0.0, 0.0, 0.0, 0.0), (-0.1, 0.02, 0.0, 0.0, 0.001, 0.002)),
        ("OPENCV", (-0.1, 0.02, 0.001, 0.002), (-0.1, 0.02, 0.0, 0.0, 0.001, 0.002)),
        ("OPENCV_FISHEYE", (0.1, 0.02, -0.01, 0.002), (0.1, 0.02, -0.01, 0.002, 0.0, 0.0)),
        ("RADIAL_FISHEYE", (0.1, 0.02), (0.1, 0.02, 0.0, 0.0, 0.0, 0.0)),
        ("SIMPLE_FISHEYE", (), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("focal", [200.0, 500.0])
def test_lenses_of_the_same_form_are_exact(
    model: str, others: tuple[float, ...], terms: tuple[float, ...], focal: float
) -> None:
    focals = (focal,) if model in SINGLE_FOCAL_MODELS else (focal, focal)
    fitted = fit_lens(colmap_lens(model, (*focals, 310.0, 250.0, *others)), SIZE)
    assert (fitted.focal, fitted.center, fitted.distortion) == (focal, (310.0, 250.0), terms)
    assert fitted.is_fisheye == ("FISHEYE" in model)
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
        # Rays up to 138 degrees from the optical axis differ too much from a polynomial in the angle.
        Lens("FOV", (70.0, 70.0), (320.0, 240.0), projection="fov", shape=(0.9,)),
        Lens("FULL_OPENCV", (400.0, 400.0), (320.0, 240.0), (-0.6, 0.0, 0.01)),  # folds within the image
        Lens("Brown", (500.0, 500.0), (320.0, 240.0), thin_prism=(0.1, 0.0, 0.1, 0.0)),
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
