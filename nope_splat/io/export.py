"""Export a reconstruction as a COLMAP model, a nerfstudio `transforms.json` and a JSON report.

The module `io.image_export` exports images and masks.

To export optimized cameras, put them into the reconstruction first, as `plugin.load_run.optimized_scene` does
for a training run: `dataclasses.replace(scene, T_world_camera=..., cameras=...)`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import compress
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from nope_splat.geometry.axes import OPENGL_FROM_OPENCV
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.lens_names import (
    TERM_NAMES,
    colmap_lens_model,
    intrinsics_json,
    nerfstudio_model,
)
from nope_splat.io.colmap import (
    CAMERA_MODELS,
    SINGLE_FOCAL_MODELS,
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    write_binary,
    write_text,
)
from nope_splat.io.output import check_replaceable, replacing_files
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import Observations
from nope_splat.utils.typing import Indices

logger = logging.getLogger(__name__)

UNKNOWN_ERROR = -1.0
"""COLMAP's value for an unknown reprojection error. Points behind a camera, whose error is infinite, get this
value, because COLMAP's text format cannot represent infinity."""
MODEL_FILES = tuple(
    f"{name}.{suffix}"
    for name in ("cameras", "images", "points3D", "rigs", "frames")
    for suffix in ("bin", "txt")
)
"""Names of all files that a COLMAP model may have. An export removes the files that it does not write: COLMAP
would prefer binary files to text files, and poses in `frames` to poses in `images`."""


def write_colmap(scene: Reconstruction, directory: Path, text: bool = False) -> None:
    """Write a COLMAP model (cameras, images, points3D) of all registered images, including held-out images.

    Args:
        scene: The reconstruction.
        directory: Folder of the model, by convention `sparse/0`; created if missing.
        text: Whether to write the text format instead of the binary format.

    Raises:
        NopeSplatError: If the files cannot be written, or the folder contains a COLMAP model that this
            package did not write.
    """
    with replacing_files(directory, MODEL_FILES) as staging:
        (write_text if text else write_binary)(colmap_model(scene), staging)


def colmap_model(scene: Reconstruction) -> ColmapModel:
    """Convert a reconstruction to a COLMAP model.

    COLMAP IDs of images and points are their indices in the reconstruction plus 1. Images of one camera that
    were turned upright in different ways get separate COLMAP cameras, since COLMAP cameras include image
    size, principal point and tangential distortion.

    Args:
        scene: The reconstruction.

    Returns:
        Model of all registered images, including held-out images.
    """
    scene = replace(scene, observations=_merge(scene.observations, scene.resections))
    observations = scene.observations
    lenses = scene.lens_models().distortion
    cameras = np.column_stack([scene.camera_ids, scene.image_sizes, scene.principal_points(), lenses])
    _, first_images, camera_ids = np.unique(cameras, axis=0, return_index=True, return_inverse=True)
    camera_ids = camera_ids.reshape(-1) + 1
    images: dict[int, ColmapImage] = {}
    point2d_ids = np.zeros(len(observations), np.int64)
    for image_id in np.flatnonzero(scene.registered).tolist():
        rows = np.flatnonzero(observations.image_ids == image_id)
        point2d_ids[rows] = np.arange(len(rows))
        images[image_id + 1] = ColmapImage(
            scene.image_names[image_id],
            int(camera_ids[image_id]),
            np.linalg.inv(scene.T_world_camera[image_id]),
            observations.xy[rows],
            observations.point_ids[rows] + 1,
        )
    counts = np.bincount(observations.point_ids, minlength=len(scene.points))
    errors = np.bincount(observations.point_ids, scene.reprojection_errors(), len(scene.points))
    return ColmapModel(
        cameras={
            colmap_id: _colmap_camera(scene.camera_of(image_id), scene.image_sizes[image_id])
            for colmap_id, image_id in enumerate(first_images.tolist(), start=1)
            if colmap_id in camera_ids[scene.registered]
        },
        images=images,
        points=ColmapPoints(
            xyz=scene.points,
            rgb=scene.colors,
            errors=np.where(np.isfinite(errors), errors / np.maximum(counts, 1), UNKNOWN_ERROR),
            track_starts=np.concatenate([[0], np.cumsum(counts)]),
            tracks=np.stack([observations.image_ids + 1, point2d_ids], axis=1),
        ),
    )


