"""From registered images to points: triangulate, extend and filter tracks."""

from __future__ import annotations

import numpy as np

from nope_splat.geometry.rigid import transform
from nope_splat.geometry.similarity import sum_rows
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices, Mask

MAX_HYPOTHESES = 12
"""Most pairs of observations tried per track."""
START_ERRORS = (0.05, 0.01)
"""Largest reprojection errors of an observation while rough cameras are adjusted for the first times, as
shares of the longer side: room for a focal length wrong by a tenth."""


def intersect(T_first: Array, rays_first: Array, T_second: Array, rays_second: Array) -> Array:
    """Points nearest to two rays, by linear least squares (Hartley and Zisserman, section 12.2).

    Args:
        T_first: World-to-camera transforms. (..., 4, 4).
        rays_first: Rays in camera coordinates at depth one. (n, 3).
        T_second: World-to-camera transforms. (..., 4, 4).
        rays_second: Rays in camera coordinates at depth one. (n, 3).

    Returns:
        World coordinates. (n, 3).
    """
    n = len(rays_first)
    equations = []
    for pose, rays in ((T_first, rays_first), (T_second, rays_second)):
        rows = np.broadcast_to(pose, (n, 4, 4))[:, :3]
        for axis in (0, 1):
            equations.append(rays[:, axis, None] * rows[:, 2] - rows[:, axis])
    system = np.stack(equations, axis=1)  # (n, 4, 4): four equations, homogeneous point
    system /= np.linalg.norm(system, axis=2, keepdims=True)
    matrix, right = system[..., :3], -system[..., 3]
    normal = np.einsum("nki,nkj->nij", matrix, matrix) + 1e-14 * np.eye(3)
    return np.linalg.solve(normal, np.einsum("nki,nk->ni", matrix, right)[..., None])[..., 0]


def angles_between(first: Array, second: Array) -> Array:
    """Angles between vectors in degrees. (n, 3), (n, 3) -> (n,)."""
    cosine = np.einsum("ni,ni->n", first, second)
    cosine /= np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1) + 1e-300
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def triangulate(state: SfmState, max_error: float, min_angle: float, tracks: Mask | None = None) -> None:
    """Give points to tracks, or new ones, from their observations in registered images.

    Every pair of observations with enough parallax proposes a point (at most `MAX_HYPOTHESES` of them, in
    a fixed order spread over the track); the point that most observations of the track agree with wins.

    Args:
        state: Changed in place.
        max_error: Largest reprojection error of an agreeing observation, feature pixels.
        min_angle: Smallest angle between the two rays of a proposal, degrees.
        tracks: Tracks to (re)triangulate; those without a point by default. (T,).
    """
    wanted = ~state.has_point if tracks is None else tracks
    rows = np.flatnonzero(state.registered[state.image_ids] & wanted[state.track_ids])
    ids, first, counts = np.unique(state.track_ids[rows], return_index=True, return_counts=True)
    seen_twice = counts >= 2
    ids, first, counts = ids[seen_twice], first[seen_twice], counts[seen_twice]
    if len(ids) == 0:
        return
    rays = state.rays(state.xy[rows], state.image_ids[rows])
    poses = state.T_camera_world[state.image_ids[rows]]
    directions = np.einsum("nji,nj->ni", poses[:, :3, :3], rays)

    one, two, owner = _pairs(first, counts)
    parallax = angles_between(directions[one], directions[two]) >= min_angle
    one, two, owner = one[parallax], two[parallax], owner[parallax]
    state.inlier[rows] = False
    state.has_point[ids] = False
    if len(owner) == 0:
        return
    proposals = intersect(poses[one], rays[one], poses[two], rays[two])

    # Score each proposal against all observations of its track.
    length = counts[owner]
    proposal = np.repeat(np.arange(len(owner)), length)
    row = np.arange(len(proposal)) + np.repeat(first[owner] - (np.cumsum(length) - length), length)
    in_camera = transform(poses[row], proposals[proposal])
    errors = state.projection_errors(in_camera, rows[row])
    agrees = errors < max_error
    support = np.bincount(proposal, weights=agrees, minlength=len(owner))
    misfit = np.bincount(proposal, weights=np.minimum(errors, max_error), minlength=len(owner))
    score = support - 0.9 * misfit / (max_error * length)  # ties in support go to the smaller error

    order = np.lexsort((-score, owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    best = best[support[best] >= 2]
    state.points[ids[owner[best]]] = proposals[best]
    state.has_point[ids[owner[best]]] = True
    chosen = np.zeros(len(owner), bool)
    chosen[best] = True
    state.inlier[rows[row[chosen[proposal] & agrees]]] = True


def _pairs(first: Indices, counts: Indices) -> tuple[Indices, Indices, Indices]:
    """Pairs of rows of each track, and the track's number. (T,), (T,) -> (H,), (H,), (H,)."""
    one, two, owner = [], [], []
    for count in np.unique(counts):
        i, j = np.triu_indices(count, 1)
        if len(i) > MAX_HYPOTHESES:
            chosen = np.random.default_rng(0).permutation(len(i))[:MAX_HYPOTHESES]
            i, j = i[chosen], j[chosen]
        members = np.flatnonzero(counts == count)
        one.append((first[members, None] + i).ravel())
        two.append((first[members, None] + j).ravel())
        owner.append(np.repeat(members, len(i)))
    return np.concatenate(one), np.concatenate(two), np.concatenate(owner)


def extend(state: SfmState, max_error: float) -> None:
    """Let observations in registered images join points of their track that they agree with.

    Args:
        state: Changed in place.
        max_error: Largest reprojection error, feature pixels.
    """
    rows = np.flatnonzero(
        state.registered[state.image_ids] & state.has_point[state.track_ids] & ~state.inlier
    )
    state.inlier[rows[state.errors(rows) < max_error]] = True


def filter_observations(state: SfmState, max_error: float, min_angle: float) -> None:
    """Drop observations that reproject badly, then points with fewer than two or with too little parallax.

    Args:
        state: Changed in place.
        max_error: Largest reprojection error, feature pixels.
        min_angle: Smallest triangulation angle of a point, degrees.
    """
    rows = np.flatnonzero(state.inlier)
    state.inlier[rows[state.errors(rows) >= max_error]] = False
    rows = np.flatnonzero(state.inlier)
    ids = state.track_ids[rows]
    num_tracks = len(state.points)
    viewing = state.points[ids] - state.centers()[state.image_ids[rows]]
    viewing /= np.linalg.norm(viewing, axis=1, keepdims=True) + 1e-300
    mean = sum_rows(viewing, ids, num_tracks)
    # Twice the largest deviation from the mean direction: exact for two views, within a factor for more.
    deviation = np.zeros(num_tracks)
    np.maximum.at(deviation, ids, angles_between(viewing, mean[ids]))
    keep = (np.bincount(ids, minlength=num_tracks) >= 2) & (2 * deviation >= min_angle)
    state.has_point &= keep
    state.inlier &= state.has_point[state.track_ids]


def triangulate_coarse_to_fine(state: SfmState, min_angle: float, device: str = "cpu") -> None:
    """Triangulate the tracks of registered images and adjust both, in rounds of falling thresholds.

    Args:
        state: A scene with poses but without points; changed in place.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
    """
    longer_side = 2 * float(state.half_size.max())
    for share in START_ERRORS:
        triangulate(state, share * longer_side, min_angle, np.ones(len(state.points), bool))
        state.rescale()
        state.adjust(BundleAdjustmentOptions(tolerance=1e-3, device=device))
        filter_observations(state, share * longer_side, min_angle)
