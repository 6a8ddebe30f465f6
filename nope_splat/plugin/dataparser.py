"""The dataparser: reconstruct a folder of images, and convert the result to nerfstudio's data."""

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
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from numpy.typing import NDArray

from nope_splat.depth import DepthMap
from nope_splat.geometry.axes import switch_axes
from nope_splat.io.images import ImageFile, ImageFolder, find_images
from nope_splat.io.undistortion import read_undistorted_image, read_undistorted_mask
from nope_splat.plugin.depth_priors import make_depth_priors
from nope_splat.seeding import SeedSettings, dense_seeds, seeds_from_depth
from nope_splat.sfm import MapperOptions, Reconstruction, SfmOptions, image_depths, reconstruct
from nope_splat.splatting.losses import TrackObservations
from nope_splat.utils.device_defaults import Auto, ByDevice, resolved
from nope_splat.utils.ranges import COUNT

logger = logging.getLogger(__name__)


@dataclass
class NopeDataParserConfig(DataParserConfig):
    """Configuration of the dataparser."""

    _target: type = field(default_factory=lambda: NopeDataParser)
    data: tyro.conf.Suppress[Path] = Path()
    """Folder of images, or a folder that contains `images/`; set from `--data`."""
    eval_mode: Literal["interval", "all"] = "interval"
    """Whether to hold out images for evaluation at an interval, or to train on all."""
    eval_interval: Annotated[int, Ge(2)] = 8
    """Hold out every n-th image for evaluation, starting with the first; none if there are fewer than n."""
    max_image_size: Annotated[int | Auto | None, COUNT, ByDevice(cuda=1600, cpu=512)] = "auto"
    """Maximum longer side of the training images in pixels; None keeps the full resolution. "auto" is 1600 on
    a GPU and 512 on a CPU."""
    cache_dir: Path | None = None
    """Cache folder for matches and reconstruction; by default `cache` in the experiment's output folder."""
    sfm: Annotated[SfmOptions, tyro.conf.arg(name="")] = field(
        # None estimates distortion only if it is visible; otherwise images are used without undistortion.
        default_factory=lambda: SfmOptions(mapper=MapperOptions(refine_extra_params=None))
    )
    """Options of structure from motion."""
    seeds: Literal["dense", "tracks", "depth"] = "dense"
    """Initial Gaussians in addition to the track points: "dense" adds a point cloud from optical flow,
    "tracks" adds none, "depth" adds a Gaussian per image patch from depth maps, with the size of the patch
    and the confidence of the map as opacity (as in SPFSplat, for few or textureless images). The depth maps
    come from the matcher dust3r, a network or files; see depth.model for requirements and licenses."""
    seeding: SeedSettings = field(default_factory=SeedSettings)
    """Options of dense seeds; seeds from depth maps use only the sizes of images and patches."""
    depth_priors: tyro.conf.Suppress[bool] = False
    """Whether training needs depth maps; the pipeline sets this from the model's loss weights."""
    keep_distortion: tyro.conf.Suppress[bool] = False
    """Whether to skip undistortion; the pipeline sets this if the model learns lenses."""


