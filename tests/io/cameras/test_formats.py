"""Every format places known points where the program that writes it does, by the formulas of its manual."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.sparse_scene import make_scene
from scipy.spatial.transform import Rotation

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert, transform
from nope_splat.io.cameras import (
    NamedCamera,
    metashape,
    opensfm,
    read_ground_truth,
    read_named_cameras,
    realityscan,
)
from nope_splat.io.cameras.entries import CameraEntry
from nope_splat.io.export import write_colmap

SIZE = (640, 480)
RNG = np.random.default_rng(3)
ROTATIONS = Rotation.from_rotvec(RNG.normal(0, 1.5, (4, 3))).as_matrix()  # world to camera
CENTERS = RNG.uniform(-2, 2, (4, 3))
POINTS = RNG.uniform([-0.6, -0.4, 2], [0.6, 0.4, 4], (20, 3))
"""Points in camera coordinates (OpenCV axes)."""


def worlds() -> list[np.ndarray]:
    """Return the points of each camera in world coordinates."""
    return [POINTS @ rotation + center for rotation, center in zip(ROTATIONS, CENTERS, strict=True)]


def poses() -> np.ndarray:
    """Return the camera-to-world transforms, OpenCV axes."""
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = ROTATIONS.transpose(0, 2, 1), CENTERS
    return poses


def projected(camera: NamedCamera, world: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    longer = max(size)
    offset = camera.offset[0] * longer, camera.offset[1] * longer
    in_pixels = Camera(camera.focal * longer, offset, camera.distortion, camera.is_fisheye)
    return in_pixels.project(transform(invert(camera.T_world_camera), world), np.array(size))


def entry_projected(entry: CameraEntry, world: np.ndarray) -> np.ndarray:
    return entry.lens_for(SIZE).project(transform(invert(entry.T_world_camera), world))


def brown(radial: Sequence[float], p1: float, p2: float) -> np.ndarray:
    """Apply OpenCV's distortion to the points at depth one."""
    x, y = POINTS[:, 0] / POINTS[:, 2], POINTS[:, 1] / POINTS[:, 2]
    square = x**2 + y**2
    scale = 1 + sum(k * square ** (index + 1) for index, k in enumerate(radial))
    return np.column_stack(
        [
            scale * x + 2 * p1 * x * y + p2 * (square + 2 * x**2),
            scale * y + 2 * p2 * x * y + p1 * (square + 2 * y**2),
        ]
    )


