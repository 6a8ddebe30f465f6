"""Depth maps of the training images, fitted to the track points that these show."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nope_splat.depth import DepthMap, ScaleShift, fit_scale_shift
from nope_splat.geometry.camera import SharedPinhole
from nope_splat.io.images import ImageFile
from nope_splat.io.undistortion import read_undistorted_mask
from nope_splat.sfm import Reconstruction

logger = logging.getLogger(__name__)

MAX_SIZE = 518
"""Longer side of the priors in pixels: networks see no finer."""
POOR_FIT = 0.25
"""Relative error of depth maps from which they are hardly what they are said to be."""
NEIGHBORS = 4
"""Images with most matches that an image is compared with, one at a time."""


class DepthPrior(NamedTuple):
    """Depth of one view as its map tells it, with the scale and shift that fit the track points best."""

    values: Tensor
    """Depth in world units, or inverse depth; NaN where unknown or masked out. (H, W)."""
    used: Tensor
    """Pixels that no mask hides. (H, W), bool."""
    pixels: Tensor
    """Pixels of the map per full-resolution pixel, along x and y. (2,)."""
    center: Tensor
    """Principal point in pixels of the map. (2,)."""


@dataclass(frozen=True)
class DepthPriors:
    """The priors of the training views."""

    views: dict[int, DepthPrior]
    """By training view; views whose map fits no scale and shift have none."""
    inverse: bool
    """Whether the values are inverse depths."""
    neighbors: dict[int, tuple[int, ...]]
    """Views that share most matches with a view, of those that have a prior."""

    def to(self, device: torch.device) -> DepthPriors:
        """The same on a device."""
        views = {view: DepthPrior(*(part.to(device) for part in prior)) for view, prior in self.views.items()}
        return replace(self, views=views)


def make_depth_priors(
    scene: Reconstruction,
    distorted: Reconstruction,
    image_ids: NDArray[np.int64],
    images: Sequence[ImageFile],
    maps: Mapping[int, DepthMap],
) -> DepthPriors:
    """Fit depth maps to the track points of a reconstruction.

    Args:
        scene: The reconstruction, of images without distortion or, where it is learned, with.
        distorted: The same, of the images as they are.
        image_ids: Images of the training views. (V,).
        images: These images.
        maps: Their depth maps by the indices in `image_ids`, all of one kind; some may be missing.

    Returns:
        The priors, in the world's units.
    """
    in_camera, seen = distorted.points_in_cameras(distorted.observations), distorted.observations
    views, noise = {}, []
    for view, (image_id, image) in enumerate(zip(image_ids.tolist(), images, strict=True)):
        if image_id not in maps:
            continue
        depth_map = maps[image_id]
        mine = seen.image_ids == image_id
        fit = fit_scale_shift(depth_map.sample(seen.xy[mine]), in_camera[mine, 2], depth_map.kind)
        if fit is None:
            logger.warning(f"The depth map of {image.name} does not fit its track points and is left out.")
            continue
        noise.append(fit.noise)
        views[view] = _prior(scene.camera_of(image_id), distorted.camera_of(image_id), image, depth_map, fit)
    if noise:
        doubt = " Is depth.kind that of these maps?" if np.median(noise) > POOR_FIT else ""
        error = f"{100 * np.median(noise):.1f} %"
        logger.info(f"Depth maps fit the track points of {len(views)} photos to {error}.{doubt}")
    view_of_image = {int(image_ids[view]): view for view in views}
    partners: dict[int, list[int]] = {view: [] for view in views}
    for edge in np.argsort(-scene.graph.weights, kind="stable"):
        one, other = scene.graph.edges[edge].tolist()
        if one in view_of_image and other in view_of_image:
            partners[view_of_image[one]].append(view_of_image[other])
            partners[view_of_image[other]].append(view_of_image[one])
    neighbors = {view: tuple(others[:NEIGHBORS]) for view, others in partners.items()}
    return DepthPriors(views, any(each.kind == "disparity" for each in maps.values()), neighbors)


def _prior(
    camera: SharedPinhole, lens: SharedPinhole, image: ImageFile, depth_map: DepthMap, fit: ScaleShift
) -> DepthPrior:
    """The prior of one image; `lens` has the distortion that `camera` may lack."""
    full = np.array([image.width, image.height])
    shrink = min(1.0, MAX_SIZE / max(image.width, image.height))
    width, height = (max(1, round(side * shrink)) for side in (image.width, image.height))
    pixels = np.array([width, height]) / full
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    values = depth_map.sample(lens.project(camera.unproject(grid / pixels, full), full))
    lens = replace(lens, radial=(0.0, 0.0)) if camera == lens else lens  # or none to take out
    used = read_undistorted_mask(image, (width, height), lens)
    used = np.ones((height, width), bool) if used is None else used
    values[~used] = np.nan
    return DepthPrior(
        torch.from_numpy(fit.scale * values + fit.shift).float(),
        torch.from_numpy(used),
        torch.from_numpy(pixels).float(),
        torch.from_numpy(camera.principal_points(full) * pixels).float(),
    )
