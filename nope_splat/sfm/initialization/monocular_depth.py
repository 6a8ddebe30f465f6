"""Start from the depth of single images: the initialization of arXiv:2502.19800.

The focal length starts at a field of view of 60 degrees. Along the maximum spanning tree of the match graph,
the relative pose of each pair is the one that brings the matches, lifted by the depth of the image that
is known, to their keypoints in the new one; then everything is adjusted together. The depth of one image
is known up to scale and shift only, which the pairs tell from each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from nope_splat.depth import DepthKind, DepthMap, ScaleShift, fit_scale_shift
from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import transform
from nope_splat.matching import Keypoints, PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.initialization.depth_alignment import DepthAlignmentProblem, align_depths
from nope_splat.sfm.initialization.focal import PLAUSIBLE, prior_focal
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.pose_estimation import AbsolutePoseOptions, estimate_absolute_pose, poselib_camera
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.registration.spanning_tree import spanning_tree
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import triangulate_coarse_to_fine
from nope_splat.sfm.two_view_geometry import relative_poses
from nope_splat.utils.ranges import COUNT
from nope_splat.utils.typing import Array, Indices


@dataclass(frozen=True)
class MonocularDepthInitialization:
    """Start from depth maps of single photos, along the spanning tree of the match graph (the paper).

    Depth comes from a network (see depth.model for what it needs and its licenses), from depth.maps or from
    the matcher dust3r.
    """

    root_shifts: tuple[float, ...] = (-0.3, 0.0, 0.5, 2.0)
    """Shifts of the first map that are tried, in units of the median of its values."""
    max_reproj_error: Annotated[float, Interval(gt=0, le=1)] = 0.03
    """Largest distance of a lifted match from its keypoint, as a share of the longer side: depth and focal
    length are rough."""
    abs_pose_min_num_inliers: Annotated[int, Ge(4)] = 12
    """Fewest lifted matches that make an absolute pose."""
    max_num_matches: Annotated[int, COUNT] = 200
    """Matches of a pair that take part in the joint adjustment, in each direction."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield the state with the poses that depth maps give, if it is plausible.

        Args:
            problem: A connected component of one camera, with depth maps among its priors.
        """
        groups, user_focals = problem.camera_groups, problem.initial_focals
        longer_side = float(groups.longer_sides[0])
        focal = prior_focal(longer_side)
        if user_focals is not None:
            focal = float(user_focals[0])
        elif problem.priors.fix_focal and problem.focal_prior is not None:
            focal = float(problem.focal_prior.mean[0])
        with problem.clock.stage("registration"):
            state = register_by_depth(problem, focal, self)
        with problem.clock.stage("relative poses"):
            two_views = relative_poses(
                problem.centered_keypoints, problem.pairs, state.focal[groups.camera_ids], problem.seed
            )
        # Maps of another kind than declared bend space, and the focal length makes up for it.
        share = float(state.focal[0]) / longer_side
        implausible = user_focals is None and not PLAUSIBLE[0] < share < PLAUSIBLE[1]
        if not implausible and state.registered.sum() >= 2:
            yield Start(state, two_views)

    def restart(self, problem: SfmProblem, registered: SfmState) -> None:
        """Never start again: depth maps do not depend on the focal length."""


def register_by_depth(problem: SfmProblem, focal: float, how: MonocularDepthInitialization) -> SfmState:
    """Register the images that the spanning tree reaches, then triangulate tracks and adjust both.

    Args:
        problem: A connected component of one camera, with depth maps among its priors.
        focal: Focal length to start from, feature pixels.
        how: Options of the initialization.

    Returns:
        A state in which these images are registered; none where no pair could be lifted.
    """
    keypoints, groups, options = problem.keypoints, problem.camera_groups, problem.options
    depths = problem.priors.depths or {}
    values = {image_id: _values(depth_map, keypoints[image_id]) for image_id, depth_map in depths.items()}
    pairs = [pair for pair in problem.pairs if pair.first in values and pair.second in values]
    fix_focal = problem.priors.fix_focal
    state = SfmState.start(
        build_tracks(keypoints, pairs), groups, np.array([focal]), fix_focal, problem.focal_prior
    )
    if not pairs:
        return state
    kind = next(iter(depths.values())).kind  # the same for all: they come from one network or folder
    max_error = how.max_reproj_error * float(groups.longer_sides[0])
    matches = _LiftedMatches(
        how, values, problem.centered_keypoints, pairs, kind, focal, max_error, problem.seed
    )
    best, least = None, (0, np.inf)
    for shift in (0.0,) if kind == "metric" else how.root_shifts:
        fits, poses = matches.chain(shift)
        if len(poses) < 2:
            continue
        lifted = matches.problem(fits, poses)
        misfit = np.minimum(np.linalg.norm(lifted.residuals, axis=1), max_error).mean()
        if (-len(poses), misfit) < least:
            best, least = (list(poses), lifted), (-len(poses), misfit)
    if best is None:
        return state
    image_ids, lifted = best
    lifted = align_depths(replace(lifted, free_focal=not fix_focal))
    state.T_camera_world[image_ids] = lifted.T_camera_world
    state.focal = np.array([np.exp(lifted.log_focal)])
    state.registered[image_ids] = True
    triangulate_coarse_to_fine(state, options.min_tri_angle, options.ba_device)
    return state


def _values(depth_map: DepthMap, keypoints: Keypoints) -> Array:
    """Values of a map at keypoints, divided by their median. (K,)."""
    values = depth_map.sample(keypoints.xy)
    known = values[np.isfinite(values)]
    middle = float(np.median(known)) if len(known) else 1.0
    return values / (middle or 1.0)


@dataclass(frozen=True)
class _LiftedMatches:
    """Matches lifted to space by the depth at their keypoints."""

    options: MonocularDepthInitialization
    values: Mapping[int, Array]
    """Value of the depth map at each keypoint, divided by the map's median. (K,) for each image."""
    xy: Sequence[Array]
    """Keypoints, feature pixels from the image center. (K, 2) for each image."""
    pairs: Sequence[PairMatches]
    kind: DepthKind
    focal: float
    """Focal length, feature pixels."""
    max_error: float
    """Largest distance of a lifted match from its keypoint, feature pixels."""
    seed: int

    def chain(self, root_shift: float) -> tuple[dict[int, ScaleShift], dict[int, Array]]:
        """Chain absolute poses along the maximum spanning tree of the match graph.

        The first image of the tree is the world frame.

        Args:
            root_shift: Shift of the first image's map.

        Returns:
            Scale and shift, and world-to-camera transform, of each image that the tree reaches.
        """
        matches = {(pair.first, pair.second): pair.indices for pair in self.pairs}
        num_matches = {image_ids: len(indices) for image_ids, indices in matches.items()}
        tree = spanning_tree(num_matches, len(self.xy))
        root = tree[0][0]
        fits, poses = {root: ScaleShift(1.0, root_shift, self.kind)}, {root: np.eye(4)}
        for known, new in tree:
            if known not in poses:
                continue
            indices = matches[known, new] if known < new else matches[new, known][:, ::-1]
            next_pose = self._next_pose(known, new, indices, fits[known])
            if next_pose is not None:
                fits[new], poses[new] = next_pose[0], next_pose[1] @ poses[known]
        return fits, poses

    def _next_pose(
        self, known: int, new: int, indices: Indices, known_fit: ScaleShift
    ) -> tuple[ScaleShift, Array] | None:
        """Scale and shift of a new image's map, and the transform to it from an image of known depth."""
        from_ids, to_ids = indices.T
        depth = known_fit.depth(self.values[known][from_ids])
        has_depth = np.isfinite(depth)
        from_ids, to_ids, depth = from_ids[has_depth], to_ids[has_depth], depth[has_depth]
        if len(depth) < self.options.abs_pose_min_num_inliers:
            return None
        lifted = depth[:, None] * unproject(self.xy[known][from_ids], self.focal)
        pose = estimate_absolute_pose(
            self.xy[new][to_ids],
            lifted,
            poselib_camera(self.focal),
            AbsolutePoseOptions(
                abs_pose_max_error=self.max_error,
                abs_pose_min_num_inliers=self.options.abs_pose_min_num_inliers,
                loss_scale=self.max_error / 4,
                max_num_trials=5000,
                random_seed=self.seed,
            ),
        )
        if not pose.success:
            return None
        new_depth = transform(pose.T, lifted)[:, 2]
        values = self.values[new][to_ids]
        fit = fit_scale_shift(values[pose.inliers], new_depth[pose.inliers], self.kind, self.seed)
        return None if fit is None else (fit, pose.T)

    def problem(self, fits: Mapping[int, ScaleShift], poses: Mapping[int, Array]) -> DepthAlignmentProblem:
        """Align all pairs of the chained images, lifted in both directions; the first image is fixed."""
        number = {image_id: index for index, image_id in enumerate(poses)}
        rng = np.random.default_rng(self.seed)
        edges, parts = [], []
        for pair in self.pairs:
            if pair.first not in number or pair.second not in number:
                continue
            sample = pair.indices[np.sort(rng.permutation(len(pair.indices))[: self.options.max_num_matches])]
            for source, target, matches in (
                (pair.first, pair.second, sample),
                (pair.second, pair.first, sample[:, ::-1]),
            ):
                matches = matches[np.isfinite(self.values[source][matches[:, 0]])]
                from_ids, to_ids = matches.T
                edges.append((number[source], number[target]))
                parts.append(
                    (self.values[source][from_ids], self.xy[source][from_ids], self.xy[target][to_ids])
                )
        values, xy_from, xy_to = (
            np.concatenate([empty, *part])
            for empty, part in zip(
                (np.zeros(0), *2 * [np.zeros((0, 2))]), zip(*parts, strict=True), strict=True
            )
        )
        ordered = [fits[image_id] for image_id in poses]
        return DepthAlignmentProblem(
            T_camera_world=np.stack([poses[image_id] for image_id in poses]),
            log_scales=np.log([fit.scale for fit in ordered]),
            shifts=np.array([fit.shift / fit.scale for fit in ordered]),
            log_focal=float(np.log(self.focal)),
            prior_log_focal=float(np.log(self.focal)),
            inverse=ordered[0].kind == "disparity",
            free_shifts=ordered[0].kind != "metric",
            edges=np.array(edges, np.int64).reshape(-1, 2),
            starts=np.cumsum([0, *(len(part[0]) for part in parts)]),
            values=values,
            xy_from=xy_from,
            xy_to=xy_to,
        )
