"""Triangulation of tracks, completion of tracks, and filtering of observations."""

from __future__ import annotations

import numpy as np

from nope_splat.geometry.rigid import transform
from nope_splat.geometry.similarity import sum_rows
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices, Mask

MAX_HYPOTHESES = 12
"""Maximum number of observation pairs per track from which candidate points are triangulated."""


def triangulate_two_views(T_first: Array, rays_first: Array, T_second: Array, rays_second: Array) -> Array:
    """Triangulate each point from two rays by linear least squares (Hartley and Zisserman, section 12.2).

    Args:
        T_first: World-to-camera transform of the first view, one for all points or one per point. (4, 4) or
            (n, 4, 4).
        rays_first: Rays in camera coordinates of the first view, of any length. (n, 3).
        T_second: World-to-camera transform of the second view, one for all points or one per point. (4, 4) or
            (n, 4, 4).
        rays_second: Rays in camera coordinates of the second view, of any length. (n, 3).

    Returns:
        World coordinates of the points. (n, 3).
    """
    n = len(rays_first)
    equations = []
    for pose, rays in ((T_first, rays_first), (T_second, rays_second)):
        rows = np.broadcast_to(pose, (n, 4, 4))[:, :3]
        rays, rows = _largest_last(rays, rows)
        for axis in (0, 1):
            equations.append(rays[:, axis, None] * rows[:, 2] - rays[:, 2, None] * rows[:, axis])
    system = np.stack(equations, axis=1)  # (n, 4, 4): four equations, homogeneous point
    system /= np.linalg.norm(system, axis=2, keepdims=True)
    matrix, right = system[..., :3], -system[..., 3]
    normal = np.einsum("nki,nkj->nij", matrix, matrix) + 1e-14 * np.eye(3)
    return np.linalg.solve(normal, np.einsum("nki,nk->ni", matrix, right)[..., None])[..., 0]


def _largest_last(rays: Array, rows: Array) -> tuple[Array, Array]:
    """Reorder the axes of rays that point sideways, so that the last coordinate is the largest.

    Args:
        rays: Rays in camera coordinates. (n, 3).
        rows: Rows of the world-to-camera transforms. (n, 3, 4).

    Returns:
        Rays (n, 3) and rows (n, 3, 4), in the same order of axes. Rays near the optical axis are unchanged.
    """
    is_forward = np.abs(rays[:, 2]) > 0.1 * np.linalg.norm(rays, axis=1)
    last: Indices = np.where(is_forward, 2, np.abs(rays).argmax(1)).astype(np.int64)
    if (last == 2).all():
        return rays, rows
    order = (last[:, None] + np.array([1, 2, 3])) % 3
    return np.take_along_axis(rays, order, 1), np.take_along_axis(rows, order[:, :, None], 1)


def angles_between(first: Array, second: Array) -> Array:
    """Compute the angles between pairs of vectors, in degrees. (n, 3), (n, 3) -> (n,)."""
    cosine = np.einsum("ni,ni->n", first, second)
    cosine /= np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1) + 1e-300
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def triangulate(state: SfmState, max_error: float, min_angle: float, tracks: Mask | None = None) -> None:
    """Triangulate tracks from their observations in registered images.

    Candidate points are triangulated from pairs of observations whose rays differ by at least `min_angle`.
    For tracks with many observations, a random sample of `MAX_HYPOTHESES` pairs with a fixed seed is used.
    The candidate with the most inlier observations is kept, if there are at least two inliers.

    Args:
        state: State with poses; changed in place.
        max_error: Maximum reprojection error of an inlier observation, in pixels at keypoint detection
            resolution.
        min_angle: Minimum angle between the two rays of a candidate, in degrees.
        tracks: Whether to triangulate each track and replace its current point; by default, all tracks
            without a point are triangulated. (T,).
    """
    selected = ~state.has_point if tracks is None else tracks
    rows = np.flatnonzero(state.registered[state.image_ids] & selected[state.track_ids])
    ids, first, counts = np.unique(state.track_ids[rows], return_index=True, return_counts=True)
    has_pair = counts >= 2
    ids, first, counts = ids[has_pair], first[has_pair], counts[has_pair]
    if len(ids) == 0:
        return
    rays = state.rays(state.xy[rows], state.image_ids[rows])
    poses = state.T_camera_world[state.image_ids[rows]]
    directions = np.einsum("nji,nj->ni", poses[:, :3, :3], rays)

    left, right, track = _observation_pairs(first, counts)
    parallax = angles_between(directions[left], directions[right]) >= min_angle
    left, right, track = left[parallax], right[parallax], track[parallax]
    state.inlier[rows] = False
    state.has_point[ids] = False
    if len(track) == 0:
        return
    proposals = triangulate_two_views(poses[left], rays[left], poses[right], rays[right])

    # Score each candidate point against all observations of its track.
    length = counts[track]
    proposal = np.repeat(np.arange(len(track)), length)
    row = np.arange(len(proposal)) + np.repeat(first[track] - (np.cumsum(length) - length), length)
    points_camera = transform(poses[row], proposals[proposal])
    errors = state.projection_errors(points_camera, rows[row])
    is_inlier = errors < max_error
    support = np.bincount(proposal, weights=is_inlier, minlength=len(track))
    total_error = np.bincount(proposal, weights=np.minimum(errors, max_error), minlength=len(track))
    score = support - 0.9 * total_error / (max_error * length)  # among equal supports, the smaller error wins

    order = np.lexsort((-score, track))
    best = order[np.unique(track[order], return_index=True)[1]]
    best = best[support[best] >= 2]
    state.points[ids[track[best]]] = proposals[best]
    state.has_point[ids[track[best]]] = True
    is_best = np.zeros(len(track), bool)
    is_best[best] = True
    state.inlier[rows[row[is_best[proposal] & is_inlier]]] = True


