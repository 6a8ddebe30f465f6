"""The dataparser: reconstruct cameras and tracks from an image folder, and convert them for nerfstudio."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from annotated_types import Ge
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from numpy.typing import NDArray

from nope_splat.depth import DepthMap
from nope_splat.geometry.axes import switch_axes
from nope_splat.io.images import ImageFile, ImageFolder, find_images
from nope_splat.io.undistortion import read_undistorted_image, read_undistorted_mask
from nope_splat.plugin.depth_priors import make_depth_priors
from nope_splat.seeding import SeedSettings, dense_seeds, pinhole_camera, seeds_from_depth
from nope_splat.sfm import MapperOptions, Reconstruction, SfmOptions, image_depths, reconstruct
from nope_splat.splatting.losses import TrackObservations
from nope_splat.utils.device_defaults import Auto, ByDevice, resolved
from nope_splat.utils.ranges import COUNT

logger = logging.getLogger(__name__)


@dataclass
class NopeDataParserConfig(DataParserConfig):
    """Options of the dataparser: held-out images, structure from motion and seeds."""

    _target: type = field(default_factory=lambda: NopeDataParser)
    data: tyro.conf.Suppress[Path] = Path()
    """Folder of images and videos, a folder that contains `images/`, or a video; set from `--data`."""
    eval_mode: Literal["interval", "all"] = "interval"
    """Which images to hold out for evaluation. "interval" holds out every n-th image (see eval-interval);
    "all" trains on all images and holds out none."""
    eval_interval: Annotated[int, Ge(2)] = 8
    """Interval n between held-out images. Images are sorted by name, and every n-th image is held out,
    starting with the first. No image is held out if the folder has fewer than n images."""
    max_image_size: Annotated[int | Auto | None, COUNT, ByDevice(cuda=1600, cpu=512)] = "auto"
    """Maximum longer side of the training images in pixels; larger images are downscaled. None keeps the full
    resolution. "auto" is 1600 on a GPU and 512 on a CPU."""
    cache_dir: Path | None = None
    """Folder in which matches and reconstruction are cached; by default, the subfolder "cache" of the
    experiment's output folder."""
    sfm: Annotated[SfmOptions, tyro.conf.arg(name="")] = field(
        # With None, distortion is estimated only if the images show it.
        default_factory=lambda: SfmOptions(mapper=MapperOptions(refine_extra_params=None))
    )
    """Options of structure from motion."""
    seeds: Literal["dense", "tracks", "depth"] = "dense"
    """Initial Gaussians in addition to those at track points. "tracks" adds none. "dense" adds a point cloud
    triangulated from optical flow. "depth" adds one Gaussian per image patch, at the depth of a depth map (as
    in SPFSplat); it suits few or textureless images. Such a Gaussian is as large as its patch, and more
    opaque where the depth map is more confident. Depth maps are computed by the matcher dust3r or a
    depth network, or read from files; see depth.model for requirements and licenses."""
    seeding: SeedSettings = field(default_factory=SeedSettings)
    """Options of dense seeds. If seeds is "depth", only the image size, the cell size and the fusion options
    have an effect."""
    depth_priors: tyro.conf.Suppress[bool] = False
    """Whether to add depth maps to the training data; the pipeline sets this field if the weight of a depth
    loss is not zero."""
    keep_distortion: tyro.conf.Suppress[bool] = False
    """Whether to train on the original images instead of undistorted images; the pipeline sets this field if
    principal points or distortion are optimized."""


