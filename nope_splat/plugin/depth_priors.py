"""Depth priors: depth maps of the training images, with scale and shift fitted to the track points."""

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
from nope_splat.geometry.camera import Camera
from nope_splat.io.images import ImageFile
from nope_splat.io.undistortion import read_undistorted_mask
from nope_splat.sfm import Reconstruction

logger = logging.getLogger(__name__)

MAX_SIZE = 518
"""Maximum longer side of a depth prior in pixels; depth networks do not resolve more detail."""
POOR_FIT_ERROR = 0.25
"""Median relative error of the depth maps at the track points above which a message says that the option
depth.kind may be wrong."""
MAX_NEIGHBORS = 4
"""Maximum number of neighbors of a view. Neighbors are the views with the most matches to the view. In each
iteration, the Chamfer loss compares the training view with one random neighbor."""


class DepthPrior(NamedTuple):
    """Depth map of a training view, scaled and shifted to best fit the track points in this view."""

    values: Tensor
    """Depth in world units, or its inverse (see `DepthPriors.inverse`); NaN if unknown or masked. (H, W)."""
    used: Tensor
    """True for unmasked pixels. (H, W), bool."""
    size_ratio: Tensor
    """Width and height of the map, divided by those of the full-resolution image; at most 1. (2,)."""
    center: Tensor
    """Principal point (x, y) in pixels of the map. (2,)."""


@dataclass(frozen=True)
class DepthPriors:
    """Depth priors of the training views."""

    views: dict[int, DepthPrior]
    """Prior by index of the training view. Views without a depth map, or whose depth map does not fit the
    track points, are missing."""
    inverse: bool
    """True if the priors contain inverse depth, False if they contain depth; the same for all priors."""
    neighbors: dict[int, tuple[int, ...]]
    """For each view with a prior, up to `MAX_NEIGHBORS` other views with a prior, sorted by decreasing number
    of matches to the view."""

    def to(self, device: torch.device) -> DepthPriors:
        """Return a copy of the priors on a device."""
        views = {view: DepthPrior(*(part.to(device) for part in prior)) for view, prior in self.views.items()}
        return replace(self, views=views)


def make_depth_priors(
    scene: Reconstruction,
    distorted: Reconstruction,
    image_ids: NDArray[np.int64],
    images: Sequence[ImageFile],
    maps: Mapping[int, DepthMap],
) -> DepthPriors:
    """Create depth priors: scale and shift each depth map to fit the track points in its image.

    Args:
        scene: Reconstruction with the cameras used in training: those of the undistorted images or, if
            principal points or distortion are optimized, those of the original images.
        distorted: Reconstruction of the original images, from which the depth maps were made.
        image_ids: Indices of the V training images in the reconstruction. (V,).
        images: Image files of the V training images.
        maps: Depth maps by image index in the reconstruction, all of the same kind (depth or inverse depth).
            Images without a depth map are missing.

    Returns:
        Priors of the views whose depth map fits the track points, in world units (or inverse world units),
        and the neighbors of these views.
    """
    observations = distorted.observations
    points_in_camera = distorted.points_in_cameras(observations)
    views, noise = {}, []
    for view, (image_id, image) in enumerate(zip(image_ids.tolist(), images, strict=True)):
        if image_id not in maps:
            continue
        depth_map = maps[image_id]
        in_image = (observations.image_ids == image_id) & (points_in_camera[:, 2] > 0)
        samples = depth_map.sample(observations.xy[in_image])
        fit = fit_scale_shift(samples, points_in_camera[in_image, 2], depth_map.kind)
        if fit is None:
            logger.warning(f"The depth map of {image.name} does not fit its track points and is not used.")
            continue
        noise.append(fit.noise)
        views[view] = _prior(scene.camera_of(image_id), distorted.camera_of(image_id), image, depth_map, fit)
    if noise:
        hint = " Check depth.kind, which may be wrong." if np.median(noise) > POOR_FIT_ERROR else ""
        error = f"{100 * np.median(noise):.1f} %"
        logger.info(
            f"The depth maps of {len(views)} photos fit their track points with a median error of"
            f" {error}.{hint}"
        )
    view_of_image = {int(image_ids[view]): view for view in views}
    matched: dict[int, list[int]] = {view: [] for view in views}
    for edge in np.argsort(-scene.graph.weights, kind="stable"):
        i, j = scene.graph.edges[edge].tolist()
        if i in view_of_image and j in view_of_image:
            matched[view_of_image[i]].append(view_of_image[j])
            matched[view_of_image[j]].append(view_of_image[i])
    neighbors = {view: tuple(by_matches[:MAX_NEIGHBORS]) for view, by_matches in matched.items()}
    inverse = any(depth_map.kind == "disparity" for depth_map in maps.values())
    return DepthPriors(views, inverse, neighbors)


def _prior(
    camera: Camera, lens: Camera, image: ImageFile, depth_map: DepthMap, fit: ScaleShift
) -> DepthPrior:
    """Resample a depth map from the original image to the image used in training; apply scale and shift.

    Args:
        camera: Intrinsics used in training, with or without distortion.
        lens: Intrinsics of the original image, from which the depth map was made.
        image: The image file.
        depth_map: Depth map of the image.
        fit: Scale and shift. scale * value + shift is the depth in world units, or the inverse depth if the
            values of the map are inverse depths.

    Returns:
        The prior, with NaN at masked pixels and at pixels of unknown depth.
    """
    full = np.array([image.width, image.height])
    shrink = min(1.0, MAX_SIZE / max(image.width, image.height))
    width, height = (max(1, round(side * shrink)) for side in (image.width, image.height))
    scale = np.array([width, height]) / full
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    values = depth_map.sample(lens.project(camera.unproject(grid / scale, full), full))
    used = read_undistorted_mask(image, (width, height), lens, camera)
    used = np.ones((height, width), bool) if used is None else used
    values[~used] = np.nan
    return DepthPrior(
        torch.from_numpy(fit.scale * values + fit.shift).float(),
        torch.from_numpy(used),
        torch.from_numpy(scale).float(),
        torch.from_numpy(camera.principal_points(full) * scale).float(),
    )
