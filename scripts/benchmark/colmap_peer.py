r"""Reconstruct with COLMAP through pycolmap: the first half of the baseline COLMAP + splatfacto.

    python -m scripts.benchmark.colmap_peer features --images DIR --names A.jpg C.jpg --held-out B.jpg \
        --work-dir WORK
    python -m scripts.benchmark.colmap_peer map --images DIR --training-images DIR --work-dir WORK \
        --output-dir OUT --mapper incremental

Only the training images are matched and mapped. Held-out images are matched to the training images in a
separate database and registered against the finished points, as in nope-splat. `OUT/model` is COLMAP's model,
`OUT/cameras.json` contains its cameras, and `OUT/splat` is the input folder of `splatfacto_peer.py`, at
training resolution.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
import tyro
from numpy.typing import NDArray
from PIL import Image

from nope_splat.geometry.camera import Camera
from nope_splat.matching import PairMatches
from nope_splat.sfm.registration.resection import find_correspondences, resect
from scripts.benchmark.camera_file import CameraFile, Poses

Mapper = Literal["incremental", "global"]
TRAINING, EVERYTHING = "training.db", "everything.db"


def find_features(images: Path, names: tuple[str, ...], held_out: tuple[str, ...], work_dir: Path) -> None:
    """Extract keypoints and match all pairs of images of one camera with unknown focal length.

    Writes the databases `training.db` and `everything.db`, which also contains the held-out images, and
    `features.json` with the seconds that `training.db` took.

    Args:
        images: Folder of the images.
        names: Names of the training images.
        held_out: Names of the held-out images.
        work_dir: Output folder, which must not contain databases.
    """
    seconds = _features(images, names, work_dir / TRAINING)
    shutil.copy(work_dir / TRAINING, work_dir / EVERYTHING)
    if held_out:
        with pycolmap.Database.open(work_dir / EVERYTHING) as database:
            (camera_id,) = {image.camera_id for image in database.read_all_images()}
        _features(images, held_out, work_dir / EVERYTHING, camera_id)
    (work_dir / "features.json").write_text(json.dumps(seconds))


def _features(
    images: Path, names: tuple[str, ...], database: Path, camera_id: int | None = None
) -> dict[str, float]:
    """Extract keypoints of images and match all pairs in a database.

    Args:
        images: Folder of the images.
        names: Names of the images to add to the database.
        database: Database file, created if missing.
        camera_id: Existing camera of the images; None to create a camera.

    Returns:
        Seconds of keypoint extraction and of matching.
    """
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    if camera_id is not None:
        reader.existing_camera_id = camera_id
    pycolmap.set_random_seed(0)
    start = time.perf_counter()
    pycolmap.extract_features(
        database,
        images,
        image_names=list(names),
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        device=pycolmap.Device.cpu,
    )
    between = time.perf_counter()
    pycolmap.match_exhaustive(database, device=pycolmap.Device.cpu)
    return {"features": between - start, "matching": time.perf_counter() - between}


@dataclass(frozen=True)
class MapSettings:
    """Settings of COLMAP's mapper."""

    images: Path
    """Folder of the images."""
    work_dir: Path
    """Folder of the databases, from the command `features`."""
    training_images: Path
    """Folder of the images at training resolution, as `.png`."""
    output_dir: Path
    """Output folder of the model, the cameras and the input of splatfacto."""
    mapper: Mapper = "incremental"
    """COLMAP's mapper: "incremental", or "global" (GLOMAP)."""
    principal_point: bool = False
    """Also refine the principal point, which all images share."""
    everything: bool = False
    """Also map the held-out images, to obtain reference cameras."""
    seed: int = 0
    """Seed of the mapper."""


def map_images(settings: tyro.conf.OmitArgPrefixes[MapSettings]) -> None:
    """Reconstruct the training images, then register the held-out images.

    Writes the largest model, `cameras.json` and the input folder of splatfacto.

    Args:
        settings: Settings of the mapper.

    Raises:
        SystemExit: If COLMAP finds no model.
    """
    models, folder = settings.output_dir / "models", settings.output_dir / "model"
    models.mkdir(parents=True)
    folder.mkdir()
    seconds = json.loads((settings.work_dir / "features.json").read_text())
    start = time.perf_counter()
    model = _map(settings, models)
    seconds["mapping"] = time.perf_counter() - start
    model.write(folder)
    (camera,) = {image.camera_id: model.camera(image.camera_id) for image in _registered(model)}.values()
    size = np.array([camera.width, camera.height])
    offset = camera.params[1:] - size / 2
    pinhole = Camera(float(camera.params[0]), (float(offset[0]), float(offset[1])))
    held_out = {} if settings.everything else _register_held_out(model, pinhole, settings)
    CameraFile(
        T_world_camera={image.name: _pose(image) for image in _registered(model)},
        held_out=held_out,
        focal=pinhole.focal,
        offset=pinhole.offset,
        num_points=model.num_points3D(),
        median_depth=_median_depth(model),
        seconds=seconds,
    ).save(settings.output_dir / "cameras.json")
    _write_splat_folder(model, settings.training_images, settings.output_dir / "splat")


