"""Incremental registration: register images one after another against the triangulated points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from nope_splat.geometry.rigid import transform
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.lens_models import RADIAL
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.pose_estimation import estimate_absolute_pose
from nope_splat.sfm.pose_options import AbsolutePoseOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import complete_tracks, filter_observations, triangulate
from nope_splat.sfm.two_view_geometry import TwoView, TwoViews, depth_along
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.ranges import COUNT, POSITIVE, SHARE
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class IncrementalRegistration:
    """Register photos one by one from their visible points (Schönberger and Frahm, CVPR 2016)."""

    init_max_num_trials: Annotated[int, COUNT] = 50
    """Maximum number of initial pairs that are tried."""
    init_max_tri_angle: Annotated[float, POSITIVE] = 16.0
    """Triangulation angle, in degrees, beyond which a larger angle does not improve the score of an initial
    pair."""
    max_num_models: Annotated[int, COUNT] = 5
    """Maximum number of models that are built, each from a different initial pair; the largest model is kept.
    No more models are built once one of them contains more than half of the photos."""
    abs_pose_max_error: Annotated[float, POSITIVE] = 8.0
    """Maximum reprojection error of an inlier in absolute pose estimation (PnP), in pixels of the image in
    which keypoints are detected; it is large because points are not refined yet."""
    abs_pose_min_num_inliers: Annotated[int, Ge(4)] = 20
    """A photo is registered by PnP only if at least this number of its visible points are inliers of the
    pose. An initial pair needs the same number of triangulated points."""
    abs_pose_min_inlier_ratio: Annotated[float, SHARE] = 0.25
    """A photo is registered by PnP only if at least this fraction of its visible points are inliers of the
    pose."""
    max_reproj_error: Annotated[float, POSITIVE] = 4.0
    """Maximum reprojection error of an observation during registration, in pixels of the image in which
    keypoints are detected; observations with a larger error are removed."""
    max_reg_trials: Annotated[int, COUNT] = 3
    """Maximum number of attempts to register a photo; the count restarts when another photo has been
    registered."""
    min_num_shared_points: Annotated[int, COUNT] = 3
    """A photo can be registered by its relative pose to a registered photo only if both photos observe at
    least this number of shared points. The shared points determine the scale of the relative pose and, after
    bundle adjustment, verify the pose."""
    min_shared_inlier_ratio: Annotated[float, SHARE] = 0.5
    """A photo that was registered by its relative pose to another photo is tested after bundle adjustment: of
    its points that at least two other photos observe, at least this fraction must agree with its pose.
    Otherwise, the photo is unregistered again."""
    max_pair_tri_angle: Annotated[float, POSITIVE] = 4.0
    """If no photo can be registered by PnP, a photo is registered by its relative pose to a registered photo.
    The pair is chosen by the number of its matches times the median triangulation angle of its points, in
    degrees; larger angles count as this value."""
    coverage_grid_size: Annotated[int, COUNT] = 16
    """Number of cells per side of the grid that measures how evenly visible points cover a photo."""
    min_num_images_for_focal: Annotated[int, Ge(2)] = 4
    """Minimum number of registered photos for which bundle adjustment refines the focal length."""
    ba_max_num_observations: Annotated[int, COUNT] = 300
    """Approximate maximum number of observations per photo that bundle adjustments during registration use;
    smaller values are faster."""
    ba_global_max_num_images: Annotated[int, COUNT] = 16
    """Maximum number of registered photos for which every bundle adjustment is global; with more photos, most
    bundle adjustments are local."""
    ba_local_num_images: Annotated[int, COUNT] = 8
    """Maximum number of photos whose poses are refined in a local bundle adjustment."""
    ba_global_images_ratio: Annotated[float, Ge(1)] = 1.2
    """Factor by which the number of registered photos must grow before the next global bundle adjustment;
    larger values are faster but allow more drift."""

    def register(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register images, starting from the best initial pair.

        The next image is always the one with the best coverage by visible points; it is registered by PnP. If
        no image has enough visible points, an image is registered by its relative pose to a registered image,
        scaled by shared points. If the pose disagrees with the shared points after bundle adjustment, the
        image is unregistered again.

        Args:
            state: State without poses; changed in place.
            two_views: Relative poses and inlier matches of the image pairs.
            options: Options of triangulation and bundle adjustment.
            seed: Random seed of RANSAC.

        Returns:
            Reasons why images could not be registered, by image index.
        """
        pairs = sorted(two_views, key=lambda pair: initial_pair_score(self, two_views[pair]), reverse=True)
        num_images = len({image_id for pair in two_views for image_id in pair})
        return run_mapper(lambda: IncrementalMapper(state, two_views, self, options, seed), pairs, num_images)

    def register_remaining(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register the remaining images one by one in a state with poses (arguments as in `register`)."""
        mapper = IncrementalMapper(state, two_views, self, options, seed)
        for _ in mapper.run():
            pass
        return mapper.failures


def run_mapper(
    make_mapper: Callable[[], IncrementalMapper], pairs: Sequence[tuple[int, int]], num_images: int
) -> dict[int, str]:
    """Build models from the best initial pairs, and keep the model with the most registered images.

    Args:
        make_mapper: Function that creates a mapper; all mappers share one state, which is changed in place.
        pairs: Image indices of the candidate initial pairs, best pair first.
        num_images: Number of images that have a relative pose to another image.

    Returns:
        Reasons why images could not be registered, by image index.
    """
    mapper = make_mapper()
    state, registration = mapper.state, mapper.registration
    empty, best, best_failures = state.snapshot(), state.snapshot(), {}
    num_models = 0
    for pair in pairs[: registration.init_max_num_trials]:
        state.restore(empty.snapshot())
        mapper = make_mapper()
        if not mapper.initialize(pair):
            continue
        for _ in progress_bar(mapper.run(), "Registering photos", total=num_images - 2):
            pass
        num_models += 1
        if state.registered.sum() > best.registered.sum():
            best, best_failures = state.snapshot(), mapper.failures
        if 2 * state.registered.sum() > num_images or num_models == registration.max_num_models:
            break
    state.restore(best)
    return best_failures


def initial_pair_score(registration: IncrementalRegistration, two_view: TwoView) -> float:
    """Score an initial pair: matches and parallax increase the score, and planar scenes decrease it."""
    parallax = min(two_view.angle, registration.init_max_tri_angle)
    return len(two_view) * parallax * max(0.1, 1 - two_view.matches.homography_ratio)


class IncrementalMapper:
    """Mapper that builds one model from an initial pair and registers one image after another.

    Args:
        state: State in which images are registered; changed in place.
        two_views: Relative poses and inlier matches of the image pairs.
        registration: Options of the registration.
        options: Options of triangulation and bundle adjustment.
        seed: Random seed of RANSAC.
    """

    def __init__(
        self,
        state: SfmState,
        two_views: TwoViews,
        registration: IncrementalRegistration,
        options: MapperOptions,
        seed: int,
    ) -> None:
        self.state, self.two_views, self.registration = state, two_views, registration
        self.options, self.seed = options, seed
        self.attempts: Counter[object] = Counter()
        self.failures: dict[int, str] = {}
        self.last_global = 0

    def initialize(self, pair: tuple[int, int]) -> bool:
        """Initialize the model with a pair; return whether enough points are triangulated to continue."""
        state = self.state
        state.registered[list(pair)] = True
        state.T_camera_world[pair[1]] = self.two_views[pair].T_second_first
        triangulate(state, self.registration.max_reproj_error, self.options.min_tri_angle)
        adjustment = BundleAdjustmentOptions(
            refine_focal_length=False, max_iterations=15, device=self.options.ba_device
        )
        state.bundle_adjust(adjustment)
        filter_observations(state, self.registration.max_reproj_error, self.options.min_tri_angle)
        return bool(state.has_point.sum() >= self.registration.abs_pose_min_num_inliers)

    def run(self) -> Iterator[int]:
        """Register images until no more can be registered; yield the index of each registered image."""
        while not self.state.registered.all():
            image_id = self._next_image()
            if image_id is None:
                image_id = self._attach_by_pair()
                if image_id is None:
                    return
            elif self._register_by_points(image_id):
                self._triangulate_and_adjust([image_id])
            else:
                continue
            self.attempts.clear()
            self.failures.pop(image_id, None)
            yield image_id

    def _next_image(self) -> int | None:
        """Choose the eligible image with the best coverage by visible points; None without such an image."""
        coverage, visible = self._coverage()
        return int(np.lexsort((visible, coverage))[-1]) if coverage.any() else None

    def _coverage(self) -> tuple[Indices, Indices]:
        """Count grid cells with visible points, and visible points, in each image. (N,), (N,).

        The number of cells is 0 for images that cannot be registered next.
        """
        state, grid_size = self.state, self.registration.coverage_grid_size
        rows = state.visible_observations()
        num_images = len(state.registered)
        covered = np.unique(_grid_cells(state, rows, grid_size)) // grid_size**2
        coverage = np.bincount(covered, minlength=num_images)
        visible = np.bincount(state.image_ids[rows], minlength=num_images)
        needed = self.registration.abs_pose_min_num_inliers
        for image_id in np.flatnonzero(~state.registered & (visible < needed)).tolist():
            if self.attempts[image_id, "pair"] == 0:
                self.failures[image_id] = (
                    f"only {visible[image_id]} track points are visible, but {needed} are needed"
                )
        trials = np.array([self.attempts[image_id] for image_id in range(num_images)])
        has_trials = trials < self.registration.max_reg_trials
        eligible = ~state.registered & (visible >= needed) & has_trials
        return np.where(eligible, coverage, 0), visible

    def _register_by_points(self, image_id: int) -> bool:
        """Register an image by PnP from its visible points; return whether enough of them are inliers."""
        state = self.state
        self.attempts[image_id] += 1
        rows = np.flatnonzero((state.image_ids == image_id) & state.has_point[state.track_ids])
        options = AbsolutePoseOptions(
            abs_pose_max_error=self.registration.abs_pose_max_error,
            abs_pose_min_num_inliers=self.registration.abs_pose_min_num_inliers,
            abs_pose_min_inlier_ratio=self.registration.abs_pose_min_inlier_ratio,
            loss_scale=2.0,
            random_seed=self.seed * self.registration.max_reg_trials + self.attempts[image_id],
        )
        pose = estimate_absolute_pose(
            state.xy[rows], state.points[state.track_ids[rows]], state.camera_of(image_id), options
        )
        if not pose.success:
            self.failures[image_id] = (
                f"only {pose.inliers.sum()} of {len(rows)} visible track points agree with one pose"
            )
            return False
        state.T_camera_world[image_id] = pose.T
        state.registered[image_id] = True
        state.inlier[rows[pose.inliers]] = True
        return True

    def _attach_by_pair(self) -> int | None:
        """Register an image by its relative pose to a registered image; return the index of the new image.

        Returns None if no such pose passes verification.
        """
        state = self.state
        edges = []
        for pair, two_view in self.two_views.items():
            if state.registered[pair[0]] != state.registered[pair[1]]:
                known, new = pair if state.registered[pair[0]] else pair[::-1]
                score = len(two_view) * min(two_view.angle, self.registration.max_pair_tri_angle)
                edges.append((score, known, new, two_view))
        for _, known, new, two_view in sorted(edges, key=lambda edge: -edge[0]):
            if self.attempts[new, "pair"] >= self.registration.max_reg_trials or self.attempts[known, new]:
                continue
            T_camera_world = self._scaled_pose(known, two_view)
            if T_camera_world is None:
                continue
            self.attempts[new, "pair"] += 1
            self.attempts[known, new] += 1
            before = state.snapshot()
            state.T_camera_world[new] = T_camera_world
            state.registered[new] = True
            self._triangulate_and_adjust([new], refine_focal_length=False)
            if self._verify_pose(new):
                return new
            state.restore(before)
            self.failures[new] = "its pose disagrees with the track points of other photos"
        return None

    def _scaled_pose(self, known: int, two_view: TwoView) -> Array | None:
        """Compute the pose of an unregistered image from a relative pose, scaled by shared points.

        Args:
            known: Registered image of the pair.
            two_view: The pair, with its relative pose.

        Returns:
            World-to-camera transform of the unregistered image. (4, 4). None if there are too few shared
            points.
        """
        state = self.state
        _, T_new_known, keypoints, depths = two_view.from_image(known)
        rows = state.observations_of(known, keypoints[:, 0])
        shared = (rows >= 0) & state.inlier[rows]
        if shared.sum() < self.registration.min_num_shared_points:
            return None
        points = state.points[state.track_ids[rows[shared]]]
        points_camera, camera = transform(state.T_camera_world[known], points), state.camera_ids[known]
        rays = state.rays(state.xy[rows[shared]], known)
        ratio = depth_along(rays, points_camera, bool(state.is_fisheye[camera])) / depths[shared, 0]
        T_scaled = T_new_known.copy()
        T_scaled[:3, 3] *= np.median(ratio)
        return T_scaled @ state.T_camera_world[known]

    def _verify_pose(self, image_id: int) -> bool:
        """Check that the pose of an image agrees with its points that at least two other images observe."""
        state = self.state
        in_image = state.image_ids == image_id
        num_others = np.bincount(state.track_ids[state.inlier & ~in_image], minlength=len(state.points))
        shared = in_image & (num_others[state.track_ids] >= 2)
        num_inliers = int((shared & state.inlier).sum())
        return (
            num_inliers >= self.registration.min_num_shared_points
            and num_inliers >= self.registration.min_shared_inlier_ratio * shared.sum()
        )

    def _triangulate_and_adjust(self, image_ids: list[int], refine_focal_length: bool = True) -> None:
        """Triangulate new points, then run local or global bundle adjustment.

        Args:
            image_ids: Images registered since the last call.
            refine_focal_length: Whether global bundle adjustment may refine the focal lengths.
        """
        state = self.state
        complete_tracks(state, self.registration.max_reproj_error)
        triangulate(state, self.registration.max_reproj_error, self.options.min_tri_angle)
        num_registered = int(state.registered.sum())
        is_global = (
            num_registered <= self.registration.ba_global_max_num_images
            or num_registered >= self.registration.ba_global_images_ratio * self.last_global
        )
        sample = _spread_sample(state, self.registration)
        if is_global:
            free_images = None
            self.last_global = num_registered
        else:
            free_images = self._local_images(image_ids)
            observed = np.zeros(len(state.points), bool)
            observed[state.track_ids[state.inlier & free_images[state.image_ids]]] = True
            sample &= observed[state.track_ids]
        adjustment = BundleAdjustmentOptions(
            refine_focal_length=refine_focal_length
            and is_global
            and num_registered >= self.registration.min_num_images_for_focal,
            refine_extra_params=state.is_fisheye[:, None] & RADIAL if is_global else False,
            max_iterations=8,
            tolerance=1e-3,
            device=self.options.ba_device,
        )
        state.bundle_adjust(adjustment, sample, free_images)
        # Points without sampled observations were not adjusted and may not fit the new poses.
        unsampled = state.has_point.copy()
        unsampled[state.track_ids[sample]] = False
        if is_global:
            triangulate(state, self.registration.max_reproj_error, self.options.min_tri_angle, unsampled)
            state.rescale()
        filter_observations(state, self.registration.max_reproj_error, self.options.min_tri_angle)
        complete_tracks(state, self.registration.max_reproj_error)

    def _local_images(self, image_ids: list[int]) -> Mask:
        """Select a new image and the registered images that share the most points with it. (N,)."""
        state, (image_id,) = self.state, image_ids
        observed = np.zeros(len(state.points), bool)
        observed[state.track_ids[state.inlier & (state.image_ids == image_id)]] = True
        shared = np.bincount(
            state.image_ids[state.inlier & observed[state.track_ids]], minlength=len(state.registered)
        )
        shared[~state.registered] = 0
        selected = np.zeros(len(state.registered), bool)
        selected[np.argsort(-shared, kind="stable")[: self.registration.ba_local_num_images]] = True
        return selected & (shared > 0)


def _grid_cells(state: SfmState, rows: Indices, size: int) -> Indices:
    """Compute the grid cell of each observation; cells of different images have different indices. (n,)."""
    image_ids = state.image_ids[rows]
    relative_xy = (state.xy[rows] / state.half_size[image_ids] + 1) / 2
    return image_ids * size**2 + np.clip((relative_xy * size).astype(np.int64), 0, size - 1) @ (1, size)


def _spread_sample(state: SfmState, registration: IncrementalRegistration) -> Mask:
    """Select a sample of inlier observations that is spread over each image and prefers long tracks. (O,)."""
    size, max_num_observations = registration.coverage_grid_size, registration.ba_max_num_observations
    rows = np.flatnonzero(state.inlier)
    image_ids, tracks = state.image_ids[rows], state.track_ids[rows]
    if len(rows) < 1.5 * max_num_observations * state.registered.sum():
        return state.inlier.copy()
    length = np.bincount(tracks, minlength=len(state.points))[tracks]
    cells = _grid_cells(state, rows, size)
    order = np.lexsort((-length, cells))
    is_first = np.r_[True, np.diff(cells[order]) != 0]
    index = np.arange(len(order))
    rank = index - np.maximum.accumulate(np.where(is_first, index, 0))
    occupied = np.bincount(image_ids[order[is_first]], minlength=len(state.registered))
    quota = np.ceil(max_num_observations / np.maximum(occupied, 1))
    sampled = np.zeros(len(state.points), bool)
    sampled[tracks[order[rank < quota[image_ids[order]]]]] = True
    return state.inlier & sampled[state.track_ids]
