"""Seeds from depth maps: at most one Gaussian per image cell, with scale and opacity.

SPFSplat (Huang and Mikolajczyk, arXiv:2508.01171) predicts one Gaussian per pixel in a common world frame,
including its scale and opacity. Here, a Gaussian is initialized per cell of pixels. Its scale is computed
from the size of the cell at the depth of the Gaussian, and its opacity from the confidence of the depth.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nope_splat.depth import DepthMap, depth_edges, fit_scale_shift
from nope_splat.geometry.camera import Camera
from nope_splat.seeding.fusion import InverseDepthMap, fuse_depth_maps, violates_free_space
from nope_splat.seeding.settings import SeedSettings
from nope_splat.seeding.view import (
    Float32Array,
    ReadImage,
    SeedingView,
    load_view,
    pinhole_camera,
    pixel_centers,
)
from nope_splat.sfm import Reconstruction

logger = logging.getLogger(__name__)


class GaussianSeeds(NamedTuple):
    """Initial parameters of P Gaussians."""

    points: NDArray[np.floating]
    """Centers in world coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """RGB colors, 0 to 255. (P, 3)."""
    scales: Float32Array
    """Standard deviation of each isotropic Gaussian in world units: half the width that an image cell covers
    at the depth of the Gaussian. (P,)."""
    opacities: Float32Array
    """Opacities from 0 to 1: c / (c + m) for a seed whose depth has the confidence c, where m is the median
    confidence of all seeds. (P,)."""


def seeds_from_depth(
    scene: Reconstruction,
    distorted_cameras: Sequence[Camera],
    depth_maps: Mapping[int, DepthMap],
    read: ReadImage,
    settings: SeedSettings | None = None,
) -> GaussianSeeds:
    """Compute seeds from depth maps, after aligning each map with the track points of its image.

    Each part of a surface gets seeds from one image only, even if several images show the surface. Pixels at
    depth edges get no seeds. A seed is removed if it lies in front of the surface in several depth maps.

    Args:
        scene: The reconstruction, with undistorted cameras.
        distorted_cameras: The K cameras (intrinsics) of the original images, with distortion, in the order of
            `scene.cameras`. The depth maps cover the original images, not the undistorted images.
        depth_maps: Depth maps of registered training images, by image index.
        read: Function that reads an image at a given size (see `ReadImage`).
        settings: Image size, cell size and fusion thresholds; default settings if None.

    Returns:
        The seeds, without the track points; empty if no depth map fits the track points of its image.
    """
    settings = settings or SeedSettings()
    views, depths, confidences = [], [], []
    for image_id, depth_map in depth_maps.items():
        camera = distorted_cameras[scene.camera_ids[image_id]]
        aligned = _align_depth_map(scene, camera, image_id, depth_map)
        if aligned is None:
            logger.warning(
                f"The depth map of {scene.image_names[image_id]} does not fit its track points and provides"
                " no seeds."
            )
            continue
        view = load_view(scene, image_id, read, settings.max_image_size)
        size = scene.image_sizes[image_id]
        centers = pixel_centers(view.shape) * (size / view.shape[::-1])
        pinhole = pinhole_camera(scene.camera_of(image_id))
        xy = camera.project(pinhole.unproject(centers, size), size)
        depth = np.where(view.mask, aligned.sample(xy), np.nan)
        views.append(view)
        depths.append(np.where(depth > view.near_plane, depth, np.nan))
        confidence = aligned.confidence
        confidences.append(
            np.ones(view.shape) if confidence is None else replace(aligned, values=confidence).sample(xy)
        )
    if not views:
        empty = np.zeros(0, np.float32)
        return GaussianSeeds(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), empty, empty)
    return _fuse_seeds(views, depths, confidences, settings)


def _fuse_seeds(
    views: list[SeedingView],
    depths: list[NDArray[np.floating]],
    confidences: list[NDArray[np.floating]],
    settings: SeedSettings,
) -> GaussianSeeds:
    """Fuse the depth maps of all views into seeds.

    Args:
        views: The views.
        depths: Depth of each view in world units, NaN for unknown depth. (H, W) each.
        confidences: Confidence of each view's depth, larger for more reliable depth, in any unit that is
            common to all views. (H, W) each.
        settings: Cell size and fusion thresholds.
    """
    # Depth maps are not checked against source views, so all pixels of known depth count as confirmed.
    num_consistent = settings.fusion.min_num_consistent
    inverse_depths = [
        InverseDepthMap(
            np.nan_to_num(1 / depth).astype(np.float32), num_consistent * np.isfinite(depth).astype(np.int64)
        )
        for depth in depths
    ]
    points, colors, origins = fuse_depth_maps(views, inverse_depths, settings.cell_size, settings.fusion)
    kept = ~violates_free_space(views, inverse_depths, points, settings.fusion)
    scales, confidence = np.zeros(len(points)), np.zeros(len(points))
    for index, view in enumerate(views):
        from_view = origins[:, 0] == index
        pixels = tuple(origins[from_view, 1:].T)
        scales[from_view] = settings.cell_size / view.focal * depths[index][pixels] / 2
        confidence[from_view] = confidences[index][pixels]
    confidence, scales = np.nan_to_num(confidence[kept]), scales[kept]
    # The unit of confidence depends on the source of the depth, so normalize by the median.
    opacities = confidence
    if len(confidence):
        opacities = confidence / np.maximum(confidence + np.median(confidence), 1e-9)
    return GaussianSeeds(points[kept], colors[kept], scales.astype(np.float32), opacities.astype(np.float32))


def _align_depth_map(
    scene: Reconstruction, camera: Camera, image_id: int, depth_map: DepthMap
) -> DepthMap | None:
    """Convert a depth map to depth in world units by fitting a scale and a shift to the track points.

    Args:
        scene: The reconstruction, with undistorted cameras.
        camera: Intrinsics of the original image, with distortion. The depth map covers this image.
        image_id: Index of the image.
        depth_map: Depth map of the image.

    Returns:
        The depth map in world units, with NaN at depth edges; None if the depth map does not fit the track
        points of the image.
    """
    observations = scene.observations
    depth = scene.points_in_cameras(observations)[:, 2]
    in_image = (observations.image_ids == image_id) & (depth > 0)
    size = scene.image_sizes[image_id]
    xy = camera.project(scene.camera_of(image_id).unproject(observations.xy[in_image], size), size)
    fit = fit_scale_shift(depth_map.sample(xy), depth[in_image], depth_map.kind)
    if fit is None:
        return None
    values = fit.depth(depth_map.values.astype(np.float64))
    values = np.where(depth_edges(values), np.nan, values).astype(np.float32)
    return replace(depth_map, values=values, kind="metric")