def _map(settings: MapSettings, models: Path) -> pycolmap.Reconstruction:
    database = settings.work_dir / (EVERYTHING if settings.everything else TRAINING)
    if settings.mapper == "incremental":
        incremental = pycolmap.IncrementalPipelineOptions(
            min_model_size=3, random_seed=settings.seed, ba_refine_principal_point=settings.principal_point
        )
        models_by_id = pycolmap.incremental_mapping(database, settings.images, models, incremental)
    else:
        options = pycolmap.GlobalPipelineOptions(random_seed=settings.seed)
        models_by_id = pycolmap.global_mapping(database, settings.images, models, options)
    if not models_by_id:
        raise SystemExit("COLMAP finds no model")
    model = max(models_by_id.values(), key=lambda model: model.num_reg_images())
    if settings.mapper == "global" and settings.principal_point:
        pycolmap.bundle_adjustment(model, pycolmap.BundleAdjustmentOptions(refine_principal_point=True))
    return model


def _write_splat_folder(model: pycolmap.Reconstruction, image_files: Path, folder: Path) -> None:
    """Write the input folder of splatfacto: the model at training resolution, with links to the images.

    Args:
        model: COLMAP's model, which is modified.
        image_files: Folder of the images at training resolution, as `.png`.
        folder: Output folder.
    """
    images, sparse = folder / "images", folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    for image in _registered(model):
        name = Path(image.name).with_suffix(".png")
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).symlink_to((image_files / name).resolve())
        image.name = str(name)
        with Image.open(image_files / name) as image_file:
            size = image_file.size
    for camera in model.cameras.values():
        camera.rescale(*size)
    model.write(sparse)


def _registered(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    return sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)


def _pose(image: pycolmap.Image) -> NDArray[np.floating]:
    """Return the camera-to-world transform of an image, OpenCV axes. (4, 4)."""
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    return pose


def _median_depth(model: pycolmap.Reconstruction) -> float:
    points = {i: point.xyz for i, point in model.points3D.items()}
    depths = [
        (image.cam_from_world() * np.array([points[p.point3D_id] for p in image.get_observation_points2D()]))[
            :, 2
        ]
        for image in _registered(model)
        if image.num_points3D
    ]
    return float(np.median(np.concatenate(depths)))


def _register_held_out(model: pycolmap.Reconstruction, camera: Camera, settings: MapSettings) -> Poses:
    """Register the held-out images in `everything.db` by nope-splat's resection, without changing the model.

    Args:
        model: COLMAP's model of the training images.
        camera: Intrinsics of the model's camera.
        settings: Settings of the mapper.

    Returns:
        Camera-to-world transforms of the registered held-out images, by name.
    """
    with pycolmap.Database.open(settings.work_dir / EVERYTHING) as database:
        images = database.read_all_images()
        with pycolmap.Database.open(settings.work_dir / TRAINING) as training:
            training_names = {image.name for image in training.read_all_images()}
        mapped = [
            image for image in images if model.exists_image(image.image_id) and image.name in training_names
        ]
        ids = sorted(model.points3D)
        xyz = np.array([model.point3D(i).xyz for i in ids])
        index = {point_id: row for row, point_id in enumerate(ids)}
        points_of_keypoints = [
            np.array(
                [
                    index[point.point3D_id] if point.has_point3D() else -1
                    for point in model.image(image.image_id).points2D
                ],
                np.int64,
            )
            for image in mapped
        ]
        poses: Poses = {}
        for image in (image for image in images if image.name not in training_names):
            pairs = [
                PairMatches(
                    row,
                    len(mapped),
                    database.read_two_view_geometry(
                        mapped_image.image_id, image.image_id
                    ).inlier_matches.astype(np.int64),
                    np.eye(3),
                    0.0,
                )
                for row, mapped_image in enumerate(mapped)
                if database.exists_two_view_geometry(mapped_image.image_id, image.image_id)
            ]
            keypoints, points = find_correspondences(len(mapped), pairs, points_of_keypoints)
            xy = np.asarray(database.read_keypoints(image.image_id), np.float64)[keypoints, :2]
            size = database.read_camera(image.camera_id)
            resection = resect(xy, xyz[points], camera, (size.width, size.height))
            if resection is not None:
                poses[image.name] = resection.T_world_camera
    return poses


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"features": find_features, "map": map_images})
