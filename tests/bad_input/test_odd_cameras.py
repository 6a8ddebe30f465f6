"""Odd camera files: each ends in one sentence with its name, and nonsense is never taken for cameras."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.sparse_scene import make_scene
from fixtures.synthetic import make_scene as make_synthetic_scene

from nope_splat.cli import main
from nope_splat.evaluation.compare_cameras import compare_cameras
from nope_splat.geometry.axes import OPENGL_FROM_OPENCV
from nope_splat.io.cameras import NamedCamera, read_ground_truth, read_named_cameras
from nope_splat.io.colmap import ColmapModel, write_binary, write_text
from nope_splat.io.export import colmap_model
from nope_splat.sfm import SfmOptions, reconstruct
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization

NAN, INFINITY, HUGE = float("nan"), float("inf"), 10**400
POSE_KEYS = {"transforms.json": "transform_matrix", "ground_truth.json": "camera_to_world_opencv"}
"""Key of the poses in each kind of JSON file."""
SCENE = make_scene()
MODEL = colmap_model(SCENE)
SHEAR = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def content(pose_key: str) -> dict[str, Any]:
    """Return the content of a valid file: six cameras that share their intrinsics."""
    flip = OPENGL_FROM_OPENCV if pose_key == "transform_matrix" else np.eye(4)
    frames = [
        {"file_path": f"images/{i}.jpg", pose_key: (SCENE.T_world_camera[i] @ flip).tolist()}
        for i in np.flatnonzero(SCENE.registered).tolist()
    ]
    return {"w": 640, "h": 480, "fl_x": 611.0, "fl_y": 611.0, "frames": frames}


VALUES: dict[str, list[tuple[object, str]]] = {
    "w": [(0, "0 x 480"), (-320, "-320 x 480"), (NAN, "w is nan"), (HUGE, "w is"), ([640], "w is [640]")],
    "h": [(0, "640 x 0"), (INFINITY, "h is inf"), (None, "h is None")],
    "fl_x": [
        (0, "focal length is 0"),
        (-611, "focal length is -611"),
        (NAN, "fl_x is nan"),
        (INFINITY, "fl_x is inf"),
        (True, "fl_x is True"),
        ("x", "fl_x is 'x'"),
        (HUGE, "fl_x is"),
        (1e-9, "1e-09 pixels is impossible"),
        (1e29, "1e+29 pixels is impossible"),
    ],
    "fl_y": [(-611, "focal length is -611"), (False, "fl_y is False")],
    "cx": [("x", "cx is 'x'"), (HUGE, "cx is"), (1e300, "cx is 1e+300")],
    "cy": [(NAN, "cy is nan")],
    "k1": [(None, "k1 is None"), (HUGE, "k1 is")],
    "k2": [(INFINITY, "k2 is inf")],
    "frames": [(value, "frames") for value in (5, True, {"a": 1}, [1], [None], "abc", None)],
}
"""Odd values of the shared entries, and words of the message."""
POSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NaN": (lambda pose: pose * NAN, "not finite"),
    "infinity": (lambda pose: pose + INFINITY, "not finite"),
    "1e308": (lambda pose: 0 * pose + 1e308, "not finite"),
    "far away": (lambda pose: pose + 1e200 * np.eye(4, k=3), "not finite"),
    "zeros": (lambda pose: 0 * pose, "last row"),
    "no rotation": (lambda pose: np.diag([0, 0, 0, 1]), "not a rotation"),
    "sheared": (lambda pose: pose @ SHEAR, "not a rotation"),
    "2 x 2": (lambda pose: np.eye(2), "shape"),
    "text": (lambda pose: np.array("x"), "'x'"),
    "empty": (lambda pose: np.zeros(0), "shape"),
    "transposed": (lambda pose: pose.T, "transposed"),
    "mirrored camera": (lambda pose: pose @ np.diag([-1, 1, 1, 1]), "rotation matrix has determinant -1"),
    "mirrored world": (lambda pose: pose[[0, 2, 1, 3]], "rotation matrix has determinant -1"),
}
"""Odd poses from good ones, and words of the message."""
NAMES: list[tuple[object, str]] = [
    (5, "frame 3"),
    (None, "frame 3"),
    ("", "frame 3"),
    ("images/0.jpg", "images/0.jpg"),
    ("images/a\n.jpg", "control characters"),
    ("images/\ud800.jpg", "control characters"),
]
"""Odd names of the third frame, and words of the message."""


def odd_json(pose_key: str) -> dict[str, tuple[object, str]]:
    """Return the contents of odd JSON files, and words of their messages."""
    files: dict[str, tuple[object, str]] = {"a list": ([1], "JSON object")}
    for key, values in VALUES.items():
        for value, words in values:
            files[f"{key} {value!r:.20}"] = content(pose_key) | {key: value}, words
    for name, (edit, words) in POSES.items():
        files[f"pose {name}"] = values = content(pose_key), words
        frame = values[0]["frames"][2]
        frame[pose_key] = edit(np.array(frame[pose_key])).tolist()
    for name, words in NAMES:
        files[f"name {name!r}"] = values = content(pose_key), words
        values[0]["frames"][2]["file_path"] = name
    for missing in ("w", "fl_x", "frames"):
        files[f"no {missing}"] = values = content(pose_key), ""
        del values[0][missing]
    files["no pose"] = content(pose_key) | {"frames": [{"file_path": "a.jpg"}]}, "a.jpg"
    return files


ODD_JSON = {name: odd_json(key) for name, key in POSE_KEYS.items()}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Return a valid file of the same cameras."""
    path = tmp_path / "good.json"
    path.write_text(json.dumps(content("transform_matrix")))
    return path


