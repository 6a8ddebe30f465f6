"""COLMAP through pycolmap, as the peer that the benchmarks measure against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

Mapper = Literal["incremental", "global"]


@dataclass(frozen=True)
class ColmapResult:
    """The largest model that COLMAP made of a folder of photographs."""

    model: Path
    """Folder of the binary model."""
    names: tuple[str, ...]
    """Registered photographs."""
    T_world_camera: NDArray[np.float64]
    """Camera-to-world transforms, OpenCV axes. (N, 4, 4)."""
    focal: float
    """Focal length in pixels."""
    num_points: int
    """Number of 3D points."""
    seconds: dict[str, float]
    """Wall time of features, matching and mapping."""


def run_colmap(
    images: Path,
    work_dir: Path,
    names: list[str],
    mapper: Mapper,
    principal_point: bool = False,
    seed: int = 0,
) -> ColmapResult | None:
    """Reconstruct photographs of one camera with unknown focal length, all pairs matched.

    Args:
        images: Folder of the photographs.
        work_dir: Empty folder for the database and the model; features and matches found there are reused.
        names: Photographs to use.
        mapper: COLMAP's incremental or global (GLOMAP) mapper.
        principal_point: Refine the shared principal point as well.
        seed: Seed of the mapper.

    Returns:
        The largest model, or None when there is none.
    """
    database = work_dir / "database.db"
    seconds: dict[str, float] = {}
    if not database.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        pycolmap.set_random_seed(seed)
        start = time.perf_counter()
        pycolmap.extract_features(
            database,
            images,
            image_names=names,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE"),
            device=pycolmap.Device.cpu,
        )
        seconds["features"] = time.perf_counter() - start
        start = time.perf_counter()
        pycolmap.match_exhaustive(database, device=pycolmap.Device.cpu)
        seconds["matching"] = time.perf_counter() - start
    output = work_dir / f"{mapper}{'-pp' if principal_point else ''}-{seed}"
    output.mkdir(exist_ok=True)
    start = time.perf_counter()
    if mapper == "incremental":
        options = pycolmap.IncrementalPipelineOptions(
            min_model_size=3, random_seed=seed, ba_refine_principal_point=principal_point
        )
        models = pycolmap.incremental_mapping(database, images, output, options)
    else:
        models = pycolmap.global_mapping(
            database, images, output, pycolmap.GlobalPipelineOptions(random_seed=seed)
        )
    seconds["mapping"] = time.perf_counter() - start
    if not models:
        return None
    index, model = max(models.items(), key=lambda item: item[1].num_reg_images())
    if mapper == "global" and principal_point:
        start = time.perf_counter()
        options = pycolmap.BundleAdjustmentOptions(refine_principal_point=True)
        pycolmap.bundle_adjustment(model, options)
        seconds["mapping"] += time.perf_counter() - start
    folder = output / str(index)
    folder.mkdir(exist_ok=True)
    model.write(folder)
    registered = sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)
    poses = np.tile(np.eye(4), (len(registered), 1, 1))
    poses[:, :3] = [image.cam_from_world().inverse().matrix() for image in registered]
    (camera,) = {image.camera_id: model.camera(image.camera_id) for image in registered}.values()
    return ColmapResult(
        model=folder,
        names=tuple(image.name for image in registered),
        T_world_camera=poses,
        focal=float(camera.params[0]),
        num_points=model.num_points3D(),
        seconds=seconds,
    )