def write_transforms(
    scene: Reconstruction, image_folder: Path, path: Path, mask_folder: Path | None = None
) -> None:
    """Write a nerfstudio `transforms.json` and, in the same folder, the 3D points as `sparse_pc.ply`.

    The JSON file contains the poses of all registered images in the world frame of the reconstruction, with
    OpenGL camera axes. Held-out images form nerfstudio's validation split and also its test split. The path
    of an image is relative to the folder of `path` if the image is inside this folder, else absolute.
    nerfstudio ignores EXIF rotation, so images must be upright (see `export_images`).

    nerfstudio reads a single projection per file. If the reconstruction has perspective and fisheye cameras,
    the file contains the images of the more frequent projection. The other images are in a second file, in
    the same world frame: `transforms_fisheye.json` or `transforms_perspective.json`.

    Args:
        scene: The reconstruction.
        image_folder: Folder to which image names are relative.
        path: JSON file to write.
        mask_folder: Folder of the masks from `export_masks`; None to write no mask paths.

    Raises:
        NopeSplatError: If the files cannot be written, or exist and this package did not write them.
    """
    registered = np.flatnonzero(scene.registered)
    is_fisheye = scene.lens_models().is_fisheye[registered]
    mainly_fisheye = 2 * np.count_nonzero(is_fisheye) > len(registered)
    images, others = registered[is_fisheye == mainly_fisheye], registered[is_fisheye != mainly_fisheye]
    folders = image_folder, mask_folder
    with replacing_files(path.parent, _other_transforms(path)) as staging:
        trimesh.PointCloud(scene.points, scene.colors).export(staging / "sparse_pc.ply")
        _write_frames(scene, images, staging / path.name, path.parent, folders)
        if len(others):
            name = _other_transforms(path)[int(mainly_fisheye)]
            _write_frames(scene, others, staging / name, path.parent, folders)
            logger.info(
                f"nerfstudio reads either perspective or fisheye photos: {path.name} contains {len(images)}"
                f" photos, and {name} the other {len(others)}."
            )


def _other_transforms(path: Path) -> tuple[str, str]:
    """Return the names of the files beside a `transforms.json` for fisheye and for perspective cameras."""
    return f"{path.stem}_fisheye{path.suffix}", f"{path.stem}_perspective{path.suffix}"


def _write_frames(
    scene: Reconstruction, image_ids: Indices, file: Path, directory: Path, folders: tuple[Path, Path | None]
) -> None:
    """Write a `transforms.json` with images of one projection.

    Args:
        scene: The reconstruction.
        image_ids: Indices of the images. (n,).
        file: JSON file to write.
        directory: Folder in which the file will be.
        folders: Folders of images and masks (see `write_transforms`).
    """
    directory = Path(os.path.abspath(directory))  # unlike `resolve`, keeps symbolic links
    image_folder, mask_folder = folders
    intrinsics = [_nerfstudio_intrinsics(scene, image_id) for image_id in image_ids.tolist()]
    shared = intrinsics[0] if all(values == intrinsics[0] for values in intrinsics) else {}
    frames = []
    for image_id, image_intrinsics in zip(image_ids, intrinsics, strict=True):
        name = scene.image_names[image_id]
        mask = {}
        if mask_folder is not None:
            mask = {"mask_path": _relative_if_inside(directory, mask_folder / f"{name}.png")}
        frames.append(
            {
                "file_path": _relative_if_inside(directory, image_folder / name),
                **mask,
                "transform_matrix": (scene.T_world_camera[image_id] @ OPENGL_FROM_OPENCV).tolist(),
                **({} if shared else image_intrinsics),
            }
        )
    model = nerfstudio_model(scene.camera_of(int(image_ids[0])).is_fisheye)
    contents = {"camera_model": model, **shared, "ply_file_path": "sparse_pc.ply", "frames": frames}
    held_out = scene.held_out[image_ids]
    if held_out.any():
        files = [str(frame["file_path"]) for frame in frames]
        splits = {"train": ~held_out, "val": held_out, "test": held_out}
        contents |= {f"{split}_filenames": list(compress(files, rows)) for split, rows in splits.items()}
    file.write_text(json.dumps(contents, indent=1), encoding="utf-8")


def check_output_folder(directory: Path) -> None:
    """Check, before a long computation, that an output folder has no cameras that this package did not write.

    Args:
        directory: Output folder, which may not exist.

    Raises:
        NopeSplatError: If `transforms.json` or one of its companions (see `write_transforms`),
            `sparse_pc.ply`, `report.json`, or a COLMAP model in `sparse/0` exists and this package did not
            write it.
    """
    transforms = Path("transforms.json")
    names = (transforms.name, *_other_transforms(transforms), "sparse_pc.ply", "report.json")
    check_replaceable(directory, names)
    check_replaceable(directory / "sparse" / "0", MODEL_FILES)


