"""Cameras and points in the formats of other tools: COLMAP model, nerfstudio `transforms.json`, report.

A scene with other cameras, the optimized ones for example, is exported by way of
`dataclasses.replace(scene, T_world_camera=..., cameras=...)`; `plugin.load_run` makes such a scene.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import ExifTags, Image

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.axes import OPENGL_FROM_OPENCV
from nope_splat.geometry.camera import SharedPinhole
from nope_splat.io.colmap import (
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    write_binary,
    write_text,
)
from nope_splat.io.images import ImageFolder, read_image, read_mask
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import Observations

"""Camera axes of nerfstudio (x right, y up, z backward) against ours (x right, y down, z forward)."""

UNKNOWN_ERROR = -1.0
"""Of points behind a camera, in COLMAP's terms; its text reader knows no infinity."""


def write_colmap(scene: Reconstruction, directory: Path, text: bool = False) -> None:
    """Write a COLMAP model: cameras, images and points3D.

    Holds every image with a pose, held-out ones included, with the observations as its 2D points.

    Args:
        scene: What to write.
        directory: For COLMAP's readers, a folder such as `sparse/0`; made where missing.
        text: Text instead of binary files.

    Raises:
        NopeSplatError: The files cannot be written.
    """
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (write_text if text else write_binary)(colmap_model(scene), directory)


def colmap_model(scene: Reconstruction) -> ColmapModel:
    """The scene in COLMAP's terms.

    Images and points are numbered from 1 in the scene's order. Portrait and landscape images of one
    camera get cameras of their own, since the principal point is measured from the image's center.

    Args:
        scene: A reconstruction.

    Returns:
        Every image with a pose, held-out ones included.
    """
    scene = replace(scene, observations=_merged(scene.observations, scene.resections))
    observations = scene.observations
    kinds = np.column_stack([scene.camera_ids, scene.image_sizes])
    kinds, camera_ids = np.unique(kinds, axis=0, return_inverse=True)
    camera_ids = camera_ids.reshape(-1) + 1
    images: dict[int, ColmapImage] = {}
    # The place of each observation in the list of its image.
    rank = np.zeros(len(observations), np.int64)
    for image_id in np.flatnonzero(scene.registered).tolist():
        seen = np.flatnonzero(observations.image_ids == image_id)
        rank[seen] = np.arange(len(seen))
        images[image_id + 1] = ColmapImage(
            scene.image_names[image_id],
            int(camera_ids[image_id]),
            np.linalg.inv(scene.T_world_camera[image_id]),
            observations.xy[seen],
            observations.point_ids[seen] + 1,
        )
    counts = np.bincount(observations.point_ids, minlength=len(scene.points))
    errors = np.bincount(observations.point_ids, scene.reprojection_errors(), len(scene.points))
    return ColmapModel(
        cameras={
            number: _colmap_camera(scene.cameras[kinds[number - 1, 0]], kinds[number - 1, 1:])
            for number in np.unique(camera_ids[scene.registered]).tolist()
        },
        images=images,
        points=ColmapPoints(
            xyz=scene.points,
            rgb=scene.colors,
            errors=np.where(np.isfinite(errors), errors / np.maximum(counts, 1), UNKNOWN_ERROR),
            starts=np.concatenate([[0], np.cumsum(counts)]),
            tracks=np.stack([observations.image_ids + 1, rank], axis=1),
        ),
    )