def realityscan_rotation(heading: float, pitch: float, roll: float) -> np.ndarray:
    """Compute the world-to-camera rotation as Capturing Reality documents it, angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = (function([roll, pitch, heading]) for function in (np.cos, np.sin))
    return np.array(
        [
            [cx * cz + sx * sy * sz, -cx * sz + cz * sx * sy, -cy * sx],
            [-cy * sz, -cy * cz, -sy],
            [cx * sy * sz - cz * sx, cx * cz * sy + sx * sz, -cx * cy],
        ]
    )


def write_realityscan(path: Path, header: str, k3: float = 0.0, t1: float = 0.0) -> list[np.ndarray]:
    """Write a table of cameras, and return the points of each camera in world coordinates."""
    lines, points = ["#cameras 4", header], []
    for index, (heading, pitch, roll) in enumerate([(0, 0, 0), (40, 80, -20), (170, 30, 60), (-100, -50, 5)]):
        rotation = realityscan_rotation(*np.radians([heading, pitch, roll]))
        points.append(POINTS @ rotation + CENTERS[index])
        x, y, z = CENTERS[index]
        values = (x, y, z, heading, pitch, roll, 28.125, 0.01, -0.02, -0.1, 0.02, k3, 0, t1, -t1)
        lines.append(",".join([f"{index}.jpg", *(f"{value:.15g}" for value in values)]))
    path.write_text("\ufeff" + "\n".join(lines) + "\n", "utf-8")
    return points


HEADER = "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"


def test_realityscan(tmp_path: Path) -> None:
    points = write_realityscan(tmp_path / "cameras.csv", HEADER)
    cameras = read_named_cameras(tmp_path / "cameras.csv")
    assert list(cameras) == [f"{index}.jpg" for index in range(4)]
    expected = 500 * brown((-0.1, 0.02), 0, 0) + [320 + 6.4, 240 - 12.8]
    for camera, world in zip(cameras.values(), points, strict=True):
        np.testing.assert_allclose(projected(camera, world), expected, atol=1e-6)


def test_realityscan_looks_down_with_north_at_the_top(tmp_path: Path) -> None:
    write_realityscan(tmp_path / "cameras.csv", HEADER)
    camera = read_named_cameras(tmp_path / "cameras.csv")["0.jpg"]
    center = camera.T_world_camera[:3, 3]
    middle, north, east = projected(camera, center + np.array([[0, 0, -1], [0, 0.1, -1], [0.1, 0, -1]]))
    assert north[1] < middle[1]
    assert east[0] > middle[0]


def test_realityscan_distortion(tmp_path: Path) -> None:
    points = write_realityscan(tmp_path / "cameras.csv", HEADER, k3=0.01, t1=0.002)
    entries = realityscan.read_table(tmp_path, (tmp_path / "cameras.csv").read_text("utf-8"))
    expected = 500 * brown((-0.1, 0.02, 0.01), 0.002, -0.002) + [320 + 6.4, 240 - 12.8]
    for entry, world in zip(entries, points, strict=True):
        np.testing.assert_allclose(entry_projected(entry, world), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#name,x,y,alt,heading,pitch,roll\n0.jpg,1,2,3,4,5,6\n", "focal length"),
        (f"{HEADER}\n0.jpg,1,2,3\n", "0.jpg"),
        (f"{HEADER}\n0.jpg,1,2,3,4,5,o,7,0,0,0,0,0,0,0,0\n", "roll is 'o'"),
        (f"{HEADER}\n", "no cameras"),
    ],
)
def test_odd_tables_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "cameras.csv"
    path.write_text(text)
    with refused("unreadable-file", path, words):
        read_named_cameras(path)


CHUNK = """<?xml version="1.0" encoding="UTF-8"?>
<document version="2.0.0"><chunk label="Chunk 1" enabled="true">
  <sensors next_id="2">
    <sensor id="0" label="A" type="{kind}"><resolution width="640" height="480"/>
      <calibration type="{kind}" class="initial"><resolution width="640" height="480"/><f>9</f></calibration>
      <calibration type="{kind}" class="adjusted"><resolution width="640" height="480"/>
        <f>500</f><cx>6</cx><cy>-12</cy>{others}</calibration></sensor>
    <sensor id="1" label="B" type="{kind}" master_id="0"><resolution width="640" height="480"/>
      <calibration type="{kind}" class="adjusted"><resolution width="640"
      height="480"/><f>500</f></calibration>
      <rotation>{sensor_rotation}</rotation><location>{sensor_location}</location></sensor>
  </sensors>
  <components next_id="1"><component id="0">
    <transform><rotation>{rotation}</rotation><translation>1 2 3</translation><scale>2.5</scale></transform>
  </component></components>
  <cameras next_id="5">
    <group id="0" label="first"><camera id="0" sensor_id="0" component_id="0" label="a.jpg">
      <transform>{pose_0}</transform></camera></group>
    <group id="1" label="second"><camera id="1" sensor_id="0" component_id="0" label="a.jpg">
      <transform>{pose_1}</transform></camera></group>
    <camera id="2" sensor_id="0" component_id="0" label="b"><transform>{pose_2}</transform></camera>
    <camera id="3" sensor_id="1" label="c" master_id="2"/>
    <camera id="4" sensor_id="0" label="not aligned"/>
  </cameras></chunk></document>
