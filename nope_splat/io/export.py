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

from nope_splat.errors import UserError
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
from nope_splat.io.images import PhotoFolder, read_mask, read_photo
from nope_splat.scene.reconstruction import SparseScene
from nope_splat.scene.tracks import Observations

"""Camera axes of nerfstudio (x right, y up, z backward) against ours (x right, y down, z forward)."""

UNKNOWN_ERROR = -1.0
"""Of points behind a camera, in COLMAP's terms; its text reader knows no infinity."""


def write_colmap(scene: SparseScene, directory: Path, text: bool = False) -> None:
    """Write a COLMAP model: cameras, images and points3D.

    Holds every photograph with a pose, held-out ones included, with the observations as its 2D points.

    Args:
        scene: What to write.
        directory: For COLMAP's readers, a folder such as `sparse/0`; made where missing.
        text: Text instead of binary files.

    Raises:
        UserError: The files cannot be written.
    """
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (write_text if text else write_binary)(colmap_model(scene), directory)


def colmap_model(scene: SparseScene) -> ColmapModel:
    """The scene in COLMAP's terms.

    Photographs and points are numbered from 1 in the scene's order. Portrait and landscape photographs of one
    camera get cameras of their own, since the principal point is measured from the image's center.

    Args:
        scene: A reconstruction.

    Returns:
        Every photograph with a pose, held-out ones included.
    """
    scene = replace(scene, observations=_merged(scene.observations, scene.resections))
    observations = scene.observations
    kinds = np.column_stack([scene.camera_ids, scene.photo_sizes])
    kinds, camera_ids = np.unique(kinds, axis=0, return_inverse=True)
    camera_ids = camera_ids.reshape(-1) + 1
    images: dict[int, ColmapImage] = {}
    # The place of each observation in the list of its photograph.
    rank = np.zeros(len(observations), np.int64)
    for photo in np.flatnonzero(scene.registered).tolist():
        seen = np.flatnonzero(observations.photo_ids == photo)
        rank[seen] = np.arange(len(seen))
        images[photo + 1] = ColmapImage(
            scene.photo_names[photo],
            int(camera_ids[photo]),
            np.linalg.inv(scene.T_world_camera[photo]),
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
            tracks=np.stack([observations.photo_ids + 1, rank], axis=1),
        ),
    )


