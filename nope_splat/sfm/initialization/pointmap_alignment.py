"""Start from pointmaps: DUSt3R's global alignment, each kind of unknowns in turn and in closed form.

As in DUSt3R (Wang et al., CVPR 2024, section 3.4), every ordered pair has a similarity that takes what it
says to the world, and every image a pose and a depth map. The distance between where pairs and where
images say that a pixel's point is, relative to its depth and weighted by confidence, is minimized.
DUSt3R descends by gradients; here pairs, poses and depths are solved for in turn, from a start along the
spanning tree of the pairs that are most confident. The focal length is what the pointmaps tell by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import rigid, transform
from nope_splat.geometry.robust import cauchy_weight, robust_sigma
from nope_splat.geometry.similarity import align_groups, sum_rows
from nope_splat.matching import Pointmaps
from nope_splat.sfm.initialization.known_cameras import start_from_cameras
from nope_splat.sfm.initialization.pointmap_fusion import fuse_pointmap_depths, grid_positions
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.registration.spanning_tree import spanning_tree
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices

SWEEPS = 30
"""Rounds of solving for everything."""
MAX_POINTS = 1000
"""Points of each image that take part, spread over it."""
NEAREST = 1e-3
"""Depth that no point comes nearer than, in units of the median depth."""


@dataclass(frozen=True)
class PointmapInitialization:
    """Start from the pointmaps of all pairs, brought into one world as by DUSt3R.

    Needs the matcher dust3r (see there for its terms); for photos whose surfaces or number give too few
    matches.
    """

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield the state with the cameras of the aligned pointmaps.

        Args:
            problem: A connected component of one camera, with pointmaps.
        """
        groups, estimates = problem.camera_groups, problem.focal_estimates
        assert problem.pointmaps is not None
        assert estimates is not None
        with problem.clock.stage("registration"):
            focal = estimates[0].focal * float(groups.camera_pixel_sizes[0])
            known = align_pointmaps(problem.pointmaps, groups.sizes, focal)
        if known is not None:
            yield start_from_cameras(problem, known)

    def restart(self, problem: SfmProblem, registered: SfmState) -> None:
        """Never start again: pointmaps do not depend on the focal length."""


def align_pointmaps(pointmaps: Pointmaps, sizes: Indices, focal: float) -> KnownCameras | None:
    """Bring the pointmaps of all pairs into one world.

    Args:
        pointmaps: Of the pairs that may have a say.
        sizes: Width and height of the images at full resolution. (N, 2).
        focal: Focal length, full-resolution pixels.

    Returns:
        Cameras of the images that confident pairs connect; None where these are fewer than two.
    """
    problem = _Alignment(pointmaps, sizes, focal)
    placed = problem.start()
    if len(placed) < 2:
        return None
    for _ in range(SWEEPS):
        problem.sweep()
    poses = problem.T_world_camera[placed]
    centers = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    extent = float(np.linalg.norm(centers, axis=1).max())
    if not extent > 0:
        return None
    poses[:, :3, 3] = centers * (10 / extent)
    return KnownCameras(
        placed, poses, np.array([focal / float(sizes.max())]), np.zeros((1, 2)), np.zeros((1, 2))
    )


