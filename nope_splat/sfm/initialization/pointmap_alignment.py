"""Initialization by pointmaps: DUSt3R's global alignment, solved by alternating closed-form steps.

As in DUSt3R (Wang et al., CVPR 2024, section 3.4), each ordered pair has a similarity transform from its
points to the world, and each image has a pose and a depth map. The alignment minimizes, for each pixel, the
distance between the transformed point of the pair and the point of the depth map, divided by the depth and
weighted by confidence. DUSt3R uses gradient descent. Here, similarities, poses and depths are solved for in
turn, starting from poses along the maximum spanning tree of the pairs, weighted by confidence. The focal
length is estimated from the pointmaps beforehand and stays fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from tyro.conf import Suppress

from nope_splat.geometry.distortion import NUM_TERMS
from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import rigid, transform
from nope_splat.geometry.robust import cauchy_weight, robust_sigma
from nope_splat.geometry.similarity import align_groups, sum_rows
from nope_splat.matching import Pointmaps
from nope_splat.sfm.initialization.known_cameras import start_from_cameras
from nope_splat.sfm.initialization.pointmap_fusion import fuse_pointmap_depths, grid_pixels
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.registration.spanning_tree import spanning_tree
from nope_splat.sfm.state import SfmState
from nope_splat.utils.ranges import COUNT
from nope_splat.utils.typing import Array, Indices

MIN_DEPTH = 1e-3
"""Lower limit of refined depths, in world units of the alignment. It keeps depths positive."""


@dataclass(frozen=True)
class PointmapInitialization:
    """Start from the pointmaps of all pairs, aligned globally as in DUSt3R.

    Requires the matcher dust3r (see matching.matcher for its license and requirements). Suited to few photos,
    or to surfaces with little texture.
    """

    max_num_iterations: Suppress[Annotated[int, COUNT]] = 30
    """Number of rounds of the alignment. Each round solves for the similarities of the pairs, then for the
    poses, then for the depths."""
    max_num_points: Suppress[Annotated[int, COUNT]] = 1000
    """Approximate maximum number of points per photo in the alignment, sampled on a regular grid."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield a state with poses from the aligned pointmaps; nothing if the alignment fails.

        Args:
            problem: Matches and pointmaps of a connected component with a single camera.
        """
        groups, estimates = problem.camera_groups, problem.focal_estimates
        assert problem.pointmaps is not None
        assert estimates is not None
        with problem.clock.stage("registration"):
            focal = estimates[0].focal * float(groups.camera_pixel_sizes[0])
            cameras = align_pointmaps(problem.pointmaps, groups.sizes, focal, self)
        # Unlike known cameras, they are not compared with the matches first: they are always refined, and
        # photos with few matches, for which this initialization is made, may need them.
        if cameras is not None:
            yield start_from_cameras(problem, cameras)

    def restart(self, problem: SfmProblem, registered: SfmState) -> None:
        """Return None: there is no second start, because pointmaps do not depend on the focal length."""


def align_pointmaps(
    pointmaps: Pointmaps,
    sizes: Indices,
    focal: float,
    options: PointmapInitialization = PointmapInitialization(),
) -> KnownCameras | None:
    """Estimate cameras by aligning the pointmaps of all pairs in one world frame.

    Args:
        pointmaps: Pointmaps of the pairs.
        sizes: Width and height of each image at full resolution, in pixels. (N, 2).
        focal: Focal length of all images, in full-resolution pixels.
        options: Number of iterations and points.

    Returns:
        Cameras of the images that are connected by pairs with confident points; None if there are fewer than
        two such images, or if all camera centers coincide.
    """
    alignment = _PointmapAlignment(pointmaps, sizes, focal, options.max_num_points)
    image_ids = alignment.initialize()
    if len(image_ids) < 2:
        return None
    for _ in range(options.max_num_iterations):
        alignment.iterate()
    poses = alignment.T_world_camera[image_ids]
    centers = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    extent = float(np.linalg.norm(centers, axis=1).max())
    if not extent > 0:
        return None
    poses[:, :3, 3] = centers * (10 / extent)
    focals = np.array([focal / float(sizes.max())])
    return KnownCameras(
        image_ids, poses, focals, np.zeros((1, 2)), np.zeros((1, NUM_TERMS)), np.zeros(1, bool)
    )


class _PointmapAlignment:
    """Variables and observations of the global alignment.

    An observation is the point of one pixel in the pointmaps of one ordered pair. The variables are the pose
    of each image and the depth of each sampled pixel.

    Args:
        pointmaps: Pointmaps of the pairs.
        sizes: Width and height of each image at full resolution, in pixels. (N, 2).
        focal: Focal length of all images, in full-resolution pixels.
        max_num_points: Approximate maximum number of sampled pixels per image.
    """

    def __init__(self, pointmaps: Pointmaps, sizes: Indices, focal: float, max_num_points: int) -> None:
        num_images = len(sizes)
        depths = fuse_pointmap_depths(pointmaps)
        self.T_world_camera = np.tile(np.eye(4), (num_images, 1, 1))
        self.num_pairs = len(pointmaps.pairs)
        image_ids, xy, depth = [np.zeros(0, np.int64)], [np.zeros((0, 2))], [np.zeros(0)]
        grids: dict[int, tuple[slice, slice]] = {}
        first = np.zeros(num_images + 1, np.int64)  # image i has the pixels first[i] to first[i + 1] - 1
        for image_id in range(num_images):
            first[image_id + 1] = first[image_id]
            if image_id not in depths:
                continue
            values = depths[image_id].values
            step = max(1, int(np.ceil((values.size / max_num_points) ** 0.5)))
            grids[image_id] = np.s_[::step, ::step]
            sampled = values[grids[image_id]].astype(np.float64).ravel()
            pixels = grid_pixels(pointmaps, image_id, values.shape)[grids[image_id]].reshape(-1, 2)
            first[image_id + 1] += len(sampled)
            image_ids.append(np.full(len(sampled), image_id))
            xy.append(pixels - sizes[image_id] / 2)
            depth.append(sampled / np.nanmedian(sampled))
        self.image_ids, self.depth = np.concatenate(image_ids), np.concatenate(depth)
        self.rays = unproject(np.concatenate(xy), focal)  # at depth one, (P, 3)
        self._collect_observations(pointmaps, grids, first)

    def _collect_observations(
        self, pointmaps: Pointmaps, grids: dict[int, tuple[slice, slice]], first: Indices
    ) -> None:
        """Collect the confident points of all pairs at the sampled pixels.

        Args:
            pointmaps: Pointmaps of the pairs.
            grids: Sampled rows and columns of each image, by image index.
            first: Index of the first sampled pixel of each image, followed by the total number of sampled
                pixels. (N + 1,).
        """
        self.edges: dict[tuple[int, int], int] = {}
        pixel_ids, pair_ids, observed, weights = [], [], [], []
        for pair_id, pair in enumerate(pointmaps.pairs):
            if pair.first not in grids or pair.second not in grids:
                continue
            self.edges[pair.first, pair.second] = pair_id
            for image_id, points, confidence in zip(
                (pair.first, pair.second), pair.points, pair.confidence, strict=True
            ):
                points = points[grids[image_id]].reshape(-1, 3)
                confidence = confidence[grids[image_id]].ravel()
                valid = np.flatnonzero(np.isfinite(points).all(1) & (confidence > 1))
                valid = valid[np.isfinite(self.depth[first[image_id] + valid])]
                pixel_ids.append(first[image_id] + valid)
                pair_ids.append(np.full(len(valid), pair_id))
                observed.append(points[valid].astype(np.float64))
                weights.append(np.log(confidence[valid].astype(np.float64)))  # as in DUSt3R
        empty = np.zeros(0, np.int64)
        self.pixel_ids, self.pair_ids = (
            np.concatenate([empty, *pixel_ids]),
            np.concatenate([empty, *pair_ids]),
        )
        self.observed = np.concatenate([np.zeros((0, 3)), *observed])
        self.confidence: Array = np.concatenate([np.zeros(0), *weights])

    def initialize(self) -> Indices:
        """Initialize poses and depth scales along the maximum spanning tree of the pairs.

        The weight of an edge is the total confidence of its one or two ordered pairs. Observations of pairs
        that contain an image without a pose are removed.

        Returns:
            Indices of the images with a pose, ascending.
        """
        pair_weights = np.bincount(self.pair_ids, self.confidence, self.num_pairs)
        weights: dict[tuple[int, int], int] = {}
        for (first, second), pair_id in self.edges.items():
            key = min(first, second), max(first, second)
            weights[key] = weights.get(key, 0) + int(pair_weights[pair_id])
        tree = spanning_tree(weights, len(self.T_world_camera)) if weights else []
        posed = set(tree[0][:1]) if tree else set()
        for known, new in tree:
            pair_id = self.edges.get((known, new))
            rows = np.flatnonzero(self.pair_ids == pair_id)
            is_new = self.image_ids[self.pixel_ids[rows]] == new
            rows_known, rows_new = rows[~is_new], rows[is_new]
            if pair_id is None or min(len(rows_known), len(rows_new)) < 3 or known not in posed:
                continue  # no usable edge: skip this image and its descendants in the tree
            self._initialize_pose(known, new, rows_known, rows_new)
            posed.add(new)
        kept = np.isin(self.image_ids[self.pixel_ids], list(posed))
        is_complete = np.bincount(self.pair_ids, ~kept, self.num_pairs) == 0
        kept = is_complete[self.pair_ids]
        self.pixel_ids, self.pair_ids = self.pixel_ids[kept], self.pair_ids[kept]
        self.observed, self.confidence = self.observed[kept], self.confidence[kept]
        self.robust_weight = np.ones(int(kept.sum()))
        return np.array(sorted(posed), np.int64)

    def _initialize_pose(self, known: int, new: int, rows_known: Indices, rows_new: Indices) -> None:
        """Initialize the pose and the depth scale of an image from a pair with an image of known pose.

        Args:
            known: Index of the image with a pose.
            new: Index of the image without a pose.
            rows_known: Indices of the pair's observations in the known image.
            rows_new: Indices of the pair's observations in the new image.
        """
        pixels_known, pixels_new = self.pixel_ids[rows_known], self.pixel_ids[rows_new]
        ratio = np.median(self.depth[pixels_known] / self.observed[rows_known, 2])
        target = transform(self.T_world_camera[known], ratio * self.observed[rows_new])
        source = self.depth[pixels_new, None] * self.rays[pixels_new]
        weight, group = self.confidence[rows_new], np.zeros(len(rows_new), np.int64)
        scale, rotation, shift = align_groups(source, target, weight, group, 1)
        for _ in range(4):  # iteratively reweighted fits
            distance = np.linalg.norm(scale * source @ rotation[0].T + shift - target, axis=1)
            weight = self.confidence[rows_new] * _robust_weights(distance)
            scale, rotation, shift = align_groups(source, target, weight, group, 1)
        self.T_world_camera[new] = rigid(rotation[0], shift[0])
        self.depth[self.image_ids == new] *= scale[0]

    def iterate(self) -> None:
        """Solve for the similarities of the pairs, then for the poses, then for the depths."""
        num_images, num_pixels = len(self.T_world_camera), len(self.image_ids)
        points_camera = self.depth[:, None] * self.rays
        world = transform(self.T_world_camera[self.image_ids], points_camera)
        weight = self.confidence * self.robust_weight / self.depth[self.pixel_ids] ** 2
        scale, rotation, shift = align_groups(
            self.observed, world[self.pixel_ids], weight, self.pair_ids, self.num_pairs
        )
        used = np.unique(self.pair_ids)
        # A smaller world would reduce all distances, so fix the scale: mean log scale of the pairs is zero.
        gauge = np.exp(-np.log(scale[used]).mean())
        rotated = np.einsum("nij,nj->ni", rotation[self.pair_ids], self.observed)
        target = scale[self.pair_ids, None] * rotated + shift[self.pair_ids]
        distance = np.linalg.norm(target - world[self.pixel_ids], axis=1)
        self.robust_weight = _robust_weights(distance / self.depth[self.pixel_ids])

        total = sum_rows(weight[:, None], self.pixel_ids, num_pixels)[:, 0]
        observed = np.flatnonzero(total > 0)
        mean = sum_rows(target * weight[:, None], self.pixel_ids, num_pixels)[observed]
        mean = mean / total[observed, None]
        image_ids = self.image_ids[observed]
        _, rotation, shift = align_groups(
            points_camera[observed], mean, total[observed], image_ids, num_images, with_scale=False
        )
        for image_id in np.unique(image_ids):
            self.T_world_camera[image_id] = rigid(rotation[image_id], gauge * shift[image_id])
        mean_camera = np.einsum("nji,nj->ni", rotation[image_ids], mean - shift[image_ids])
        rays = self.rays[observed]
        depth = (mean_camera * rays).sum(1) / (rays**2).sum(1)
        self.depth[observed] = gauge * np.maximum(depth, MIN_DEPTH)


def _robust_weights(distance: Array) -> Array:
    """Compute Cauchy weights of distances, with a width proportional to the median distance. (n,) -> (n,)."""
    sigma = max(robust_sigma(distance), 1e-9) if len(distance) else 1.0
    return cauchy_weight((distance / sigma) ** 2)