"""


def text(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in values.ravel())


def metashape_file(path: Path, kind: str = "frame", others: str = "") -> Path:
    values = {f"pose_{index}": text(pose) for index, pose in enumerate(poses()[:3])}
    values["rotation"] = text(ROTATIONS[3])
    values |= {"sensor_rotation": text(ROTATIONS[2]), "sensor_location": "0.1 0.2 0.3"}
    path.write_text(CHUNK.format(kind=kind, others=others, **values))
    return path


def to_world(points: np.ndarray) -> np.ndarray:
    """Apply the transform of the component."""
    return 2.5 * points @ ROTATIONS[3].T + [1, 2, 3]


def test_metashape(tmp_path: Path) -> None:
    path = metashape_file(tmp_path / "cameras.xml", others="<k1>-0.1</k1><k2>0.02</k2>")
    cameras = read_named_cameras(path)
    assert list(cameras) == ["first/a.jpg", "second/a.jpg", "b", "c"]
    expected = 500 * brown((-0.1, 0.02), 0, 0) + [326, 228]
    for name, world in zip(("first/a.jpg", "second/a.jpg", "b"), worlds(), strict=False):
        np.testing.assert_allclose(projected(cameras[name], to_world(world)), expected, atol=1e-6)
    in_master = POINTS @ ROTATIONS[2].T + [0.1, 0.2, 0.3]  # the sensor's pose takes slave to master
    in_component = in_master @ ROTATIONS[2] + CENTERS[2]
    expected = 500 * brown((), 0, 0) + [320, 240]
    np.testing.assert_allclose(projected(cameras["c"], to_world(in_component)), expected, atol=1e-6)


def test_distortion_of_metashape(tmp_path: Path) -> None:
    """P1 multiplies r^2 + 2 x^2 in x; B1 and B2 are added to x."""
    others = "<k1>-0.1</k1><k3>0.01</k3><p1>0.003</p1><p2>-0.002</p2><b1>4</b1><b2>-3</b2>"
    path = metashape_file(tmp_path / "cameras.xml", others=others)
    entry = next(metashape.read_chunk(path, metashape.parse_xml(path.read_bytes())))
    plane = brown((-0.1, 0, 0.01), -0.002, 0.003)
    expected = 500 * plane + [326, 228]
    expected[:, 0] += 4 * plane[:, 0] - 3 * plane[:, 1]
    np.testing.assert_allclose(entry_projected(entry, to_world(worlds()[0])), expected, atol=1e-6)


def test_fisheye_lenses_of_metashape(tmp_path: Path) -> None:
    path = metashape_file(tmp_path / "cameras.xml", "fisheye", "<k1>-0.05</k1>")
    entry = next(metashape.read_chunk(path, metashape.parse_xml(path.read_bytes())))
    plane = POINTS[:, :2] / POINTS[:, 2:3]
    radius = np.linalg.norm(plane, axis=1, keepdims=True)
    theta = np.arctan(radius)
    expected = 500 * (1 - 0.05 * theta**2) * theta * plane / radius + [326, 228]
    np.testing.assert_allclose(entry_projected(entry, to_world(worlds()[0])), expected, atol=1e-6)


def test_odd_metashape_files_are_refused(tmp_path: Path) -> None:
    path = metashape_file(tmp_path / "cameras.xml", "spherical")
    with refused("unreadable-file", path, "spherical"):
        read_named_cameras(path)
    content = metashape_file(path).read_text()
    odd_focal = content.replace("<f>500</f>", "<f>x</f>")
    for odd in (content[:-30], odd_focal, "<a/>", content.replace("500", "0")):
        path.write_text(odd)
        with refused("unreadable-file", path):
            read_named_cameras(path)


def test_components_without_common_coordinates_are_not_mixed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = metashape_file(tmp_path / "cameras.xml")
    content = path.read_text().replace('component_id="0" label="b"', 'component_id="1" label="b"')
    path.write_text(content)
    with caplog.at_level(logging.INFO, "nope_splat"):
        assert set(read_named_cameras(path)) == {"first/a.jpg", "second/a.jpg"}
    assert "2 components" in caplog.text


def opensfm_content(camera: dict[str, Any]) -> dict[str, Any]:
    shots = {
        f"{index}.jpg": {
            "camera": "v2 phone",
            "rotation": Rotation.from_matrix(ROTATIONS[index]).as_rotvec().tolist(),
            "translation": (-ROTATIONS[index] @ CENTERS[index]).tolist(),
        }
        for index in range(4)
    }
    return {"cameras": {"v2 phone": {"width": 640, "height": 480, **camera}}, "shots": shots, "points": {}}


def test_opensfm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = opensfm_content({"projection_type": "perspective", "focal": 500 / 640, "k1": -0.1, "k2": 0.02})
    path = tmp_path / "reconstruction.json"
    path.write_text(json.dumps([{**content, "shots": {}}, content]))
    with caplog.at_level(logging.INFO, "nope_splat"):
        cameras = read_named_cameras(path)
    assert "2 reconstructions" in caplog.text
    expected = 500 * brown((-0.1, 0.02), 0, 0) + [320, 240]
    for camera, world in zip(cameras.values(), worlds(), strict=True):
        np.testing.assert_allclose(projected(camera, world), expected, atol=1e-6)


def test_brown_cameras_of_opensfm(tmp_path: Path) -> None:
    pinhole = {"focal_x": 500 / 640, "focal_y": 510 / 640, "c_x": 0.01, "c_y": -0.02}
    distortion = {"k1": -0.1, "k3": 0.02, "p1": 0.003, "p2": -0.002}
    content = opensfm_content({"projection_type": "brown", **pinhole, **distortion})
    entry = next(opensfm.read_shots(tmp_path, content))
    expected = [500, 510] * brown((-0.1, 0, 0.02), 0.003, -0.002) + [326.4, 227.2]
    np.testing.assert_allclose(entry_projected(entry, worlds()[0]), expected, atol=1e-6)


def test_panoramas_of_opensfm_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reconstruction.json"
    path.write_text(json.dumps([opensfm_content({"projection_type": "spherical"})]))
    with refused("unreadable-file", path, "spherical"):
        read_named_cameras(path)


@pytest.mark.parametrize("folder", ["keyframes/corrected_cameras", "cameras"])
def test_polycam(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    for index, pose in enumerate(poses()):
        matrix = pose @ np.diag([1, -1.0, -1.0, 1])
        values = {f"t_{row}{column}": matrix[row, column] for row in range(3) for column in range(4)}
        values |= {"fx": 500.0, "fy": 500.0, "cx": 326.0, "cy": 228.0, "width": 640, "height": 480}
        (tmp_path / folder / f"{index}.json").write_text(json.dumps({**values, "blur_score": 1.0}))
    cameras = read_named_cameras(tmp_path)
    assert list(cameras) == ["0", "1", "2", "3"]
    for camera, world in zip(cameras.values(), worlds(), strict=True):
        expected = 500 * brown((), 0, 0) + [326, 228]
        np.testing.assert_allclose(projected(camera, world), expected, atol=1e-6)


def transforms(tmp_path: Path, shared: dict[str, Any], frames: dict[str, Any] | None = None) -> Path:
    content = {
        **shared,
        "frames": [
            {
                "file_path": f".\\images\\{index}.jpg",
                "transform_matrix": (pose @ np.diag([1, -1.0, -1.0, 1]))[:3].tolist(),
                **(frames or {}),
            }
            for index, pose in enumerate(poses())
        ],
    }
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(content))
    return path


PINHOLE = {"w": 640, "h": 480, "fl_x": 500.0, "fl_y": 500.0, "cx": 326.0, "cy": 228.0}


@pytest.mark.parametrize("in_frames", [False, True])
def test_transforms_with_backslashes_and_matrices_of_three_rows(in_frames: bool, tmp_path: Path) -> None:
    values = {**PINHOLE, "camera_model": "OPENCV", "k1": -0.1, "k2": 0.02}
    path = transforms(tmp_path, {}, values) if in_frames else transforms(tmp_path, values)
    cameras = read_named_cameras(path)
    assert list(cameras) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    expected = 500 * brown((-0.1, 0.02), 0, 0) + [326, 228]
    for camera, world in zip(cameras.values(), worlds(), strict=True):
        np.testing.assert_allclose(projected(camera, world), expected, atol=1e-6)


def test_fisheye_lenses_of_transforms(tmp_path: Path) -> None:
    values = {**PINHOLE, "camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k2": -0.01}
    camera = read_named_cameras(transforms(tmp_path, values))["0.jpg"]
    plane = POINTS[:, :2] / POINTS[:, 2:3]
    radius = np.linalg.norm(plane, axis=1, keepdims=True)
    theta = np.arctan(radius)
    expected = 500 * (theta + 0.02 * theta**3 - 0.01 * theta**5) * plane / radius + [326, 228]
    np.testing.assert_allclose(projected(camera, worlds()[0]), expected, atol=1e-9)


def test_every_frame_of_transforms_may_have_another_camera_model(tmp_path: Path) -> None:
    fisheye = {"camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k3": 1e-3, "k4": 1e-4, "p1": 0.0}
    path = transforms(tmp_path, {**PINHOLE, "camera_model": "OPENCV", "k1": -0.1, "k2": 0.02, "p1": 1e-3})
    content = json.loads(path.read_text())
    content["frames"][2] |= {**fisheye, "k2": 0.0}
    path.write_text(json.dumps(content))
    cameras = read_named_cameras(path)
    for name, camera in cameras.items():
        assert camera.is_fisheye == (name == "2.jpg")
        expected = (
            (0.02, 0.0, 1e-3, 1e-4, 0.0, 0.0) if camera.is_fisheye else (-0.1, 0.02, 0.0, 0.0, 1e-3, 0.0)
        )
        assert camera.distortion == expected


@pytest.mark.parametrize("model", ["EQUIRECTANGULAR", "VR180_L", "ORTHOPHOTO", 5])
def test_other_camera_models_of_transforms_are_refused(model: object, tmp_path: Path) -> None:
    path = transforms(tmp_path, {**PINHOLE, "camera_model": model})
    with refused("unreadable-file", path, model):
        read_named_cameras(path)


def test_panoramas_are_refused_by_their_name(tmp_path: Path) -> None:
    path = transforms(tmp_path, {"w": 640, "h": 320, "camera_model": "EQUIRECTANGULAR"})
    with refused("unreadable-file", path, "EQUIRECTANGULAR, and panoramas of the whole sphere"):
        read_named_cameras(path)
    with refused("unreadable-file", path, "EQUIRECTANGULAR, and panoramas of the whole sphere"):
        read_ground_truth(path)


def test_sensors_of_a_colmap_rig_stay_cameras_of_their_own(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 2, 4
    options.num_points3D = 20
    model = pycolmap.synthesize_dataset(options)
    for camera_id, camera in model.cameras.items():
        camera.focal_length = 1000.0 + 100.0 * camera_id
    model.write(tmp_path)
    assert (tmp_path / "rigs.bin").is_file()
    cameras = read_named_cameras(tmp_path)
    assert len(cameras) == 8
    for image in model.images.values():
        camera, expected = cameras[image.name], image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(camera.T_world_camera[:3], expected, atol=1e-12)
        assert camera.focal * 1024 == pytest.approx(1000.0 + 100.0 * image.camera_id)


def test_the_colmap_model_with_the_most_photos_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_colmap(make_scene(num_images=4), tmp_path / "sparse" / "0")
    write_colmap(make_scene(num_images=9), tmp_path / "sparse" / "1")
    with caplog.at_level(logging.INFO, "nope_splat"):
        assert len(read_named_cameras(tmp_path)) == 8
    assert "2 COLMAP models" in caplog.text
    assert len(read_named_cameras(tmp_path / "sparse" / "0")) == 3
    assert len(read_named_cameras(tmp_path / "sparse" / "0" / "images.bin")) == 3