def _observation_pairs(first: Indices, counts: Indices) -> tuple[Indices, Indices, Indices]:
    """List pairs of observations of each track.

    If a track has more than `MAX_HYPOTHESES` pairs, a random sample with a fixed seed is returned.

    Args:
        first: Index of the first observation of each track; its other observations follow. (T,).
        counts: Number of observations of each track. (T,).

    Returns:
        First observation, second observation and track index of each of the H pairs. (H,), (H,), (H,).
    """
    left, right, track = [], [], []
    for count in np.unique(counts):
        i, j = np.triu_indices(count, 1)
        if len(i) > MAX_HYPOTHESES:
            sample = np.random.default_rng(0).permutation(len(i))[:MAX_HYPOTHESES]
            i, j = i[sample], j[sample]
        tracks = np.flatnonzero(counts == count)
        left.append((first[tracks, None] + i).ravel())
        right.append((first[tracks, None] + j).ravel())
        track.append(np.repeat(tracks, len(i)))
    return np.concatenate(left), np.concatenate(right), np.concatenate(track)


def complete_tracks(state: SfmState, max_error: float) -> None:
    """Complete tracks: observations in registered images become inliers if they agree with the track's point.

    Args:
        state: State with poses and points; changed in place.
        max_error: Maximum reprojection error of an inlier observation, in pixels at keypoint detection
            resolution.
    """
    rows = np.flatnonzero(
        state.registered[state.image_ids] & state.has_point[state.track_ids] & ~state.inlier
    )
    state.inlier[rows[state.errors(rows) < max_error]] = True


def filter_observations(state: SfmState, max_error: float, min_angle: float) -> None:
    """Remove observations with large errors, then points with one observation or a small triangulation angle.

    Args:
        state: State with poses and points; changed in place.
        max_error: Maximum reprojection error of an observation, in pixels at keypoint detection resolution.
        min_angle: Minimum triangulation angle of a point, in degrees.
    """
    rows = np.flatnonzero(state.inlier)
    state.inlier[rows[state.errors(rows) >= max_error]] = False
    rows = np.flatnonzero(state.inlier)
    ids = state.track_ids[rows]
    num_tracks = len(state.points)
    viewing = state.points[ids] - state.centers()[state.image_ids[rows]]
    viewing /= np.linalg.norm(viewing, axis=1, keepdims=True) + 1e-300
    mean = sum_rows(viewing, ids, num_tracks)
    # Triangulation angle: twice the largest deviation from the mean direction, exact for two views.
    deviation = np.zeros(num_tracks)
    np.maximum.at(deviation, ids, angles_between(viewing, mean[ids]))
    keep = (np.bincount(ids, minlength=num_tracks) >= 2) & (2 * deviation >= min_angle)
    state.has_point &= keep
    state.inlier &= state.has_point[state.track_ids]


def triangulate_coarse_to_fine(state: SfmState, options: MapperOptions) -> None:
    """Triangulate tracks and bundle-adjust in rounds with decreasing maximum reprojection errors.

    Args:
        state: State with poses but without points; changed in place.
        options: Options of triangulation and bundle adjustment.
    """
    longer_side, all_tracks = 2 * float(state.half_size.max()), np.ones(len(state.points), bool)
    for ratio in options.coarse_max_reproj_error_ratios:
        triangulate(state, ratio * longer_side, options.min_tri_angle, all_tracks)
        state.rescale()
        state.bundle_adjust(BundleAdjustmentOptions(tolerance=1e-3, device=options.ba_device))
        filter_observations(state, ratio * longer_side, options.min_tri_angle)