class NopeDataParser(DataParser):
    """Dataparser that reconstructs cameras and track points, or loads them from the cache.

    World coordinates are those of the reconstruction. Cameras have nerfstudio's OpenGL axes and the
    resolution of the training images.

    The metadata of each split contain three lists with one entry per image:

    - `images`: Image files (`ImageFile`).
    - `lenses`: Full-resolution intrinsics (`Camera`) of the original image.
    - `targets`: Full-resolution intrinsics (`Camera`) of the image used in training, into which the original
      image is resampled.

    The metadata of the training split, which has V images, also contain:

    - `num_cameras`, `camera_ids`: Number K of cameras, and camera index of each image (V,).
    - `is_fisheye`: Whether the projection of each camera is equidistant instead of perspective. (K,), bool.
    - `track_points`, `track_colors`: World coordinates and RGB (0 to 255) of the track points. (P, 3) each.
    - `observations`: Observations of the track points (`TrackObservations`).
    - `points3D_xyz`, `points3D_rgb`: World coordinates and RGB (0 to 255) of the seeds. (S, 3) each. Seeds
      are the track points until `add_seeds` adds more.
    """

    config: NopeDataParserConfig

    @cached_property
    def folder(self) -> ImageFolder:
        """Usable and skipped images of the image folder; each skipped file is logged once as a warning."""
        options = self.config.sfm
        folder = find_images(self.config.data, options.invert_masks, options.frames, self.config.cache_dir)
        for name, reason in folder.skipped.items():
            logger.warning(f"Skipped {name}: {reason}")
        return folder

    @cached_property
    def scene(self) -> Reconstruction:
        """Reconstruction whose cameras match the images used for training, rendering and evaluation.

        By default these images are undistorted, since splats are rendered without distortion; images of
        fisheye lenses keep the equidistant projection. If principal points or distortion are optimized, the
        original images are used, and splats are rendered with distortion.
        """
        return self.distorted_scene if self.config.keep_distortion else self.undistorted_scene

    @cached_property
    def undistorted_scene(self) -> Reconstruction:
        """Reconstruction with the cameras and observations of the undistorted images."""
        return self.distorted_scene.undistorted()

    @cached_property
    def distorted_scene(self) -> Reconstruction:
        """Reconstruction of the original images, with the distortion of their cameras."""
        names = [image.name for image in self.folder.images]
        held_out = []
        if self.config.eval_mode == "interval" and len(names) >= self.config.eval_interval:
            held_out = names[:: self.config.eval_interval]
        return reconstruct(self.folder, held_out, self.config.sfm, self.config.cache_dir)

    def image_ids(self, split: str) -> NDArray[np.int64]:
        """Return the indices, in the reconstruction, of the n registered images of a split. (n,).

        Args:
            split: "train" for the training images; any other value for the held-out images.
        """
        held_out = self.scene.held_out if split != "train" else ~self.scene.held_out
        return np.flatnonzero(self.scene.registered & held_out)

    def unregistered_held_out(self) -> list[str]:
        """List the names of the held-out images that could not be registered."""
        missing = np.flatnonzero(self.scene.held_out & ~self.scene.registered)
        return [self.scene.image_names[i] for i in missing]

    def add_seeds(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Compute the seeds selected by the option `seeds`, and add them to the training metadata.

        This is a separate step because only training needs the seeds.

        Args:
            metadata: Metadata of the training split; points are appended to `points3D_xyz` (world
                coordinates) and `points3D_rgb` (0 to 255).

        Returns:
            For seeds from depth maps, a dictionary with `seed_sizes` (standard deviations in world units) and
            `seed_opacities` (0 to 1) of the M added Gaussians, (M,) each. Otherwise an empty dictionary.
        """
        seed_metadata: dict[str, Any] = {}
        if self.config.seeds == "tracks":
            return seed_metadata

        def read_image(
            image_id: int, size: tuple[int, int]
        ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
            image_file, lens = self._images[image_id], self.distorted_scene.camera_of(image_id)
            cameras = lens, pinhole_camera(lens)
            image = read_undistorted_image(image_file, size, *cameras)
            return image[..., :3], read_undistorted_mask(image_file, size, *cameras)

        if self.config.seeds == "dense":
            points, colors = dense_seeds(self.undistorted_scene, read_image, self.config.seeding)
        else:
            maps, lenses = self._depth_maps(self.image_ids("train").tolist()), self.distorted_scene.cameras
            points, colors, sizes, opacities = seeds_from_depth(
                self.undistorted_scene, lenses, maps, read_image, self.config.seeding
            )
            seed_metadata["seed_sizes"] = torch.from_numpy(sizes)
            seed_metadata["seed_opacities"] = torch.from_numpy(opacities)
        logger.info(f"Seeding {len(points)} Gaussians in addition to {len(self.scene.points)} track points.")
        for name, values in (("points3D_xyz", torch.from_numpy(points).float()), ("points3D_rgb", colors)):
            metadata[name] = torch.cat([metadata[name], torch.as_tensor(values)])
        return seed_metadata

    def add_depth_priors(self, metadata: dict[str, Any]) -> None:
        """Add the depth maps of the training images to the metadata, if the option `depth_priors` is set.

        Args:
            metadata: Metadata of the training split, to which the entry `depth_priors` (`DepthPriors`) is
                added.
        """
        if not self.config.depth_priors:
            return
        image_ids = self.image_ids("train")
        images = [self._images[i] for i in image_ids]
        maps = self._depth_maps(image_ids.tolist())
        metadata["depth_priors"] = make_depth_priors(
            self.scene, self.distorted_scene, image_ids, images, maps
        )

    def _depth_maps(self, image_ids: list[int]) -> dict[int, DepthMap]:
        """Return the depth maps of images; keys and `image_ids` are image indices in the reconstruction.

        Depth maps are read from files, computed by a network, or loaded from the cache.
        """
        return image_depths(self.folder, image_ids, self.config.sfm, self.config.cache_dir)

    @cached_property
    def _images(self) -> list[ImageFile]:
        """Image files in the order of the reconstruction, with parts of the images marked as ignored.

        The field `ignored` of an `ImageFile` marks the grid cells in which content moves with the camera,
        such as a logo (see `StationaryPixels`); None if the image has no such cells.
        """
        by_name = {image.name: image for image in self.folder.images}
        scene = self.distorted_scene
        return [
            replace(by_name[name], ignored=scene.stationary_cells(image_id))
            for image_id, name in enumerate(scene.image_names)
        ]

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        """Create cameras, image paths and metadata of a split; the class docstring lists the metadata."""
        scene, image_ids = self.scene, self.image_ids(split)
        cameras = training_cameras(scene, image_ids, resolved(self.config.max_image_size))
        images = [self._images[i] for i in image_ids]
        lenses = [self.distorted_scene.camera_of(i) for i in image_ids]
        targets = [scene.camera_of(i) for i in image_ids]
        metadata: dict[str, Any] = {"images": images, "lenses": lenses, "targets": targets}
        if split == "train":
            points, colors = torch.from_numpy(scene.points).float(), torch.from_numpy(scene.colors)
            metadata |= {
                "camera_ids": torch.from_numpy(scene.camera_ids[image_ids]),
                "num_cameras": len(scene.cameras),
                "is_fisheye": torch.tensor([camera.is_fisheye for camera in scene.cameras], device="cpu"),
                "track_points": points,
                "track_colors": colors,
                "observations": training_observations(scene, image_ids),
                "points3D_xyz": points,
                "points3D_rgb": colors,
            }
        return DataparserOutputs(
            image_filenames=[image.path for image in images],
            cameras=cameras,
            metadata=metadata,
        )


def training_cameras(
    scene: Reconstruction, image_ids: NDArray[np.int64], max_image_size: int | None
) -> Cameras:
    """Convert poses and intrinsics of images to nerfstudio's `Cameras` at training resolution.

    Args:
        scene: The reconstruction.
        image_ids: Indices of the images in the reconstruction. (V,).
        max_image_size: Maximum longer side of the training images in pixels; None for the full resolution.

    Returns:
        V cameras without distortion, of nerfstudio's type PERSPECTIVE or FISHEYE. The metadata entry
        `image_id` is the index of each image in the reconstruction (V, 1).
    """
    full = scene.image_sizes[image_ids]
    longer = full.max(axis=1, keepdims=True)
    shrink = 1.0 if max_image_size is None else np.minimum(1.0, max_image_size / longer)
    sizes = np.maximum(1, np.rint(full * shrink)).astype(np.int64)
    scale = sizes / full  # differs between x and y, since sizes are rounded
    focals = torch.from_numpy(scene.focals()[image_ids, None] * scale).float()
    centers = torch.from_numpy(scene.principal_points()[image_ids] * scale).float()
    projections = np.full(len(image_ids), CameraType.PERSPECTIVE.value)
    projections[scene.lens_models().is_fisheye[image_ids]] = CameraType.FISHEYE.value
    return Cameras(
        camera_to_worlds=switch_axes(torch.from_numpy(scene.T_world_camera[image_ids])).float()[:, :3],
        fx=focals[:, 0],
        fy=focals[:, 1],
        cx=centers[:, 0],
        cy=centers[:, 1],
        width=torch.from_numpy(sizes[:, 0]),
        height=torch.from_numpy(sizes[:, 1]),
        camera_type=torch.from_numpy(projections)[:, None],
        metadata={"image_id": torch.from_numpy(image_ids)[:, None]},
    )


def training_observations(scene: Reconstruction, image_ids: NDArray[np.int64]) -> TrackObservations:
    """Convert the track observations of a reconstruction to the format of the track losses.

    Args:
        scene: The reconstruction.
        image_ids: Indices of the V training images in the reconstruction. (V,).

    Returns:
        O observations. `view_ids` (O,) are indices of training views, 0 to V - 1; `xy` (O, 2) are positions
        in full-resolution pixels, relative to the principal point of the image.
    """
    view_of_image = np.full(len(scene.image_names), -1)
    view_of_image[image_ids] = np.arange(len(image_ids))
    observations = scene.observations
    centers = scene.principal_points()[observations.image_ids]
    return TrackObservations(
        point_ids=torch.from_numpy(observations.point_ids),
        view_ids=torch.from_numpy(view_of_image[observations.image_ids]),
        xy=torch.from_numpy(observations.xy - centers).float(),
        sigma=torch.from_numpy(scene.noise).float(),
    )