def write_transforms(
    scene: SparseScene, photo_folder: Path, path: Path, mask_folder: Path | None = None
) -> None:
    """Write a nerfstudio `transforms.json`, and beside it the points as `sparse_pc.ply`.

    Holds every photograph with a pose, held-out ones included, in the world of the scene with OpenGL
    camera axes. Photographs below the folder of `path` are named relative to it, others absolutely.
    Where photographs are held out, the file tells nerfstudio to hold the same ones out. nerfstudio ignores
    EXIF orientation: rotated photographs must be saved upright before it reads them (`place_photos`).

    Args:
        scene: What to write.
        photo_folder: The folder that the names of the photographs are relative to.
        path: The json file.
        mask_folder: The folder of masks from `place_masks`, if there are any.

    Raises:
        UserError: The files cannot be written.
    """
    directory = Path(os.path.abspath(path.parent))  # links stay links
    registered = np.flatnonzero(scene.registered)
    intrinsics = [_nerfstudio_intrinsics(scene, photo) for photo in registered]
    shared = intrinsics[0] if all(each == intrinsics[0] for each in intrinsics) else {}
    frames = []
    for photo, own in zip(registered, intrinsics, strict=True):
        name = scene.photo_names[photo]
        mask = (
            {} if mask_folder is None else {"mask_path": _seen_from(directory, mask_folder / f"{name}.png")}
        )
        frames.append(
            {
                "file_path": _seen_from(directory, photo_folder / name),
                **mask,
                "transform_matrix": (scene.T_world_camera[photo] @ OPENGL_FROM_OPENCV).tolist(),
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


def place_photos(scene: SparseScene, folder: PhotoFolder, directory: Path, copy: bool = False) -> SparseScene:
    """Put the photographs that have a pose where other tools look for them.

    Those that others would read differently (turned by EXIF orientation, HEIC, CMYK, 16 bits) are written
    anew, upright, as PNG with `.png` added to their names.

    Args:
        scene: Whose photographs.
        folder: Where they are now.
        directory: Where to put them; made where missing.
        copy: Copy instead of linking.

    Returns:
        The scene with the names that the photographs have there.

    Raises:
        UserError: The files cannot be written, or would be written among the photographs.
    """
    if directory.resolve() == folder.root.resolve():
        raise UserError(f"{directory} holds the photographs themselves; choose another output folder")
    photos = {photo.name: photo for photo in folder.photos}
    names = list(scene.photo_names)
    with writing_to(directory):
        for index in np.flatnonzero(scene.registered).tolist():
            photo = photos[names[index]]
            plain = _reads_alike(photo.path)
            names[index] = photo.name if plain else f"{photo.name}.png"
            file = directory / names[index]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            if not plain:
                Image.fromarray(read_photo(photo)).save(file)
            elif copy:
                shutil.copyfile(photo.path, file)
            else:
                file.symlink_to(photo.path.resolve())
    return replace(scene, photo_names=tuple(names))


def place_masks(scene: SparseScene, folder: PhotoFolder, directory: Path, names: Sequence[str]) -> bool:
    """Write which pixels of the photographs that have a pose are used, by their masks and transparency.

    As COLMAP and nerfstudio want them: a PNG for each photograph, `.png` added to its name, black where it is
    ignored. Where all pixels of all photographs are used, nothing is written.

    Args:
        scene: Whose photographs.
        folder: Where they are.
        directory: Where to put the masks; made where missing.
        names: Names that the photographs of the scene have elsewhere, from `place_photos`. (N,).

    Returns:
        Whether there are masks.

    Raises:
        UserError: The files cannot be written, or would be written over the masks themselves.
    """
    photos = {photo.name: photo for photo in folder.photos}
    chosen = [(photos[scene.photo_names[i]], names[i]) for i in np.flatnonzero(scene.registered).tolist()]
    masks = [read_mask(photo) for photo, _ in chosen]
    if all(mask is None for mask in masks):
        return False
    own = [photo.mask_path.resolve() for photo in folder.photos if photo.mask_path is not None]
    if any(path.is_relative_to(directory.resolve()) for path in own):
        raise UserError(f"{directory} holds the masks themselves; choose another output folder")
    with writing_to(directory):
        for (photo, name), mask in zip(chosen, masks, strict=True):
            used = np.ones((photo.height, photo.width), bool) if mask is None else mask
            file = directory / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 * used.astype(np.uint8)).save(file)
    return True


def write_report(scene: SparseScene, path: Path, skipped: Mapping[str, str] | None = None) -> None:
    """Write the figures of a reconstruction as json.

    Args:
        scene: What to report on.
        path: The json file.
        skipped: Files of the folder that could not be read: name to reason.

    Raises:
        UserError: The file cannot be written.
    """
    report = summarize(scene)
    report["unregistered"] = dict(scene.failures)
    report["skipped_files"] = dict(skipped or {})
    report["held_out"] = [scene.photo_names[photo] for photo in np.flatnonzero(scene.held_out)]
    with writing_to(path.parent):
        path.write_text(json.dumps(report, indent=1))


def summarize(scene: SparseScene) -> dict[str, object]:
    """The figures of a reconstruction.

    Args:
        scene: What to report on.

    Returns:
        Plain numbers and text; lengths in pixels of the full-resolution photographs, times in seconds.
    """
    errors = scene.reprojection_errors()
    return {
        "photos": len(scene.photo_names),
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
        UserError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        advice = "free some space or choose another folder"
        raise UserError(f"cannot write to {directory} ({error.strerror or error}); {advice}") from error


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
    photo_ids = np.concatenate([first.photo_ids, second.photo_ids])
    order = np.lexsort([photo_ids, point_ids])
    return Observations(point_ids[order], photo_ids[order], np.concatenate([first.xy, second.xy])[order])


def _camera_figures(scene: SparseScene, number: int) -> dict[str, object]:
    """The figures of one camera."""
    camera, mine = scene.cameras[number], scene.camera_ids == number
    sizes = np.unique(scene.photo_sizes[mine], axis=0)
    return {
        "photos": int(mine.sum()),
        "registered": int((scene.registered & mine).sum()),
        "photo_sizes": sizes.tolist(),
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


def _nerfstudio_intrinsics(scene: SparseScene, photo: int) -> dict[str, float | int]:
    width, height = (int(side) for side in scene.photo_sizes[photo])
    camera = scene.camera_of(photo)
    cx, cy = camera.principal_points(scene.photo_sizes[photo])
    focal, (k1, k2) = camera.focal, camera.radial
    distortion = {"k1": k1, "k2": k2} if k1 or k2 else {}
    pinhole = {"fl_x": focal, "fl_y": focal, "cx": float(cx), "cy": float(cy), "w": width, "h": height}
    return pinhole | distortion