class _Alignment:
    """Unknowns and observations: an observation is what one ordered pair says of one pixel.

    Args:
        pointmaps: As of `align_pointmaps`.
        sizes: As of `align_pointmaps`.
        focal: As of `align_pointmaps`.
    """

    def __init__(self, pointmaps: Pointmaps, sizes: Indices, focal: float) -> None:
        num_images = len(sizes)
        depths = fuse_pointmap_depths(pointmaps)
        self.T_world_camera = np.tile(np.eye(4), (num_images, 1, 1))
        self.num_pairs = len(pointmaps.pairs)
        image, xy, depth = [np.zeros(0, np.int64)], [np.zeros((0, 2))], [np.zeros(0)]
        chosen: dict[int, tuple[slice, slice]] = {}
        first = np.zeros(num_images + 1, np.int64)  # pixels of image p are first[p] to first[p + 1]
        for index in range(num_images):
            first[index + 1] = first[index]
            if index not in depths:
                continue
            values = depths[index].values
            step = max(1, int(np.ceil((values.size / MAX_POINTS) ** 0.5)))
            chosen[index] = np.s_[::step, ::step]
            thin = values[chosen[index]].astype(np.float64).ravel()
            places = grid_positions(pointmaps, index, values.shape)[chosen[index]].reshape(-1, 2)
            first[index + 1] += len(thin)
            image.append(np.full(len(thin), index))
            xy.append(places - sizes[index] / 2)
            depth.append(thin / np.nanmedian(thin))
        self.image, self.depth = np.concatenate(image), np.concatenate(depth)
        self.rays = unproject(np.concatenate(xy), focal)  # at depth one, (P, 3)
        self.edges: dict[tuple[int, int], int] = {}
        pixel, pair, said, trust = [], [], [], []
        for number, one in enumerate(pointmaps.pairs):
            if one.first not in chosen or one.second not in chosen:
                continue
            self.edges[one.first, one.second] = number
            for index, points, confidence in zip(
                (one.first, one.second), one.points, one.confidence, strict=True
            ):
                points, confidence = points[chosen[index]].reshape(-1, 3), confidence[chosen[index]].ravel()
                known = np.flatnonzero(np.isfinite(points).all(1) & (confidence > 1))
                known = known[np.isfinite(self.depth[first[index] + known])]
                pixel.append(first[index] + known)
                pair.append(np.full(len(known), number))
                said.append(points[known].astype(np.float64))
                trust.append(np.log(confidence[known].astype(np.float64)))  # DUSt3R's weight
        none = np.zeros(0, np.int64)
        self.pixel, self.pair = np.concatenate([none, *pixel]), np.concatenate([none, *pair])
        self.said = np.concatenate([np.zeros((0, 3)), *said])
        self.trust: Array = np.concatenate([np.zeros(0), *trust])

    def start(self) -> Indices:
        """Place images along the spanning tree; returns those that it reaches, ascending."""
        strength = np.bincount(self.pair, self.trust, self.num_pairs)
        weights: dict[tuple[int, int], int] = {}
        for (first, second), number in self.edges.items():
            key = min(first, second), max(first, second)
            weights[key] = weights.get(key, 0) + int(strength[number])
        tree = spanning_tree(weights, len(self.T_world_camera)) if weights else []
        placed = set(tree[0][:1]) if tree else set()
        for known, new in tree:
            number = self.edges.get((known, new))
            rows = np.flatnonzero(self.pair == number)
            of_new = self.image[self.pixel[rows]] == new
            ours, theirs = rows[~of_new], rows[of_new]
            if number is None or min(len(ours), len(theirs)) < 3:
                continue  # nobody can be placed by it, nor whoever hangs on it
            if known not in placed:
                continue
            ratio = np.median(self.depth[self.pixel[ours]] / self.said[ours, 2])
            target = transform(self.T_world_camera[known], ratio * self.said[theirs])
            source = self.depth[self.pixel[theirs], None] * self.rays[self.pixel[theirs]]
            weight = self.trust[theirs]
            for _ in range(5):
                group = np.zeros(len(theirs), np.int64)
                scale, rotation, shift = align_groups(source, target, weight, group, 1)
                distance = np.linalg.norm(scale * source @ rotation[0].T + shift - target, axis=1)
                weight = self.trust[theirs] * _weights(distance)
            self.T_world_camera[new] = rigid(rotation[0], shift[0])
            self.depth[self.image == new] *= scale[0]
            placed.add(new)
        kept = np.isin(self.image[self.pixel], list(placed))
        whole = np.bincount(self.pair, ~kept, self.num_pairs) == 0
        kept = whole[self.pair]
        self.pixel, self.pair = self.pixel[kept], self.pair[kept]
        self.said, self.trust, self.robust = self.said[kept], self.trust[kept], np.ones(int(kept.sum()))
        return np.array(sorted(placed), np.int64)

    def sweep(self) -> None:
        """Solve for the similarities of the pairs, then for poses and depths."""
        num_images, num_pixels = len(self.T_world_camera), len(self.image)
        in_camera = self.depth[:, None] * self.rays
        world = transform(self.T_world_camera[self.image], in_camera)
        weight = self.trust * self.robust / self.depth[self.pixel] ** 2
        scale, rotation, shift = align_groups(self.said, world[self.pixel], weight, self.pair, self.num_pairs)
        used = np.unique(self.pair)
        gauge = np.exp(-np.log(scale[used]).mean())  # smaller is always nearer: pairs keep their size
        turned = np.einsum("nij,nj->ni", rotation[self.pair], self.said)
        target = scale[self.pair, None] * turned + shift[self.pair]
        self.robust = _weights(np.linalg.norm(target - world[self.pixel], axis=1) / self.depth[self.pixel])

        total = sum_rows(weight[:, None], self.pixel, num_pixels)[:, 0]
        seen = np.flatnonzero(total > 0)
        mean = sum_rows(target * weight[:, None], self.pixel, num_pixels)[seen] / total[seen, None]
        image_id = self.image[seen]
        _, rotation, shift = align_groups(
            in_camera[seen], mean, total[seen], image_id, num_images, with_scale=False
        )
        moved = np.unique(image_id)
        for index in moved:
            self.T_world_camera[index] = rigid(rotation[index], gauge * shift[index])
        local = np.einsum("nji,nj->ni", rotation[image_id], mean - shift[image_id])
        rays = self.rays[seen]
        depth = (local * rays).sum(1) / (rays**2).sum(1)
        self.depth[seen] = gauge * np.maximum(depth, NEAREST)


def _weights(distance: Array) -> Array:
    """Cauchy weights of distances at the scale of their own noise. (n,) -> (n,)."""
    sigma = max(robust_sigma(distance), 1e-9) if len(distance) else 1.0
    return cauchy_weight((distance / sigma) ** 2)
