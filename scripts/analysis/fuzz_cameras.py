"""Write the cameras of a scene in the formats of other programs: valid inputs of fuzzing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from nope_splat.geometry.axes import OPENGL_FROM_OPENCV
from nope_splat.geometry.rigid import invert
from nope_splat.io.colmap import CAMERA_MODELS, SINGLE_FOCAL_MODELS
from nope_splat.sfm import Reconstruction
from nope_splat.utils.typing import Array

Camera = tuple[str, Array, tuple[int, int], float]
"""Image name, camera-to-world transform (OpenCV axes), image size and focal length in pixels."""
UNDISTORTED_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_FISHEYE", "FISHEYE", "EQUIRECTANGULAR")
"""COLMAP's camera models without distortion."""


def write_camera_files(scene: Reconstruction, folder: Path) -> None:
    """Write the cameras of a scene in each format, to a subfolder with the name of the format.

    Args:
        scene: The scene.
        folder: Folder in which the subfolders are created.
    """
    writers: dict[str, Callable[[list[Camera], Path], None]] = {
        "realityscan": _write_realityscan,
        "metashape": _write_metashape,
        "opensfm": _write_opensfm,
        "polycam": _write_polycam,
        "colmap_lenses": _write_colmap_lenses,
        "fisheye": _write_fisheye,
    }
    cameras = list(_cameras(scene))
    for name, write in writers.items():
        (folder / name).mkdir()
        write(cameras, folder / name)


def _cameras(scene: Reconstruction) -> Iterator[Camera]:
    """Yield the cameras of the registered images."""
    for index in np.flatnonzero(scene.registered).tolist():
        width, height = scene.image_sizes[index].tolist()
        pose, focal = scene.T_world_camera[index], scene.camera_of(index).focal
        yield scene.image_names[index], pose, (width, height), focal


def _write_realityscan(cameras: list[Camera], folder: Path) -> None:
    """Write a CSV file of RealityScan."""
    lines = ["#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"]
    for name, pose, size, focal in cameras:
        rotation = Rotation.from_matrix((pose @ OPENGL_FROM_OPENCV)[:3, :3])
        heading, pitch, roll = rotation.as_euler("ZXY", degrees=True)
        lens = 36 * focal / max(size), 0, 0, 1e-3, 0, 1e-4, 0, 1e-4, 0
        values = *pose[:3, 3], -heading, pitch, roll, *lens
        lines.append(",".join([name, *map(str, values)]))
    (folder / "cameras.csv").write_text("\n".join(lines) + "\n")


def _write_metashape(cameras: list[Camera], folder: Path) -> None:
    """Write an XML file of Metashape with a group, a component and a rig of two sensors."""
    _, _, (width, height), focal = cameras[0]
    resolution = f'<resolution width="{width}" height="{height}"/>'
    lens = f"<f>{focal}</f><cx>1</cx><k1>0.01</k1><k3>0.001</k3><p1>1e-4</p1><b1>0.1</b1>"
    rotation = "<rotation>1 0 0 0 1 0 0 0 1</rotation>"
    sensors = [
        f'<sensor id="{index}" type="{kind}">{resolution}'
        f'<calibration type="{kind}" class="adjusted">{resolution}{lens}</calibration>'
        f"{rotation}<location>0.1 0 0</location></sensor>"
        for index, kind in enumerate(("frame", "fisheye", "equisolid_fisheye"))
    ]
    entries = [
        f'<camera id="{index}" sensor_id="{index % 3}" component_id="0" label="{name}"><transform>'
        f"{' '.join(map(str, pose.ravel()))}</transform></camera>"
        for index, (name, pose, *_) in enumerate(cameras[:-1])
    ]
    entries.append(f'<camera id="99" sensor_id="1" master_id="0" label="{cameras[-1][0]}"/>')
    transform = f"{rotation}<translation>1 2 3</translation><scale>2</scale>"
    (folder / "cameras.xml").write_text(
        f"<document><chunk><sensors>{''.join(sensors)}</sensors>"
        f"<components><component id='0'><transform>{transform}</transform></component></components>"
        f"<cameras><group label='g'>{''.join(entries)}</group></cameras></chunk></document>"
    )


