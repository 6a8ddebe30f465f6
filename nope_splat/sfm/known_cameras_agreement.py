"""Agreement of known cameras with verified matches, and the largest set of consistent cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import turn_distortion
from nope_splat.geometry.epipolar import essential_matrix, ray_errors, sampson_errors
from nope_splat.geometry.projection import MIN_DEPTH, LensModel, perspective, project, unproject
from nope_splat.geometry.rigid import invert, rotate, rotation_angle
from nope_splat.matching import PairMatches
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.mapper_options import KnownCamerasOptions
from nope_splat.sfm.pose_estimation import estimate_relative_pose
from nope_splat.sfm.pose_options import RelativePoseOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.triangulation import angles_between
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class PairRays:
    """Matches of an image pair as viewing rays, computed with the known intrinsics."""

    first: int
    """Index of the first image."""
    second: int
    """Index of the second image."""
    rays: tuple[Array, Array]
    """Undistorted viewing rays of the matched keypoints in the first and in the second image, in the
    coordinates of the respective camera: points with z = 1 or, if `is_fisheye`, of any length. (M, 3)
    each."""
    focals: tuple[float, float]
    """Focal lengths of the first and of the second camera, in pixels at keypoint detection resolution."""
    max_error: float
    """Maximum error of a match that agrees with a relative pose, in pixels at keypoint detection
    resolution."""
    options: RelativePoseOptions
    """Options for estimating the relative pose from the matches."""
    is_fisheye: bool = False
    """Whether at least one of the two cameras has a fisheye lens."""

    def agreement(self, T_second_first: Array) -> float:
        """Compute the fraction of the matches that agree with a relative pose.

        Args:
            T_second_first: Transform from the first to the second camera (OpenCV axes). (4, 4).
        """
        errors = match_errors(T_second_first, self.rays, self.focals, self.is_fisheye)
        return float(np.mean(errors <= self.max_error))

    @cached_property
    def estimated_pose(self) -> Array:
        """Transform from the first to the second camera (OpenCV axes), estimated from the matches. (4, 4).

        Its translation has length one.
        """
        first, second = (Camera(focal, is_fisheye=self.is_fisheye) for focal in self.focals)
        rays_first, rays_second = self.rays
        xy_first = project(rays_first, first.focal, first.lens)
        xy_second = project(rays_second, second.focal, second.lens)
        return estimate_relative_pose(xy_first, xy_second, first, second, self.options).T

    @cached_property
    def estimated_pose_agreement(self) -> float:
        """Fraction of the matches that agree with the relative pose `estimated_pose`."""
        return self.agreement(self.estimated_pose)


def match_errors(
    T_second_first: Array, rays: tuple[Array, Array], focals: tuple[float, float], is_fisheye: bool = False
) -> Array:
    """Compute the errors of matches under a relative pose.

    If the triangulated point of a match is in front of both cameras, the error is the Sampson error.
    Otherwise, the point is assumed to be at infinity in the direction of the first ray, because noise can
    move a distant point behind the cameras; the error is then the reprojection error in the second image.

    Args:
        T_second_first: Transform from the first to the second camera (OpenCV axes). (4, 4).
        rays: Viewing rays in the coordinates of the first and of the second camera: points with z = 1 or, for
            fisheye lenses, of any length. (M, 3) each.
        focals: Focal lengths of both cameras, in pixels at keypoint detection resolution.
        is_fisheye: Whether at least one of the two cameras has a fisheye lens.

    Returns:
        Error of each match, in pixels at keypoint detection resolution. (M,).
    """
    (rays_first, rays_second), focal = rays, focals[1]
    rotated, translation = rays_first @ T_second_first[:3, :3].T, T_second_first[:3, 3]
    if is_fisheye:
        errors = ray_errors(*rays, essential_matrix(T_second_first), *focals)
        distances = focal * np.radians(angles_between(rotated, rays_second))
    else:
        errors = sampson_errors(*rays, essential_matrix(T_second_first), *focals)
        at_infinity = perspective(rotated, focal, MIN_DEPTH)
        distances = np.linalg.norm(at_infinity - focal * rays_second[:, :2], axis=1)
    # The depths d and e of the midpoint minimize |d rotated + translation - e rays_second|.
    dot = np.einsum("mi,mi->m", rotated, rays_second)
    squares_first, squares_second = (np.einsum("mi,mi->m", rays, rays) for rays in (rotated, rays_second))
    along_first, along_second = rotated @ translation, rays_second @ translation
    in_front = (dot * along_second > squares_second * along_first) & (
        squares_first * along_second > dot * along_first
    )
    return np.where(in_front, errors, distances)


def pair_rays(problem: SfmProblem, known: KnownCameras) -> list[PairRays]:
    """Compute viewing rays for the matches of all pairs in which both images have a known camera.

    Args:
        problem: Verified matches of the training images, and `KnownCamerasOptions`.
        known: The known cameras.

    Returns:
        The pairs with at least `min_num_matches` matches. If a pair has more than `max_num_matches` matches,
        only every n-th match is used.
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
        turns = groups.upright_from_sensor[list(image_ids)]
        centers = rotate(turns, offsets[cameras])
        rays_first, rays_second = (
            unproject(
                problem.centered_keypoints[image_id][rows] - center,
                focals[camera],
                LensModel(turn_distortion(known.distortion[camera], turn), bool(known.is_fisheye[camera])),
            )
            for image_id, camera, turn, center, rows in zip(
                image_ids, cameras, turns, centers, pair.indices[::step].T, strict=True
            )
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
            is_fisheye=bool(known.is_fisheye[cameras].any()),
        )

    return [
        convert(pair)
        for pair in problem.pairs
        if is_known[[pair.first, pair.second]].all() and len(pair.indices) >= options.min_num_matches
    ]