def write_transforms(
    scene: Reconstruction, image_folder: Path, path: Path, mask_folder: Path | None = None
) -> None:
    """Write a nerfstudio `transforms.json`, and beside it the points as `sparse_pc.ply`.

    Holds every image with a pose, held-out ones included, in the world of the scene with OpenGL
    camera axes. Images below the folder of `path` are named relative to it, others absolutely.
    Where images are held out, the file tells nerfstudio to hold the same ones out. nerfstudio ignores
    EXIF orientation: rotated images must be saved upright before it reads them (`place_images`).

    Args:
        scene: What to write.
        image_folder: The folder that the names of the images are relative to.
        path: The json file.
        mask_folder: The folder of masks from `place_masks`, if there are any.

    Raises:
        NopeSplatError: The files cannot be written.
    """
    directory = Path(os.path.abspath(path.parent))  # links stay links
    registered = np.flatnonzero(scene.registered)
    intrinsics = [_nerfstudio_intrinsics(scene, image_id) for image_id in registered]
    shared = intrinsics[0] if all(each == intrinsics[0] for each in intrinsics) else {}
    frames = []
    for image_id, own in zip(registered, intrinsics, strict=True):
        name = scene.image_names[image_id]
        mask = (
            {} if mask_folder is None else {"mask_path": _seen_from(directory, mask_folder / f"{name}.png")}
        )
        frames.append(
            {
                "file_path": _seen_from(directory, image_folder / name),
                **mask,
                "transform_matrix": (scene.T_world_camera[image_id] @ OPENGL_FROM_OPENCV).tolist(),
                **({} if shared else own),
            }
        )
    contents = {"camera_model": "OPENCV", **shared, "ply_file_path": "sparse_pc.ply", "frames": frames}
    held_out = scene.held_out[registered]
    if held_out.any():
        files = [str(frame["file_path"]) for frame in frames]
        splits = {"train": ~held_out, "val": held_out, "test": held_out}
        contents |= {f"{split}_filenames": list(compress(files, chosen)) for split, chosen in splits.items()}
    with writing_to(directory):
        trimesh.PointCloud(scene.points, scene.colors).export(directory / "sparse_pc.ply")
        path.write_text(json.dumps(contents, indent=1))


def place_images(
    scene: Reconstruction, folder: ImageFolder, directory: Path, copy: bool = False
) -> Reconstruction:
    """Put the images that have a pose where other tools look for them.

    Those that others would read differently (turned by EXIF orientation, HEIC, CMYK, 16 bits) are written
    anew, upright, as PNG with `.png` added to their names.

    Args:
        scene: Whose images.
        folder: Where they are now.
        directory: Where to put them; made where missing.
        copy: Copy instead of linking.

    Returns:
        The scene with the names that the images have there.

    Raises:
        NopeSplatError: The files cannot be written, or would be written among the images.
    """
    if directory.resolve() == folder.root.resolve():
        raise NopeSplatError(
            "unwritable-output", f"{directory} holds the photos themselves; choose another output folder"
        )
    images = {image.name: image for image in folder.images}
    names = list(scene.image_names)
    with writing_to(directory):
        for index in np.flatnonzero(scene.registered).tolist():
            image = images[names[index]]
            plain = _reads_alike(image.path)
            names[index] = image.name if plain else f"{image.name}.png"
            file = directory / names[index]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            if not plain:
                Image.fromarray(read_image(image)).save(file)
            elif copy:
                shutil.copyfile(image.path, file)
            else:
                file.symlink_to(image.path.resolve())
    return replace(scene, image_names=tuple(names))


def place_masks(scene: Reconstruction, folder: ImageFolder, directory: Path, names: Sequence[str]) -> bool:
    """Write which pixels of the images that have a pose are used, by their masks and transparency.

    As COLMAP and nerfstudio want them: a PNG for each image, `.png` added to its name, black where it is
    ignored. Where all pixels of all images are used, nothing is written.

    Args:
        scene: Whose images.
        folder: Where they are.
        directory: Where to put the masks; made where missing.
        names: Names that the images of the scene have elsewhere, from `place_images`. (N,).

    Returns:
        Whether there are masks.

    Raises:
        NopeSplatError: The files cannot be written, or would be written over the masks themselves.
    """
    images = {image.name: image for image in folder.images}
    chosen = [(images[scene.image_names[i]], names[i]) for i in np.flatnonzero(scene.registered).tolist()]
    masks = [read_mask(image) for image, _ in chosen]
    if all(mask is None for mask in masks):
        return False
    own = [image.mask_path.resolve() for image in folder.images if image.mask_path is not None]
    if any(path.is_relative_to(directory.resolve()) for path in own):
        raise NopeSplatError(
            "unwritable-output", f"{directory} holds the masks themselves; choose another output folder"
        )
    with writing_to(directory):
        for (image, name), mask in zip(chosen, masks, strict=True):
            used = np.ones((image.height, image.width), bool) if mask is None else mask
            file = directory / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 * used.astype(np.uint8)).save(file)
    return True


