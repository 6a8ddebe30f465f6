"""Agreement of known cameras with verified matches, and the largest set of consistent cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nope_splat.geometry.epipolar import essential_matrix, sampson_errors
from nope_splat.geometry.projection import MIN_DEPTH, perspective, unproject
from nope_splat.geometry.rigid import invert, rotation_angle
from nope_splat.matching import PairMatches
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.mapper_options import KnownCamerasOptions
from nope_splat.sfm.pose_estimation import RelativePoseOptions, estimate_relative_pose, poselib_camera
from nope_splat.sfm.problem import SfmProblem
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class PairRays:
    """Matches of two images as rays of their known intrinsics, which poses are compared with."""

    first: int
    """Index of the first image."""
    second: int
    """Index of the second image."""
    rays: tuple[Array, Array]
    """Rays through the matches in the coordinates of the first and of the second camera, at depth one. (M, 3)
    each."""
    focals: tuple[float, float]
    """Focal lengths in feature pixels."""
    max_error: float
    """Maximum error of a match that agrees with a relative pose, feature pixels."""
    options: RelativePoseOptions
    """Options of the estimated relative pose."""

    def share_explained(self, T_second_first: Array) -> float:
        """Compute the share of the matches that agree with a relative pose.

        Args:
            T_second_first: Transform from the first to the second camera. (4, 4).
        """
        errors = match_errors(T_second_first, *self.rays, *self.focals)
        return float(np.mean(errors <= self.max_error))

    @cached_property
    def estimated(self) -> Array:
        """Relative pose that is estimated from the matches, with a translation of length one. (4, 4)."""
        rays_first, rays_second = self.rays
        focal_first, focal_second = self.focals
        return estimate_relative_pose(
            focal_first * rays_first[:, :2],
            focal_second * rays_second[:, :2],
            poselib_camera(focal_first),
            poselib_camera(focal_second),
            self.options,
        ).T

    @cached_property
    def share_estimated(self) -> float:
        """Share of the matches that agree with the estimated relative pose."""
        return self.share_explained(self.estimated)


def match_errors(
    T_second_first: Array, rays_first: Array, rays_second: Array, focal_first: float, focal_second: float
) -> Array:
    """Compute the errors of matches under a relative pose.

    The error is the Sampson error if the triangulated point is in front of both cameras. Otherwise, it is the
    distance in the second image if the point were at infinity, because noise puts points that are far away
    behind the cameras.

    Args:
        T_second_first: Transform from the first to the second camera. (4, 4).
        rays_first: Rays in the coordinates of the first camera, at depth one. (M, 3).
        rays_second: Rays in the coordinates of the second camera, at depth one. (M, 3).
        focal_first: Focal length of the first camera, feature pixels.
        focal_second: Focal length of the second camera, feature pixels.

    Returns:
        Feature pixels. (M,).
    """
    errors = sampson_errors(
        rays_first, rays_second, essential_matrix(T_second_first), focal_first, focal_second
    )
    rotated, translation = rays_first @ T_second_first[:3, :3].T, T_second_first[:3, 3]
    at_infinity = perspective(rotated, focal_second, MIN_DEPTH)
    distances = np.linalg.norm(at_infinity - focal_second * rays_second[:, :2], axis=1)
    # The depths d and e of the midpoint minimize |d rotated + translation - e rays_second|.
    dot = np.einsum("mi,mi->m", rotated, rays_second)
    squares_first, squares_second = (np.einsum("mi,mi->m", rays, rays) for rays in (rotated, rays_second))
    along_first, along_second = rotated @ translation, rays_second @ translation
    in_front = (dot * along_second > squares_second * along_first) & (
        squares_first * along_second > dot * along_first
    )
    return np.where(in_front, errors, distances)


def pair_rays(problem: SfmProblem, known: KnownCameras) -> list[PairRays]:
    """Convert the matches of the pairs whose images both have a known camera.

    Args:
        problem: Verified matches of the training images.
        known: The cameras.

    Returns:
        The pairs with enough matches to contradict the cameras.
    """
    options, groups = problem.options.known_cameras, problem.camera_groups
    longer_sides = groups.longer_sides
    focals, offsets = known.focal * longer_sides, known.offset * longer_sides[:, None]
    is_known = np.zeros(len(groups.sizes), bool)
    is_known[known.image_ids] = True

    def convert(pair: PairMatches) -> PairRays:
        step = -(-len(pair.indices) // options.max_num_matches)
        image_ids = (pair.first, pair.second)
        cameras = groups.camera_ids[list(image_ids)]
        rays_first, rays_second = (
            unproject(
                problem.centered_keypoints[image_id][rows] - offsets[camera],
                focals[camera],
                known.radial[camera],
            )
            for image_id, camera, rows in zip(image_ids, cameras, pair.indices[::step].T, strict=True)
        )
        max_error = max(options.max_error, options.max_error_ratio * float(longer_sides[cameras].max()))
        return PairRays(
            *image_ids,
            rays=(rays_first, rays_second),
            focals=(float(focals[cameras[0]]), float(focals[cameras[1]])),
            max_error=max_error,
            options=RelativePoseOptions(
                problem.options.two_view.max_epipolar_error,
                max_num_trials=options.max_num_trials,
                random_seed=problem.seed,
            ),
        )

    return [
        convert(pair)
        for pair in problem.pairs
        if is_known[[pair.first, pair.second]].all() and len(pair.indices) >= options.min_num_matches
    ]


@dataclass(frozen=True)
class Agreement:
    """Agreement of known cameras with the matches of each pair."""

    image_ids: Indices
    """Images of each pair. (E, 2)."""
    agrees: Mask
    """Whether the matches agree with the poses. (E,)."""
    weights: Array
    """What each pair counts. (E,)."""

    @property
    def share(self) -> float:
        """Share of the pairs that agree, by weight; 0 without pairs."""
        return float(self.weights[self.agrees].sum() / max(self.weights.sum(), 1e-300))

    @property
    def checked_images(self) -> Indices:
        """Images in at least one pair, ascending. (n,)."""
        return np.unique(self.image_ids)

    def consistent_images(self, min_share: float) -> Indices:
        """Find the largest consistent set of images.

        Images most of whose pairs with the others disagree are removed, the worst first. Of the groups that
        agreeing pairs connect, the largest is kept, and another one only if no pair contradicts both.

        Args:
            min_share: Minimum share, by weight, of the pairs of each image that agree.

        Returns:
            Image indices, ascending. (n,).
        """
        num_images = int(self.image_ids.max(initial=-1)) + 1
        kept = np.zeros(num_images, bool)
        kept[self.checked_images] = True
        while kept.any():
            inside = kept[self.image_ids].all(axis=1)
            agreeing = np.zeros(num_images)
            total = np.zeros(num_images)
            for column in self.image_ids.T:
                agreeing += np.bincount(column, self.weights * (inside & self.agrees), num_images)
                total += np.bincount(column, self.weights * inside, num_images)
            # Of equally bad images, the one with the least support is removed first.
            share = np.where(kept, agreeing / np.maximum(total, 1e-300), np.inf)
            worst = int(np.lexsort((agreeing, share))[0])
            if share[worst] >= min_share:
                break
            kept[worst] = False
        return self._largest_group(kept)

    def _largest_group(self, kept: Mask) -> Indices:
        """Choose the largest group of images that agreeing pairs connect, and groups that agree with it."""
        num_images = len(kept)
        inside = kept[self.image_ids].all(axis=1)
        edges = self.image_ids[inside & self.agrees]
        graph = coo_array((np.ones(len(edges)), edges.T), (num_images, num_images))
        _, labels = connected_components(graph, directed=False)
        labels[~kept] = -1
        sizes = np.bincount(labels[kept], minlength=1)
        chosen = np.zeros(num_images, bool)
        for label in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)].tolist():
            group = labels == label
            in_group, in_chosen = group[self.image_ids], chosen[self.image_ids]
            if not (in_group & in_chosen[:, ::-1]).any():
                chosen |= group
        return np.flatnonzero(chosen)


def measure_agreement(
    pairs: Sequence[PairRays], known: KnownCameras, options: KnownCamerasOptions
) -> Agreement:
    """Compare the relative poses of known cameras with matches.

    Args:
        pairs: Matches of the pairs; pairs with an image without a known camera are skipped.
        known: The cameras.
        options: When a pair agrees.

    Returns:
        The agreement.
    """
    poses = dict(zip(known.image_ids.tolist(), known.T_world_camera, strict=True))
    used = [pair for pair in pairs if pair.first in poses and pair.second in poses]
    relative = [invert(poses[pair.second]) @ poses[pair.first] for pair in used]
    extent = known.extent
    cosines = np.array([(np.trace(pose[:3, :3]) - 1) / 2 for pose in relative])
    return Agreement(
        np.array([(pair.first, pair.second) for pair in used], np.int64).reshape(-1, 2),
        np.array(
            [agrees(pair, pose, extent, options) for pair, pose in zip(used, relative, strict=True)], bool
        ),
        # Matches of views in different directions are few and often wrong.
        cosines.clip(options.min_weight),
    )


def agrees(pair: PairRays, T_second_first: Array, extent: float, options: KnownCamerasOptions) -> bool:
    """Decide whether the matches of a pair agree with a known relative pose.

    They agree exactly, with most matches near their epipolar lines, or roughly, with an estimated relative
    pose nearby; bundle adjustment refines rough cameras.

    Args:
        pair: The matches.
        T_second_first: Transform from the first to the second camera. (4, 4).
        extent: Extent of all known cameras, in the unit of the translation.
        options: Thresholds.
    """
    share = pair.share_explained(T_second_first)
    if share >= max(options.min_agreement, options.min_relative_agreement):
        return True  # an estimated pose cannot be so much better
    if share >= max(options.min_agreement, options.min_relative_agreement * pair.share_estimated):
        return True
    estimated = pair.estimated
    if rotation_angle(estimated[:3, :3] @ T_second_first[:3, :3].T) > options.max_rotation:
        return False
    known, baseline = T_second_first[:3, 3], float(np.linalg.norm(T_second_first[:3, 3]))
    distance = float(np.linalg.norm(known - baseline * estimated[:3, 3]))
    return distance <= options.max_translation * extent
