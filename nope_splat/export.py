"""Cameras and points in the formats of other tools: COLMAP model, nerfstudio `transforms.json`, report.

A scene with other cameras, the optimised ones for example, is exported by way of
`dataclasses.replace(scene, T_world_camera=..., camera=...)`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from nope_splat.errors import UserError
from nope_splat.reconstruction import SparseScene
from nope_splat.tracks import Observations

SIMPLE_PINHOLE = 0
"""COLMAP's number of the camera model with parameters f, cx, cy."""
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Camera axes of nerfstudio (x right, y up, z backward) against ours (x right, y down, z forward)."""


def write_colmap(scene: SparseScene, directory: Path) -> None:
    """Write a COLMAP model: `cameras.bin`, `images.bin` and `points3D.bin`.

    Holds every photograph with a pose, held-out ones included, with the observations as its 2D points.
    Photographs are numbered from 1 in the scene's order. There is one camera for each size of photograph,
    since the principal point is measured from the image's centre. COLMAP's pixel convention is ours.

    Args:
        scene: What to write.
        directory: For COLMAP's readers, a folder such as `sparse/0`; made where missing.

    Raises:
        UserError: The files cannot be written.
    """
    scene = replace(scene, observations=_merged(scene.observations, scene.resections))
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "cameras.bin").open("wb") as file:
            camera_ids = _write_colmap_cameras(scene, file)
        with (directory / "images.bin").open("wb") as file:
            _write_colmap_images(scene, camera_ids, file)
        with (directory / "points3D.bin").open("wb") as file:
            _write_colmap_points(scene, file)


def write_transforms(scene: SparseScene, photo_folder: Path, path: Path) -> None:
    """Write a nerfstudio `transforms.json`, and beside it the points as `sparse_pc.ply`.

    Holds every photograph with a pose, held-out ones included, in the world of the scene with OpenGL
    camera axes. Photographs below the folder of `path` are named relative to it, others absolutely.
    nerfstudio ignores EXIF orientation: rotated photographs must be saved upright before it reads them.

    Args:
        scene: What to write.
        photo_folder: The folder that the names of the photographs are relative to.
        path: The json file.

    Raises:
        UserError: The files cannot be written.
    """
    directory = path.parent.resolve()
    registered = np.flatnonzero(scene.registered)
    intrinsics = [_nerfstudio_intrinsics(scene, photo) for photo in registered]
    shared = intrinsics[0] if all(each == intrinsics[0] for each in intrinsics) else {}
    frames = []
    for photo, own in zip(registered, intrinsics, strict=True):
        file = (photo_folder / scene.photo_names[photo]).resolve()
        file = file.relative_to(directory) if file.is_relative_to(directory) else file
        frames.append(
            {
                "file_path": file.as_posix(),
                "transform_matrix": (scene.T_world_camera[photo] @ OPENGL_FROM_OPENCV).tolist(),
                **({} if shared else own),
            }
        )
    contents = {"camera_model": "OPENCV", **shared, "ply_file_path": "sparse_pc.ply", "frames": frames}
    with writing_to(directory):
        trimesh.PointCloud(scene.points, scene.colors).export(directory / "sparse_pc.ply")
        path.write_text(json.dumps(contents, indent=1))


def write_report(scene: SparseScene, path: Path, skipped: Mapping[str, str] | None = None) -> None:
    """Write the figures of a reconstruction as json.

    Args:
        scene: What to report on.
        path: The json file.
        skipped: Files of the folder that could not be read: name to reason.

    Raises:
        UserError: The file cannot be written.
    """
    report = summarise(scene)
    report["unregistered"] = dict(scene.failures)
    report["skipped_files"] = dict(skipped or {})
    report["held_out"] = [scene.photo_names[photo] for photo in np.flatnonzero(scene.held_out)]
    with writing_to(path.parent):
        path.write_text(json.dumps(report, indent=1))


def summarise(scene: SparseScene) -> dict[str, object]:
    """The figures of a reconstruction.

    Args:
        scene: What to report on.

    Returns:
        Plain numbers and text; lengths in pixels of the full-resolution photographs, times in seconds.
    """
    errors = scene.reprojection_errors()
    sizes = np.unique(scene.photo_sizes, axis=0)
    longer_side = int(sizes.max())
    return {
        "photos": len(scene.photo_names),
        "registered": int(scene.registered.sum()),
        "focal_px": scene.camera.focal,
        "field_of_view_degrees": float(np.rad2deg(2 * np.arctan(longer_side / (2 * scene.camera.focal)))),
        "principal_point_offset_px": list(scene.camera.offset),
        "photo_sizes": sizes.tolist(),
        "mean_reprojection_error_px": float(np.mean(errors)),
        "median_reprojection_error_px": float(np.median(errors)),
        "tracks": len(scene.points),
        "observations": len(scene.observations),
        "mean_track_length": len(scene.observations) / len(scene.points),
        "seconds": dict(scene.seconds),
        "seconds_total": sum(scene.seconds.values()),
    }


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Tell failures of writing (a full disk, a read-only folder) in one sentence.

    Args:
        directory: Where the block writes.

    Yields:
        Nothing.

    Raises:
        UserError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        advice = "free some space or choose another folder"
        raise UserError(f"cannot write to {directory} ({error.strerror or error}); {advice}") from error


def _merged(first: Observations, second: Observations) -> Observations:
    point_ids = np.concatenate([first.point_ids, second.point_ids])
    photo_ids = np.concatenate([first.photo_ids, second.photo_ids])
    order = np.lexsort([photo_ids, point_ids])
    return Observations(point_ids[order], photo_ids[order], np.concatenate([first.xy, second.xy])[order])


def _write_colmap_cameras(scene: SparseScene, file: BinaryIO) -> NDArray[np.int64]:
    """Write the cameras; returns the camera number of each photograph. (N,)."""
    sizes, camera_ids = np.unique(scene.photo_sizes, axis=0, return_inverse=True)
    camera_ids = camera_ids.reshape(-1) + 1
    used = np.unique(camera_ids[scene.registered])
    file.write(struct.pack("<Q", len(used)))
    for camera_id in used:
        width, height = sizes[camera_id - 1]
        principal_point = scene.camera.principal_points(sizes[camera_id - 1])
        file.write(struct.pack("<IiQQ", camera_id, SIMPLE_PINHOLE, width, height))
        file.write(struct.pack("<3d", scene.camera.focal, *principal_point))
    return camera_ids


def _write_colmap_images(scene: SparseScene, camera_ids: NDArray[np.int64], file: BinaryIO) -> None:
    registered = np.flatnonzero(scene.registered)
    file.write(struct.pack("<Q", len(registered)))
    for photo in registered:
        T_camera_world = np.linalg.inv(scene.T_world_camera[photo])
        x, y, z, w = Rotation.from_matrix(T_camera_world[:3, :3]).as_quat()
        file.write(struct.pack("<I7dI", photo + 1, w, x, y, z, *T_camera_world[:3, 3], camera_ids[photo]))
        file.write(scene.photo_names[photo].encode() + b"\0")
        seen = scene.observations.photo_ids == photo
        points = np.empty(seen.sum(), dtype=[("xy", "<f8", 2), ("point_id", "<u8")])
        points["xy"] = scene.observations.xy[seen]
        points["point_id"] = scene.observations.point_ids[seen] + 1
        file.write(struct.pack("<Q", len(points)) + points.tobytes())


def _write_colmap_points(scene: SparseScene, file: BinaryIO) -> None:
    observations = scene.observations
    errors = scene.reprojection_errors()
    # The place of each observation in the list of its photograph, as `_write_colmap_images` wrote it.
    rank = np.empty(len(observations), dtype=np.int64)
    for photo in np.unique(observations.photo_ids):
        seen = np.flatnonzero(observations.photo_ids == photo)
        rank[seen] = np.arange(len(seen))
    starts = np.searchsorted(observations.point_ids, np.arange(len(scene.points) + 1))
    file.write(struct.pack("<Q", len(scene.points)))
    for point, (start, end) in enumerate(pairwise(starts)):
        mean_error = float(np.mean(errors[start:end]))
        file.write(struct.pack("<Q3d3Bd", point + 1, *scene.points[point], *scene.colors[point], mean_error))
        track = np.stack([observations.photo_ids[start:end] + 1, rank[start:end]], axis=1)
        file.write(struct.pack("<Q", end - start) + track.astype("<u4").tobytes())


def _nerfstudio_intrinsics(scene: SparseScene, photo: int) -> dict[str, float | int]:
    width, height = (int(side) for side in scene.photo_sizes[photo])
    cx, cy = scene.camera.principal_points(scene.photo_sizes[photo])
    focal = scene.camera.focal
    return {"fl_x": focal, "fl_y": focal, "cx": float(cx), "cy": float(cy), "w": width, "h": height}