def write_report(scene: Reconstruction, path: Path, skipped: Mapping[str, str] | None = None) -> None:
    """Write the figures of a reconstruction as json.

    Args:
        scene: What to report on.
        path: The json file.
        skipped: Files of the folder that could not be read: name to reason.

    Raises:
        NopeSplatError: The file cannot be written.
    """
    report = summarize(scene)
    report["unregistered"] = dict(scene.failures)
    report["skipped_files"] = dict(skipped or {})
    report["held_out"] = [scene.image_names[image_id] for image_id in np.flatnonzero(scene.held_out)]
    with writing_to(path.parent):
        path.write_text(json.dumps(report, indent=1))


def summarize(scene: Reconstruction) -> dict[str, object]:
    """The figures of a reconstruction.

    Args:
        scene: What to report on.

    Returns:
        Plain numbers and text; lengths in pixels of the full-resolution images, times in seconds.
    """
    errors = scene.reprojection_errors()
    return {
        "images": len(scene.image_names),
        "registered": int(scene.registered.sum()),
        "cameras": [_camera_figures(scene, number) for number in range(len(scene.cameras))],
        "notice": scene.notice,
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
        NopeSplatError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise NopeSplatError(
            "unwritable-output",
            f"cannot write to {directory} ({error.strerror or error}); free some space or choose another"
            " folder",
        ) from error


def _seen_from(directory: Path, file: Path) -> str:
    """A file's path relative to a folder that it is in, else absolute; with forward slashes."""
    file = Path(os.path.abspath(file))
    return (file.relative_to(directory) if file.is_relative_to(directory) else file).as_posix()


def _reads_alike(path: Path) -> bool:
    """Whether every tool reads an image file as we do."""
    with Image.open(path) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return upright and image.mode in ("L", "RGB", "RGBA") and image.format not in ("HEIF", "HEIC")


def _merged(first: Observations, second: Observations) -> Observations:
    point_ids = np.concatenate([first.point_ids, second.point_ids])
    image_ids = np.concatenate([first.image_ids, second.image_ids])
    order = np.lexsort([image_ids, point_ids])
    return Observations(point_ids[order], image_ids[order], np.concatenate([first.xy, second.xy])[order])


def _camera_figures(scene: Reconstruction, number: int) -> dict[str, object]:
    """The figures of one camera."""
    camera, mine = scene.cameras[number], scene.camera_ids == number
    sizes = np.unique(scene.image_sizes[mine], axis=0)
    return {
        "images": int(mine.sum()),
        "registered": int((scene.registered & mine).sum()),
        "image_sizes": sizes.tolist(),
        "focal_px": camera.focal,
        "field_of_view_degrees": camera.field_of_view(sizes[0]),
        "principal_point_offset_px": list(camera.offset),
        "radial_distortion": list(camera.radial),
    }


def _colmap_camera(camera: SharedPinhole, size: NDArray[np.int64]) -> ColmapCamera:
    cx, cy = camera.principal_points(size).tolist()
    width, height = size.tolist()
    if any(camera.radial):
        return ColmapCamera("RADIAL", width, height, (camera.focal, cx, cy, *camera.radial))
    return ColmapCamera("SIMPLE_PINHOLE", width, height, (camera.focal, cx, cy))


def _nerfstudio_intrinsics(scene: Reconstruction, image_id: int) -> dict[str, float | int]:
    width, height = (int(side) for side in scene.image_sizes[image_id])
    camera = scene.camera_of(image_id)
    cx, cy = camera.principal_points(scene.image_sizes[image_id])
    focal, (k1, k2) = camera.focal, camera.radial
    distortion = {"k1": k1, "k2": k2} if k1 or k2 else {}
    pinhole = {"fl_x": focal, "fl_y": focal, "cx": float(cx), "cy": float(cy), "w": width, "h": height}
    return pinhole | distortion