def assert_refused(path: Path, words: str, good: Path) -> None:
    """Assert that comparing refuses the cameras, as the first or the second argument."""
    for arguments in ([path, good], [good, path]):
        with refused("unreadable-file", path, words):
            main(["compare-cameras", *map(str, arguments)])


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind in ODD_JSON for case in ODD_JSON[kind]])
def test_odd_json_is_refused(kind: str, case: str, good: Path, tmp_path: Path) -> None:
    values, words = ODD_JSON[kind][case]
    path = tmp_path / kind
    path.write_text(json.dumps(values))
    assert_refused(path, words, good)
    if kind == "ground_truth.json":
        with refused("unreadable-file", path, words):
            read_ground_truth(path)


TEXTS = {
    "deep": "[" * 100_000,
    "deep frames": '{"frames": ' + "[" * 100_000,
    "huge": json.dumps(content("transform_matrix")).replace("611.0", "9" * 5000),
    "not UTF-8": '{"frames": [{"file_path": "\udcff"}]}',
}
"""Files that are not even JSON, or not within Python's limits."""


@pytest.mark.parametrize("case", TEXTS)
def test_odd_text_is_refused(case: str, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    path.write_bytes(TEXTS[case].encode("utf8", "surrogateescape"))
    assert_refused(path, "", good)


def test_an_angle_of_view_must_be_possible(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "blender.json"
    values = content("transform_matrix")
    del values["fl_x"], values["fl_y"]
    for angle in (0, -1, 4, NAN):
        path.write_text(json.dumps(values | {"camera_angle_x": angle}))
        assert_refused(path, f"camera_angle_x is {angle}", good)
    path.write_text(json.dumps(values | {"camera_angle_x": 1.0}))
    assert read_named_cameras(path)["0.jpg"].focal == pytest.approx(0.5 / np.tan(0.5))


def odd_models() -> dict[str, tuple[ColmapModel, str]]:
    """Return COLMAP models with odd values, and words of their messages."""
    camera_id, camera = next(iter(MODEL.cameras.items()))
    image_id, image = next(iter(MODEL.images.items()))
    focal, *center = camera.params
    cameras = {
        "width 0": (replace(camera, width=0), "0 x 640"),
        "focal 0": (replace(camera, params=(0.0, *center)), "focal length is 0"),
        "focal -1": (replace(camera, params=(-1.0, *center)), "focal length is -1"),
        "focal NaN": (replace(camera, params=(NAN, *center)), "focal length is nan"),
        "center": (replace(camera, params=(focal, INFINITY, 3.0)), "not finite"),
    }
    images = {
        "far away": (image.T_camera_world + 1e200 * np.eye(4, k=3), image.camera_id, "not finite"),
        "no such camera": (image.T_camera_world, 77, "camera 77"),
    }
    return {
        name: (replace(MODEL, cameras={**MODEL.cameras, camera_id: odd}), words)
        for name, (odd, words) in cameras.items()
    } | {
        name: (
            replace(
                MODEL,
                images={**MODEL.images, image_id: replace(image, T_camera_world=pose, camera_id=number)},
            ),
            words,
        )
        for name, (pose, number, words) in images.items()
    }


@pytest.mark.parametrize("write", [write_binary, write_text])
@pytest.mark.parametrize("case", odd_models())
def test_odd_colmap_models_are_refused(
    case: str, write: Callable[[ColmapModel, Path], None], good: Path, tmp_path: Path
) -> None:
    model, words = odd_models()[case]
    folder = tmp_path / "model"
    folder.mkdir()
    write(model, folder)
    assert_refused(folder, words, good)


def changed(content: bytes, offset: int, layout: str, value: float) -> bytes:
    """Overwrite a value of a binary file."""
    packed = struct.pack(f"<{layout}", value)
    return content[:offset] + packed + content[offset + len(packed) :]


BINARY: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "model -1": ("cameras.bin", lambda c: changed(c, 12, "i", -1), "unknown model -1"),
    "model 99": ("cameras.bin", lambda c: changed(c, 12, "i", 99), "unknown model 99"),
    "size of 2^63": ("cameras.bin", lambda c: changed(c, 16, "Q", 2**63), "impossible"),
    "2^64 cameras": ("cameras.bin", lambda c: changed(c, 0, "Q", 2**64 - 1), "cameras.bin is cut off"),
    "one camera less": ("cameras.bin", lambda c: changed(c, 0, "Q", 1), "cameras.bin contains data"),
    "2^63 images": ("images.bin", lambda c: changed(c, 0, "Q", 2**63), "images.bin is cut off"),
    "one image less": ("images.bin", lambda c: changed(c, 0, "Q", 5), "images.bin contains data"),
    "quaternion 0": ("images.bin", lambda c: c[:12] + bytes(32) + c[44:], "quaternion"),
    "quaternion NaN": ("images.bin", lambda c: changed(c, 12, "d", NAN), "not finite"),
    "translation NaN": ("images.bin", lambda c: changed(c, 44, "d", NAN), "not finite"),
    "name not UTF-8": ("images.bin", lambda c: changed(c, 72, "B", 255), "decode"),
    "name without end": ("images.bin", lambda c: c[:72] + 9000 * b"a", "not terminated"),
    "2^63 observations": (
        "images.bin",
        lambda c: changed(c, c.index(b"\0", 72) + 1, "Q", 2**63),
        "cut off in the observations",
    ),
    "cut within observations": ("images.bin", lambda c: c[:-30], "cut off in the observations"),
    "empty": ("images.bin", lambda c: b"", "cut off"),
}
"""Edited file of a binary model, the edit, and words of the message."""


@pytest.mark.parametrize("case", BINARY)
def test_odd_binary_models_are_refused(case: str, good: Path, tmp_path: Path) -> None:
    name, edit, words = BINARY[case]
    folder = tmp_path / "model"
    folder.mkdir()
    write_binary(MODEL, folder)
    (folder / name).write_bytes(edit((folder / name).read_bytes()))
    assert_refused(folder, words, good)


def test_a_model_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    write_binary(MODEL, tmp_path)
    for file in (tmp_path / "cameras.bin", tmp_path / "images.bin"):
        whole = file.read_bytes()
        for length in range(0, len(whole), 7):
            file.write_bytes(whole[:length])
            with refused("unreadable-file", tmp_path):
                read_named_cameras(tmp_path)
        file.write_bytes(whole)
    assert len(read_named_cameras(tmp_path)) == 6


TEXT: dict[str, tuple[str, str, str, str]] = {
    "model FANCY": ("cameras.txt", "SIMPLE_PINHOLE", "FANCY", "unknown model FANCY"),
    "no parameters": ("cameras.txt", " 611.0 243.5 318.0", "", "0 parameters"),
    "few parameters": ("cameras.txt", " 611.0 243.5 318.0", " 611.0", "1 parameters"),
    "many parameters": ("cameras.txt", " 611.0 243.5 318.0", " 611.0 611.0 243.5 318.0", "4 parameters"),
    "no size": ("cameras.txt", " 480 640 611.0 243.5 318.0", "", "not enough values"),
    "huge width": ("cameras.txt", " 480 640 ", f" {HUGE} 640 ", "size is"),
    "huge number": ("cameras.txt", " 480 640 ", f" {'9' * 5000} 640 ", "digits"),
    "a letter": ("cameras.txt", " 611.0 ", " o ", "'o'"),
    "few numbers": ("images.txt", " 1 sub folder", " sub folder", "'sub'"),
    "no name": ("images.txt", " sub folder/photo 0.jpg", "", "images.txt"),
    "no observations": ("images.txt", "photo 0.jpg\n", "photo 0.jpg\n1 ", "observations"),
}
"""Edited file of a text model, the text, its replacement, and words of the message."""


@pytest.mark.parametrize("case", TEXT)
def test_odd_text_models_are_refused(case: str, good: Path, tmp_path: Path) -> None:
    name, old, new, words = TEXT[case]
    folder = tmp_path / "model"
    folder.mkdir()
    write_text(MODEL, folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    assert_refused(folder, words, good)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [("/a/0.jpg", "b/0.jpg", "absolute"), ("a/0.jpg", "./a/0.jpg", "same")],
)
def test_names_that_cannot_be_told_apart_are_refused(
    first: str, second: str, words: str, good: Path, tmp_path: Path
) -> None:
    values = content("transform_matrix")
    for frame, name in zip(values["frames"], (first, second), strict=False):
        frame["file_path"] = name
    path = tmp_path / "names.json"
    path.write_text(json.dumps(values))
    assert_refused(path, words, good)


def test_names_outside_the_folder_are_read(tmp_path: Path) -> None:
    values = content("transform_matrix")
    for frame, name in zip(values["frames"], ("/a/x.jpg", "../y.jpg", "../../z.jpg"), strict=False):
        frame["file_path"] = name
    path = tmp_path / "names.json"
    path.write_text(json.dumps(values))
    assert {"x.jpg", "y.jpg", "z.jpg"} < read_named_cameras(path).keys()


def test_rounded_and_scaled_rotations_are_read(good: Path, tmp_path: Path) -> None:
    expected = read_named_cameras(good)
    values = content("transform_matrix")
    for frame in values["frames"]:
        pose = np.array(frame["transform_matrix"])
        pose[:3, :3] = 3 * pose[:3, :3].round(4)
        frame["transform_matrix"] = pose.tolist()
    path = tmp_path / "scaled.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(values).encode())  # Windows marks UTF-8 files
    for name, camera in read_named_cameras(path).items():
        np.testing.assert_allclose(camera.T_world_camera, expected[name].T_world_camera, atol=1e-4)


@pytest.mark.parametrize("case", ["pose mirrored world", "fl_x 0", "w -320", "frames 5"])
def test_odd_known_cameras_are_refused(case: str, tmp_path: Path) -> None:
    values, words = ODD_JSON["transforms.json"][case]
    folder = make_synthetic_scene(3).write_images(tmp_path)
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(values))
    with refused("unreadable-file", path, words):
        reconstruct(folder, options=SfmOptions(initialization=KnownCamerasInitialization(path)))


def test_one_camera_has_no_relative_pose() -> None:
    cameras = {"a.jpg": NamedCamera(np.eye(4), 1.0)}
    with refused("no-cameras", "a.jpg"):
        compare_cameras(cameras, cameras)


def test_a_reference_at_one_place_has_no_trajectory_error() -> None:
    reference = {name: NamedCamera(np.eye(4), 1.0) for name in "abc"}
    moved = {name: NamedCamera(SCENE.T_world_camera[i], 1.0) for i, name in enumerate("abc")}
    with np.errstate(all="raise"):
        assert np.isnan(compare_cameras(moved, reference).ate)