@dataclass(frozen=True)
class Agreement:
    """Agreement of known cameras with the matches of each of E image pairs."""

    image_ids: Indices
    """Image indices of each pair. (E, 2)."""
    agrees: Mask
    """Whether the matches of each pair agree with the known relative pose of its images. (E,)."""
    weights: Array
    """Weight of each pair in sums over pairs, at most 1: the cosine of the angle of the relative rotation,
    but at least `KnownCamerasOptions.min_weight`. (E,)."""

    @property
    def agreeing_fraction(self) -> float:
        """Sum of the weights of agreeing pairs, divided by the sum of all weights; 0 without pairs."""
        return float(self.weights[self.agrees].sum() / max(self.weights.sum(), 1e-300))

    @property
    def checked_images(self) -> Indices:
        """Indices of the images in at least one pair, ascending. (n,)."""
        return np.unique(self.image_ids)

    def consistent_images(self, min_agreeing_ratio: float) -> Indices:
        """Find a large set of images whose known cameras agree with the matches.

        First, images are removed one by one: always the image with the smallest fraction, by weight, of
        agreeing pairs, until this fraction is at least `min_agreeing_ratio` for each remaining image. Pairs
        with removed images do not count. Then the agreeing pairs connect the remaining images into groups.
        The largest group is kept. Each smaller group is kept only if there is no image pair between it and
        the groups kept before it; such a pair would disagree.

        Args:
            min_agreeing_ratio: Minimum fraction, by weight, of agreeing pairs among the pairs of each image.

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
            # Among images with the same fraction, remove the one with the smallest weight of agreeing pairs.
            fraction = np.where(kept, agreeing / np.maximum(total, 1e-300), np.inf)
            worst = int(np.lexsort((agreeing, fraction))[0])
            if fraction[worst] >= min_agreeing_ratio:
                break
            kept[worst] = False
        return self._largest_group(kept)

    def _largest_group(self, kept: Mask) -> Indices:
        """Choose groups of images that agreeing pairs connect and that do not contradict each other.

        The largest group is chosen. Each smaller group, in descending order of size, is chosen only if no
        pair connects it to a group chosen before; such a pair would disagree.

        Args:
            kept: Whether each image may be chosen. (n,).

        Returns:
            Indices of the chosen images, ascending. (m,).
        """
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
    """Compare the relative poses of known cameras with the matches of image pairs.

    Args:
        pairs: Matches of the pairs; a pair is skipped if one of its images has no known camera.
        known: The known cameras.
        options: Thresholds for agreement, and the minimum weight of a pair.

    Returns:
        Whether each pair agrees, and its weight.
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
        # Matches between views in very different directions are few and often wrong.
        cosines.clip(options.min_weight),
    )


def agrees(pair: PairRays, T_second_first: Array, extent: float, options: KnownCamerasOptions) -> bool:
    """Decide whether the matches of a pair agree with a known relative pose.

    The pair agrees in either of two cases:

    - The known pose is exact: most matches have small errors, and nearly as many as with the relative pose
      that is estimated from the matches.
    - The known pose is rough: it is close to the estimated relative pose. Bundle adjustment refines it.

    Args:
        pair: The matches.
        T_second_first: Known transform from the first to the second camera (OpenCV axes). (4, 4).
        extent: Extent of all known cameras (see `KnownCameras.extent`), in the unit of the translation of
            `T_second_first`.
        options: Thresholds.
    """
    agreement = pair.agreement(T_second_first)
    if agreement >= max(options.min_agreement, options.min_relative_agreement):
        return True  # even if all matches agree with the estimated pose, which need not be computed
    if agreement >= max(
        options.min_agreement, options.min_relative_agreement * pair.estimated_pose_agreement
    ):
        return True
    estimated = pair.estimated_pose
    if rotation_angle(estimated[:3, :3] @ T_second_first[:3, :3].T) > options.max_rotation_error:
        return False
    known, baseline = T_second_first[:3, 3], float(np.linalg.norm(T_second_first[:3, 3]))
    distance = float(np.linalg.norm(known - baseline * estimated[:3, 3]))
    return distance <= options.max_translation_error * extent