class NopeDataParser(DataParser):
    """Dataparser that reconstructs the scene or loads it from the cache.

    World coordinates are those of the reconstruction. Cameras have nerfstudio's OpenGL axes and the
    resolution of the training images. The metadata contain `images` and `lenses`, the cameras with the
    distortion to remove. The training split also has `num_cameras`, `camera_ids` (V,), `track_points` (P, 3),
    `track_colors` (P, 3) and `observations`, and the seeds `points3D_xyz` (S, 3) and `points3D_rgb` (S, 3).
    The seeds are the track points until `add_dense_seeds` adds more.
    """

    config: NopeDataParserConfig

    @cached_property
    def folder(self) -> ImageFolder:
        """The images of the folder; skipped files are logged."""
        folder = find_images(self.config.data)
        for name, reason in folder.skipped.items():
            logger.warning(f"Skipped {name}: {reason}")
        return folder

    @cached_property
    def scene(self) -> Reconstruction:
        """The reconstruction of the images used for training, rendering and evaluation.

        By default images are undistorted, since splats are rendered without distortion. If distortion is
        learned, renderings are distorted instead, and these are the original images.
        """
        return self.distorted_scene if self.config.keep_distortion else self.undistorted_scene

    @cached_property
    def undistorted_scene(self) -> Reconstruction:
        """The reconstruction of the undistorted images."""
        return self.distorted_scene.undistorted()

    @cached_property
    def distorted_scene(self) -> Reconstruction:
        """The reconstruction of the original images."""
        names = [image.name for image in self.folder.images]
        held_out = []
        if self.config.eval_mode == "interval" and len(names) >= self.config.eval_interval:
            held_out = names[:: self.config.eval_interval]
        return reconstruct(self.folder, held_out, self.config.sfm, self.config.cache_dir)

    def image_ids(self, split: str) -> NDArray[np.int64]:
        """Return the scene's indices of the registered images of a split ("train", or any other). (V,)."""
        held_out = self.scene.held_out if split != "train" else ~self.scene.held_out
        return np.flatnonzero(self.scene.registered & held_out)

    def unregistered_held_out(self) -> list[str]:
        """List the names of the held-out images without a pose."""
        missing = np.flatnonzero(self.scene.held_out & ~self.scene.registered)
        return [self.scene.image_names[i] for i in missing]

    def add_dense_seeds(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Add dense seeds to the metadata of the training split, if configured.

        Only training needs dense seeds, so the dataparser outputs of other commands do not contain them.

        Args:
            metadata: Metadata of the training split; `points3D_xyz` and `points3D_rgb` are extended.

        Returns:
            Additional metadata for the model. For seeds from depth maps, `seed_sizes` and `seed_opacities`
            of the added points. (S,) each.
        """
        seed_metadata: dict[str, Any] = {}
        if self.config.seeds == "tracks":
            return seed_metadata

        def read_image(
            image_id: int, size: tuple[int, int]
        ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
            image_file, lens = self._images[image_id], self.distorted_scene.camera_of(image_id)
            image = read_undistorted_image(image_file, size, lens)
            return image[..., :3], read_undistorted_mask(image_file, size, lens)

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
        """Add `depth_priors` to the metadata of the training split, if training needs them.

        Args:
            metadata: Metadata of the training split.
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
        return image_depths(self.folder, image_ids, self.config.sfm, self.config.cache_dir)

    @cached_property
    def _images(self) -> list[ImageFile]:
        """The images in the scene's order, without pixels that do not show the scene."""
        by_name = {image.name: image for image in self.folder.images}
        scene = self.distorted_scene
        return [
            replace(by_name[name], ignored=scene.stationary_cells(image_id))
            for image_id, name in enumerate(scene.image_names)
        ]

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        scene, image_ids = self.scene, self.image_ids(split)
        cameras = training_cameras(scene, image_ids, resolved(self.config.max_image_size))
        images = [self._images[i] for i in image_ids]
        # The distortion of `lenses` is removed when images are read; undistorted lenses remove none.
        lens_scene = self.undistorted_scene if self.config.keep_distortion else self.distorted_scene
        lenses = [lens_scene.camera_of(i) for i in image_ids]
        metadata: dict[str, Any] = {"images": images, "lenses": lenses}
        if split == "train":
            points, colors = torch.from_numpy(scene.points).float(), torch.from_numpy(scene.colors)
            metadata |= {
                "camera_ids": torch.from_numpy(scene.camera_ids[image_ids]),
                "num_cameras": len(scene.cameras),
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
    """Convert the cameras of images to nerfstudio's `Cameras`, at training resolution.

    Args:
        scene: The reconstruction.
        image_ids: Indices of the images in the scene. (V,).
        max_image_size: Maximum longer side of the training images in pixels; None keeps the full resolution.

    Returns:
        V cameras; their metadata contain `image_id` (V, 1).
    """
    full = scene.image_sizes[image_ids]
    longer = full.max(axis=1, keepdims=True)
    shrink = 1.0 if max_image_size is None else np.minimum(1.0, max_image_size / longer)
    sizes = np.maximum(1, np.rint(full * shrink)).astype(np.int64)
    scale = sizes / full  # differs between x and y, since sizes are rounded
    focals = torch.from_numpy(scene.focals()[image_ids, None] * scale).float()
    centers = torch.from_numpy(scene.principal_points()[image_ids] * scale).float()
    return Cameras(
        camera_to_worlds=switch_axes(torch.from_numpy(scene.T_world_camera[image_ids])).float()[:, :3],
        fx=focals[:, 0],
        fy=focals[:, 1],
        cx=centers[:, 0],
        cy=centers[:, 1],
        width=torch.from_numpy(sizes[:, 0]),
        height=torch.from_numpy(sizes[:, 1]),
        metadata={"image_id": torch.from_numpy(image_ids)[:, None]},
    )


def training_observations(scene: Reconstruction, image_ids: NDArray[np.int64]) -> TrackObservations:
    """Convert the observations of track points to training views, relative to the principal point.

    Args:
        scene: The reconstruction.
        image_ids: Indices of the training images in the scene. (V,).
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
