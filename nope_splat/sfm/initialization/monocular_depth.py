"""Initialization by monocular depth maps, as in arXiv:2502.19800.

Without EXIF data, the initial focal length corresponds to a field of view of 60 degrees. Images are
registered along the maximum spanning tree of the match graph: matches are back-projected to 3D with the depth
map of a registered image, and PnP registers the next image from these 3D points. A depth map is known only up
to scale and shift, which are fitted to the depths of the 3D points. Finally, all poses, the focal length, and
the scales and shifts of the depth maps are optimized together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from nope_splat.depth import DepthKind, DepthMap, ScaleShift, fit_scale_shift
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import transform
from nope_splat.matching import Keypoints, PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.initialization.depth_alignment import DepthAlignmentProblem, align_depths
from nope_splat.sfm.initialization.focal import is_plausible, prior_focal
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.pose_estimation import estimate_absolute_pose
from nope_splat.sfm.pose_options import AbsolutePoseOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.registration.spanning_tree import spanning_tree
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import triangulate_coarse_to_fine
from nope_splat.utils.ranges import COUNT
from nope_splat.utils.typing import Array, Indices


@dataclass(frozen=True)
class MonocularDepthInitialization:
    """Start from poses estimated from matches and monocular depth maps (arXiv 2502.19800).

    Photos are registered along the maximum spanning tree of the match graph. The depth maps come from a
    network (see depth.model for requirements and licenses), from files (depth.maps) or from the matcher
    dust3r.
    """

    root_shifts: tuple[float, ...] = (-0.3, 0.0, 0.5, 2.0)
    """Shifts c to try for the depth map of the first photo: depth (inverse depth for disparity maps) is taken
    as v / m + c, where v is a value of the map and m the median of the values at keypoints. The shift that
    registers the most photos is used; of several such shifts, the one with the smallest error. Metric depth
    maps have no shift. More shifts take longer."""
    max_reproj_error: Annotated[float, Interval(gt=0, le=1)] = 0.03
    """Maximum reprojection error of an inlier match in PnP, as a fraction of the longer image side. It is
    large because the focal length and the depths of the matches are inaccurate."""
    abs_pose_min_num_inliers: Annotated[int, Ge(4)] = 12
    """Minimum number of inlier matches to register a photo by PnP."""
    max_num_matches: Annotated[int, COUNT] = 200
    """Maximum number of matches per pair in the joint optimization of poses and depth maps; if a pair has
    more, a random sample is used."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield a state with poses from depth maps, if at least two images can be registered.

        Nothing is yielded if the optimized focal length is implausible and the user gave no focal length.

        Args:
            problem: Matches of a connected component with a single camera, with depth maps as priors.
        """
        user_focals, options = problem.initial_focals, problem.options.focal
        longer_side = float(problem.camera_groups.longer_sides[0])
        focal = prior_focal(longer_side, options)
        if user_focals is not None:
            focal = float(user_focals[0])
        elif problem.priors.fix_focal or np.isfinite(problem.exif_focals[0]):
            focal = float(problem.focal_prior(np.array([focal])).mean[0])
        with problem.clock.stage("registration"):
            state = register_by_depth(problem, focal, self)
        with problem.clock.stage("relative poses"):
            two_views = problem.relative_poses(state.focal)
        # If the declared kind of the depth maps is wrong, the focal length becomes implausible.
        is_focal_valid = user_focals is not None or is_plausible(float(state.focal[0]), longer_side, options)
        if is_focal_valid and state.registered.sum() >= 2:
            yield Start(state, two_views)

    def restart(self, problem: SfmProblem, registered: SfmState) -> None:
        """Return None: there is no second start, because depth maps do not depend on the focal length."""


def register_by_depth(
    problem: SfmProblem, focal: float, initialization: MonocularDepthInitialization
) -> SfmState:
    """Register images by their depth maps along the spanning tree, then triangulate and bundle-adjust.

    Args:
        problem: Matches of a connected component with a single camera, with depth maps as priors.
        focal: Initial focal length, in pixels at keypoint detection resolution.
        initialization: Options of the initialization.

    Returns:
        The state; no image is registered if no pair of images with depth maps can be registered.
    """
    keypoints, depths = problem.keypoints, problem.priors.depths or {}
    values = {
        image_id: _normalized_values(depth_map, keypoints[image_id]) for image_id, depth_map in depths.items()
    }
    pairs = [pair for pair in problem.pairs if pair.first in values and pair.second in values]
    state = problem.initial_state(build_tracks(keypoints, pairs), np.array([focal]))
    if not pairs:
        return state
    kind = next(iter(depths.values())).kind  # all maps have the same source and therefore the same kind
    max_error = initialization.max_reproj_error * float(problem.camera_groups.longer_sides[0])
    matches = _LiftedMatches(
        initialization, values, problem.centered_keypoints, pairs, kind, focal, max_error, problem.seed
    )
    best, best_rank = None, (0, np.inf)
    for shift in (0.0,) if kind == "metric" else initialization.root_shifts:
        fits, poses = matches.chain(shift)
        if len(poses) < 2:
            continue
        alignment = matches.alignment_problem(fits, poses)
        mean_error = np.minimum(np.linalg.norm(alignment.residuals, axis=1), max_error).mean()
        if (-len(poses), mean_error) < best_rank:
            best, best_rank = (list(poses), alignment), (-len(poses), mean_error)
    if best is None:
        return state
    image_ids, alignment = best
    sigma = problem.options.intrinsics_prior.log_focal_sigma
    alignment = align_depths(
        replace(alignment, free_focal=not problem.priors.fix_focal, log_focal_sigma=sigma)
    )
    state.T_camera_world[image_ids] = alignment.T_camera_world
    state.focal = np.array([np.exp(alignment.log_focal)])
    state.registered[image_ids] = True
    triangulate_coarse_to_fine(state, problem.options)
    return state


def _normalized_values(depth_map: DepthMap, keypoints: Keypoints) -> Array:
    """Sample a depth map at keypoints, and divide the values by their median. (K,)."""
    values = depth_map.sample(keypoints.xy)
    finite = values[np.isfinite(values)]
    median = float(np.median(finite)) if len(finite) else 1.0
    return values / (median or 1.0)


@dataclass(frozen=True)
class _LiftedMatches:
    """Matches that are back-projected to 3D by the depth at their keypoints."""

    options: MonocularDepthInitialization
    """Thresholds of registration."""
    values: Mapping[int, Array]
    """Value of the depth map at each keypoint of each image, divided by the median of these values over the
    image. (K,) each."""
    xy: Sequence[Array]
    """Keypoints of each image relative to the image center, in pixels at keypoint detection resolution.
    (K, 2) each."""
    pairs: Sequence[PairMatches]
    """Verified pairs of images with depth maps."""
    kind: DepthKind
    """Kind of the depth maps, the same for all maps: metric, affine or disparity (see `DepthKind`)."""
    focal: float
    """Focal length, in pixels at keypoint detection resolution."""
    max_error: float
    """Maximum reprojection error of an inlier, in pixels at keypoint detection resolution."""
    seed: int
    """Random seed of RANSAC."""

    def chain(self, root_shift: float) -> tuple[dict[int, ScaleShift], dict[int, Array]]:
        """Register images one after another along the maximum spanning tree of the match graph.

        The camera coordinates of the tree's first image are the world coordinates. If an image cannot be
        registered, it is omitted, together with its descendants in the tree.

        Args:
            root_shift: Shift of the first image's depth map, in units of the median of its values.

        Returns:
            Two dictionaries by image index: the scale and shift to apply to `values` of each registered
            image, and the world-to-camera transform of each registered image (4, 4).
        """
        matches = {(pair.first, pair.second): pair.indices for pair in self.pairs}
        num_matches = {image_ids: len(indices) for image_ids, indices in matches.items()}
        tree = spanning_tree(num_matches, len(self.xy))
        root = tree[0][0]
        fits = {root: ScaleShift(1.0, root_shift, self.kind)}
        poses: dict[int, Array] = {root: np.eye(4)}
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
        """Register an image by PnP, and fit the scale and shift of its depth map.

        The 3D points for PnP are matches that are back-projected with the depth map of a registered image.

        Args:
            known: Index of the registered image.
            new: Index of the image to register.
            indices: Keypoint indices of the matches in the registered and in the new image. (M, 2).
            known_fit: Scale and shift of the registered image's depth map.

        Returns:
            Scale and shift of the new image's depth map, and the transform from the registered to the new
            camera (4, 4); None if there are too few inliers, or if no scale and shift fit.
        """
        ids_known, ids_new = indices.T
        depth = known_fit.depth(self.values[known][ids_known])
        has_depth = np.isfinite(depth)
        ids_known, ids_new, depth = ids_known[has_depth], ids_new[has_depth], depth[has_depth]
        if len(depth) < self.options.abs_pose_min_num_inliers:
            return None
        lifted = depth[:, None] * unproject(self.xy[known][ids_known], self.focal)
        pose = estimate_absolute_pose(
            self.xy[new][ids_new],
            lifted,
            Camera(self.focal),
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
        values = self.values[new][ids_new]
        fit = fit_scale_shift(values[pose.inliers], new_depth[pose.inliers], self.kind, self.seed)
        return None if fit is None else (fit, pose.T)

    def alignment_problem(
        self, fits: Mapping[int, ScaleShift], poses: Mapping[int, Array]
    ) -> DepthAlignmentProblem:
        """Set up the joint optimization of poses, scales and shifts over all pairs of registered images.

        Each match is used twice: it is back-projected with the depth map of each of its two images, and
        projected into the other image.

        Args:
            fits: Scale and shift of the depth map of each registered image, by image index.
            poses: World-to-camera transform of each registered image, by image index; the first pose stays
                fixed.
        """
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
                ids_source, ids_target = matches.T
                edges.append((number[source], number[target]))
                parts.append(
                    (
                        self.values[source][ids_source],
                        self.xy[source][ids_source],
                        self.xy[target][ids_target],
                    )
                )
        values, xy_source, xy_target = (
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
            edge_starts=np.cumsum([0, *(len(part[0]) for part in parts)]),
            values=values,
            xy_source=xy_source,
            xy_target=xy_target,
        )
