"""Start from the depth of single images: the initialization of arXiv:2502.19800.

The focal length starts at a field of view of 60 degrees. Along the maximum spanning tree of the match graph,
the relative pose of each pair is the one that brings the matches, lifted by the depth of the image that
is known, to their keypoints in the new one; then everything is adjusted together. The depth of one image
is known up to scale and shift only, which the pairs tell from each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nope_splat.depth import DepthKind, DepthMap, ScaleShift, fit_scale_shift
from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import transform
from nope_splat.matching import Keypoints, PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.depth_alignment import DepthAlignmentProblem, align_depths, residuals
from nope_splat.sfm.initialization.focal import prior_focal
from nope_splat.sfm.pose_estimation import AbsolutePoseOptions, estimate_absolute_pose, poselib_camera
from nope_splat.sfm.registration.spanning_tree import spanning_tree
from nope_splat.sfm.state import FocalPrior, SfmState
from nope_splat.sfm.triangulation import triangulate_coarse_to_fine
from nope_splat.utils.typing import Array

ROOT_SHIFTS = (-0.3, 0.0, 0.5, 2.0)
"""Shifts of the first map that are tried, in units of the median of its values."""
MAX_EDGE_ERROR = 0.03
"""Largest distance of a lifted match from its keypoint, as a share of the longer side: depth and focal length
are rough."""
MIN_LIFTED = 12
"""Fewest lifted matches that give a relative pose."""
MAX_MATCHES = 200
"""Matches of a pair that take part in the joint adjustment, in each direction."""


default_focal = prior_focal  # the name by which `select` calls it


def start_from_depth(
    depths: Mapping[int, DepthMap],
    keypoints: Sequence[Keypoints],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    layout: CameraGroups,
    focal: float,
    min_angle: float,
    device: str = "cpu",
    seed: int = 0,
    fix_focal: bool = False,
    focal_prior: FocalPrior | None = None,
) -> SfmState:
    """Register the images that the spanning tree reaches, then triangulate tracks and adjust both.

    Args:
        depths: Depth maps, by image.
        keypoints: Keypoints of each image.
        positions: The same, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches.
        layout: Sizes of the images, which one camera took.
        focal: Focal length to start from, feature pixels.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        seed: Seed of random choices.
        fix_focal: Whether the focal length stays as it is.
        focal_prior: What is known of the focal length, if anything.

    Returns:
        A scene in which these images are registered; none where no pair could be lifted.
    """
    values = {image_id: _values(depth_map, keypoints[image_id]) for image_id, depth_map in depths.items()}
    pairs = [pair for pair in pairs if pair.first in values and pair.second in values]
    state = SfmState.start(build_tracks(keypoints, pairs), layout, np.array([focal]), fix_focal, focal_prior)
    if not pairs:
        return state
    kind = next(iter(depths.values())).kind  # one network, or one folder, for all
    max_error = MAX_EDGE_ERROR * float(layout.longer_sides[0])
    best, least = None, (0, np.inf)
    for shift in (0.0,) if kind == "metric" else ROOT_SHIFTS:
        fits, poses = _chain(values, positions, pairs, len(keypoints), kind, shift, focal, max_error, seed)
        image_ids = list(poses)
        if len(image_ids) < 2:
            continue
        problem = _problem(image_ids, fits, poses, values, positions, pairs, focal, seed)
        misfit = np.minimum(np.linalg.norm(residuals(problem), axis=1), max_error).mean()
        if (-len(image_ids), misfit) < least:
            best, least = (image_ids, problem), (-len(image_ids), misfit)
    if best is None:
        return state
    image_ids, problem = best
    problem = align_depths(replace(problem, free_focal=not fix_focal))
    state.T_camera_world[image_ids] = problem.T_camera_world
    state.focal = np.array([np.exp(problem.log_focal)])
    state.registered[image_ids] = True
    triangulate_coarse_to_fine(state, min_angle, device)
    return state


def _values(depth_map: DepthMap, keypoints: Keypoints) -> Array:
    """Values of a map at keypoints, divided by their median. (K,)."""
    values = depth_map.sample(keypoints.xy)
    known = values[np.isfinite(values)]
    middle = float(np.median(known)) if len(known) else 1.0
    return values / (middle or 1.0)


def _chain(
    values: Mapping[int, Array],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    num_images: int,
    kind: DepthKind,
    shift: float,
    focal: float,
    max_error: float,
    seed: int,
) -> tuple[dict[int, ScaleShift], dict[int, Array]]:
    """Scale and shift, and world-to-camera transform, of each image that the tree reaches.

    The first image of the tree is the world, and `shift` is that of its map.
    """
    by_images = {(pair.first, pair.second): pair.indices for pair in pairs}
    tree = spanning_tree({images: len(indices) for images, indices in by_images.items()}, num_images)
    root = tree[0][0]
    fits, poses = {root: ScaleShift(1.0, shift, kind)}, {root: np.eye(4)}
    options = AbsolutePoseOptions(
        abs_pose_max_error=max_error,
        abs_pose_min_num_inliers=MIN_LIFTED,
        loss_scale=max_error / 4,
        max_num_trials=5000,
        random_seed=seed,
    )
    for known, new in tree:
        if known not in poses:
            continue
        one, other = (by_images[known, new] if known < new else by_images[new, known][:, ::-1]).T
        depth = fits[known].depth(values[known][one])
        known_depth = np.isfinite(depth)
        one, other, depth = one[known_depth], other[known_depth], depth[known_depth]
        if len(depth) < MIN_LIFTED:
            continue
        lifted = depth[:, None] * unproject(positions[known][one], focal)
        pose = estimate_absolute_pose(positions[new][other], lifted, poselib_camera(focal), options)
        if not pose.success:
            continue
        seen = transform(pose.T, lifted)[:, 2]
        fit = fit_scale_shift(values[new][other][pose.inliers], seen[pose.inliers], kind, seed)
        if fit is not None:
            fits[new], poses[new] = fit, pose.T @ poses[known]
    return fits, poses


def _problem(
    image_ids: Sequence[int],
    fits: Mapping[int, ScaleShift],
    poses: Mapping[int, Array],
    values: Mapping[int, Array],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    focal: float,
    seed: int,
) -> DepthAlignmentProblem:
    """All pairs of some images, lifted in both directions; the first image stays where it is."""
    number = {image: index for index, image in enumerate(image_ids)}
    rng = np.random.default_rng(seed)
    edges, parts = [], []
    for pair in pairs:
        if pair.first not in number or pair.second not in number:
            continue
        sample = pair.indices[np.sort(rng.permutation(len(pair.indices))[:MAX_MATCHES])]
        for one, other, matches in (
            (pair.first, pair.second, sample),
            (pair.second, pair.first, sample[:, ::-1]),
        ):
            value = values[one][matches[:, 0]]
            matches = matches[np.isfinite(value)]
            edges.append((number[one], number[other]))
            parts.append(
                (
                    values[one][matches[:, 0]],
                    positions[one][matches[:, 0]],
                    positions[other][matches[:, 1]],
                )
            )
    lifting, xy_from, xy_to = (
        np.concatenate([empty, *part])
        for empty, part in zip((np.zeros(0), *2 * [np.zeros((0, 2))]), zip(*parts, strict=True), strict=True)
    )
    chosen = [fits[image] for image in image_ids]
    return DepthAlignmentProblem(
        T_camera_world=np.stack([poses[image] for image in image_ids]),
        log_scales=np.log([fit.scale for fit in chosen]),
        shifts=np.array([fit.shift / fit.scale for fit in chosen]),
        log_focal=float(np.log(focal)),
        prior_log_focal=float(np.log(focal)),
        inverse=chosen[0].kind == "disparity",
        free_shifts=chosen[0].kind != "metric",
        edges=np.array(edges, np.int64).reshape(-1, 2),
        starts=np.cumsum([0, *(len(part[0]) for part in parts)]),
        values=lifting,
        xy_from=xy_from,
        xy_to=xy_to,
    )