def _write_opensfm(cameras: list[Camera], folder: Path) -> None:
    """Write a `reconstruction.json` of OpenSfM with a perspective, a Brown and a fisheye camera."""
    _, _, (width, height), focal = cameras[0]
    size = {"width": width, "height": height}
    ratio = focal / max(width, height)
    both = {"focal_x": ratio, "focal_y": ratio, "c_x": 0.01, "c_y": 0.0, "k1": 0.01, "k2": 0.0, "k3": 0.001}
    content = {
        "cameras": {
            "a": {**size, "projection_type": "perspective", "focal": ratio, "k1": 0.01, "k2": 0.0},
            "b": {**size, "projection_type": "brown", **both, "p1": 1e-4, "p2": 0.0},
            "c": {**size, "projection_type": "fisheye_opencv", **both, "k4": 0.0},
        },
        "shots": {
            name: {
                "camera": "abc"[index % 3],
                "rotation": Rotation.from_matrix(invert(pose)[:3, :3]).as_rotvec().tolist(),
                "translation": invert(pose)[:3, 3].tolist(),
            }
            for index, (name, pose, *_) in enumerate(cameras)
        },
    }
    (folder / "reconstruction.json").write_text(json.dumps([content]))


def _write_polycam(cameras: list[Camera], folder: Path) -> None:
    """Write the JSON files of Polycam."""
    target = folder / "keyframes" / "corrected_cameras"
    target.mkdir(parents=True)
    for name, pose, (width, height), focal in cameras:
        matrix = pose @ OPENGL_FROM_OPENCV
        values = {f"t_{row}{column}": matrix[row, column] for row in range(3) for column in range(4)}
        values |= {"fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2}
        file = target / f"{Path(name).stem}.json"
        file.write_text(json.dumps({**values, "width": width, "height": height}))


def _write_colmap_lenses(cameras: list[Camera], folder: Path) -> None:
    """Write a COLMAP model in text format; each image has a camera of another model, with distortion."""
    models = [model for model in CAMERA_MODELS if model not in UNDISTORTED_MODELS]
    camera_lines, image_lines = [], []
    for index, (name, pose, (width, height), focal) in enumerate(cameras):
        model = models[-1 - index % len(models)]
        start = [focal] * (1 if model in SINGLE_FOCAL_MODELS else 2) + [width / 2, height / 2]
        others = [0.002] * (CAMERA_MODELS[model] - len(start))
        camera_lines.append(" ".join(map(str, [index + 1, model, width, height, *start, *others])))
        x, y, z, w = Rotation.from_matrix(invert(pose)[:3, :3]).as_quat()
        values = [index + 1, w, x, y, z, *invert(pose)[:3, 3], index + 1, name]
        image_lines += [" ".join(map(str, values)), ""]
    (folder / "cameras.txt").write_text("\n".join(camera_lines) + "\n")
    (folder / "images.txt").write_text("\n".join(image_lines) + "\n")


def _write_fisheye(cameras: list[Camera], folder: Path) -> None:
    """Write a `transforms.json` with fisheye cameras, some without a size."""
    lenses = [
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.01, "k2": 0.001, "k3": 0.0, "k4": 0.0},
        {"camera_model": "FULL_OPENCV", "k1": 0.01, "p1": 1e-4, "k3": 0.0, "k6": 0.001},
        {"camera_model": "FISHEYE624", "distortion_params": [0.01] * 6 + [1e-4] * 6},
    ]
    frames = [
        {
            "file_path": f".\\images\\{Path(name).name}",
            "transform_matrix": (pose @ OPENGL_FROM_OPENCV)[:3].tolist(),
            "fl_x": focal,
            "w": size[0],
            "h": size[1],
            **lenses[index % 3],
        }
        for index, (name, pose, size, focal) in enumerate(cameras)
    ]
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 1.0, "frames": frames}))