def write_report(scene: Reconstruction, path: Path, skipped: Mapping[str, str] | None = None) -> None:
    """Write a JSON report: statistics, reliability, and the unregistered, skipped and held-out images.

    Args:
        scene: The reconstruction.
        path: JSON file to write.
        skipped: Why files were skipped: reason by file name. None if no file was skipped.

    Raises:
        NopeSplatError: If the file cannot be written, or exists and this package did not write it.
    """
    report = summarize(scene)
    report["unregistered"] = dict(scene.failures)
    report["skipped_files"] = dict(skipped or {})
    if scene.trust is not None:
        report["doubts"] = asdict(scene.trust.doubts)
        report["trust_of_images"] = {
            name: value
            for name, value in zip(scene.image_names, scene.trust.images.tolist(), strict=True)
            if np.isfinite(value)
        }
        report["trust_of_pairs"] = [
            [scene.image_names[first], scene.image_names[second], value]
            for (first, second), value in zip(
                scene.graph.edges.tolist(), scene.trust.pairs.tolist(), strict=True
            )
            if np.isfinite(value)
        ]
    report["held_out"] = [scene.image_names[image_id] for image_id in np.flatnonzero(scene.held_out)]
    with replacing_files(path.parent) as staging:
        (staging / path.name).write_text(json.dumps(report, indent=1), encoding="utf-8")


def summarize(scene: Reconstruction) -> dict[str, object]:
    """Compute the statistics of a reconstruction, such as image counts, intrinsics and reprojection errors.

    Args:
        scene: The reconstruction.

    Returns:
        JSON values by name. Focal lengths, principal point offsets and reprojection errors are in
        full-resolution pixels; times are in seconds.
    """
    errors = scene.reprojection_errors()
    return {
        "images": len(scene.image_names),
        "registered": int(scene.registered.sum()),
        "cameras": [_camera_statistics(scene, camera_id) for camera_id in range(len(scene.cameras))],
        "notices": [asdict(notice) for notice in scene.notices],
        "notice": scene.notice,
        "trust": None if scene.trust is None else scene.trust.score,
        "mean_reprojection_error_px": float(np.mean(errors)),
        "median_reprojection_error_px": float(np.median(errors)),
        "tracks": len(scene.points),
        "observations": len(scene.observations),
        "mean_track_length": len(scene.observations) / len(scene.points),
        "seconds": dict(scene.seconds),
        "seconds_total": sum(scene.seconds.values()),
    }


def _relative_if_inside(directory: Path, file: Path) -> str:
    """Return the path of a file: relative to `directory` if the file is inside this folder, else absolute."""
    file = Path(os.path.abspath(file))
    return (file.relative_to(directory) if file.is_relative_to(directory) else file).as_posix()


def _merge(first: Observations, second: Observations) -> Observations:
    """Merge two sets of observations of the same points into one set, sorted by point, then by image."""
    point_ids = np.concatenate([first.point_ids, second.point_ids])
    image_ids = np.concatenate([first.image_ids, second.image_ids])
    order = np.lexsort([image_ids, point_ids])
    return Observations(point_ids[order], image_ids[order], np.concatenate([first.xy, second.xy])[order])


def _camera_statistics(scene: Reconstruction, camera_id: int) -> dict[str, object]:
    """Compute the statistics of a camera as JSON values by name: image counts, intrinsics, field of view."""
    camera, has_camera = scene.cameras[camera_id], scene.camera_ids == camera_id
    sizes = np.unique(scene.image_sizes[has_camera], axis=0)
    model, distortion = colmap_lens_model(camera)
    return {
        "images": int(has_camera.sum()),
        "registered": int((scene.registered & has_camera).sum()),
        "image_sizes": sizes.tolist(),
        "lens_model": model,
        "focal_px": camera.focal,
        "field_of_view_degrees": camera.field_of_view(sizes[0]),
        "principal_point_offset_px": list(camera.offset),
        "distortion": distortion,
    }


def _colmap_camera(camera: Camera, size: NDArray[np.int64]) -> ColmapCamera:
    """Convert intrinsics to a COLMAP camera with the simplest model.

    `size` is the image size, which COLMAP cameras include: width and height in pixels (2,).
    """
    model, distortion = colmap_lens_model(camera)
    focals = (camera.focal,) * (1 if model in SINGLE_FOCAL_MODELS else 2)
    params = (*focals, *camera.principal_points(size).tolist(), *distortion.values())
    zeros = (0.0,) * (CAMERA_MODELS[model] - len(params))
    width, height = size.tolist()
    return ColmapCamera(model, width, height, params + zeros)


def _nerfstudio_intrinsics(scene: Reconstruction, image_id: int) -> dict[str, float | int | str]:
    """Return the intrinsics of an image in pixels under the names of `transforms.json`, without the model.

    Distortion coefficients are missing if all are zero.
    """
    camera = scene.camera_of(image_id)
    values = intrinsics_json(camera, scene.image_sizes[image_id])
    unused = {"camera_model", *(() if any(camera.distortion) else TERM_NAMES)}
    return {name: value for name, value in values.items() if name not in unused}
