"""Incremental registration: one image after another, by its view of the points so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from nope_splat.geometry.rigid import transform
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.pose_estimation import AbsolutePoseOptions, estimate_absolute_pose
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import extend, filter_observations, triangulate
from nope_splat.sfm.two_view_geometry import TwoView, TwoViews
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.ranges import COUNT, POSITIVE, SHARE
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class IncrementalRegistration:
    """Register one photo after another by the points it sees (Schönberger and Frahm, CVPR 2016)."""

    init_max_num_trials: Annotated[int, COUNT] = 50
    """Initial pairs tried in search of one with enough parallax."""
    init_max_tri_angle: Annotated[float, POSITIVE] = 16.0
    """Triangulation angle, in degrees, beyond which an initial pair is not preferred any more."""
    max_num_models: Annotated[int, COUNT] = 5
    """Initial pairs from which a model is grown while less than half of the photos register."""
    abs_pose_max_error: Annotated[float, POSITIVE] = 8.0
    """Largest reprojection error of an inlier of an absolute pose, feature pixels: points are still rough."""
    abs_pose_min_num_inliers: Annotated[int, Ge(4)] = 20
    """Fewest points that must be visible, and agree, to register a photo by them."""
    abs_pose_min_inlier_ratio: Annotated[float, SHARE] = 0.25
    """Smallest share of the visible points that must agree with the pose."""
    max_reproj_error: Annotated[float, POSITIVE] = 4.0
    """Largest reprojection error of an observation while the model grows, feature pixels."""
    max_reg_trials: Annotated[int, COUNT] = 3
    """Trials per photo between two successes."""
    min_num_shared_points: Annotated[int, COUNT] = 3
    """Fewest points that fix, and then verify, the scale of a photo that is registered by one pair."""
    min_shared_inlier_ratio: Annotated[float, SHARE] = 0.5
    """Smallest share of those points that must agree with the pose after adjustment."""
    max_pair_tri_angle: Annotated[float, POSITIVE] = 4.0
    """Triangulation angle, in degrees, beyond which such a pair is not preferred any more."""
    coverage_grid_size: Annotated[int, COUNT] = 16
    """Cells per side of the grid that measures how well visible points cover a photo."""
    min_num_images_for_focal: Annotated[int, Ge(2)] = 4
    """Registered photos from which on the focal length is adjusted."""
    ba_max_num_observations: Annotated[int, COUNT] = 300
    """Observations of each photo that take part in the adjustments between registrations."""
    ba_local_min_num_images: Annotated[int, COUNT] = 16
    """Registered photos from which on most adjustments are local."""
    ba_local_num_images: Annotated[int, COUNT] = 8
    """Photos that move in a local adjustment."""
    ba_global_images_ratio: Annotated[float, Ge(1)] = 1.2
    """Growth of the model after which everything is adjusted."""

    def register(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register as many images as verification confirms.

        The next image is the one that visible points cover best; it is registered by PnP. Where no image
        sees enough points, one is attached by its best pair, with the scale of at least three shared points,
        and removed again if its pose does not agree with them after adjustment.

        Args:
            state: A state without poses; changed in place.
            two_views: Relative poses of the pairs.
            options: Triangulation and bundle adjustment.
            seed: Seed of RANSAC.

        Returns:
            Why images were not registered, by index, as far as known.
        """
        pairs = sorted(two_views, key=lambda pair: initial_pair_score(self, two_views[pair]), reverse=True)
        return run_mapper(
            lambda: IncrementalMapper(state, two_views, self, options, seed), pairs, len(_images(two_views))
        )

    def register_remaining(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register the images that have no pose yet against the existing points.

        Args:
            state: A state with poses and points; changed in place.
            two_views: Relative poses of the pairs.
            options: Triangulation and bundle adjustment.
            seed: Seed of RANSAC.

        Returns:
            Why images were not registered, by index, as far as known.
        """
        mapper = IncrementalMapper(state, two_views, self, options, seed)
        for _ in mapper.run():
            pass
        return mapper.failures


def run_mapper(
    make_mapper: Callable[[], IncrementalMapper], pairs: Sequence[tuple[int, int]], num_images: int
) -> dict[int, str]:
    """Grow models from the best initial pairs, and keep the largest.

    Args:
        make_mapper: Makes a mapper of the state, which has no poses and is changed in place.
        pairs: Initial pairs, the most promising first.
        num_images: Number of images with a relative pose.

    Returns:
        Why images were not registered, by index, as far as known.
    """
    mapper = make_mapper()
    state, how = mapper.state, mapper.how
    empty, best, best_failures = state.snapshot(), state.snapshot(), {}
    num_models = 0
    for pair in pairs[: how.init_max_num_trials]:
        state.restore(empty.snapshot())
        mapper = make_mapper()
        if not mapper.initialize(pair):
            continue
        for _ in progress_bar(mapper.run(), "Registering photos", total=num_images - 2):
            pass
        num_models += 1
        if state.registered.sum() > best.registered.sum():
            best, best_failures = state.snapshot(), mapper.failures
        if 2 * state.registered.sum() > num_images or num_models == how.max_num_models:
            break
    state.restore(best)
    return best_failures


def initial_pair_score(how: IncrementalRegistration, view: TwoView) -> float:
    """Rate a pair as the initial one: many matches, enough parallax, not one plane."""
    return len(view) * min(view.angle, how.init_max_tri_angle) * max(0.1, 1 - view.matches.homography_ratio)


def _images(two_views: TwoViews) -> set[int]:
    return {image_id for pair in two_views for image_id in pair}


class IncrementalMapper:
    """One attempt at growing a model from an initial pair, image by image.

    Args:
        state: The state; changed in place.
        two_views: Relative poses of the pairs.
        how: Options of the registration.
        options: Triangulation and bundle adjustment.
        seed: Seed of RANSAC.
    """

    def __init__(
        self,
        state: SfmState,
        two_views: TwoViews,
        how: IncrementalRegistration,
        options: MapperOptions,
        seed: int,
    ) -> None:
        self.state, self.two_views, self.how, self.options, self.seed = state, two_views, how, options, seed
        self.attempts: Counter[object] = Counter()
        self.failures: dict[int, str] = {}
        self.last_global = 0

    def initialize(self, pair: tuple[int, int]) -> bool:
        """Initialize the model with a pair; False if its parallax is too small for points."""
        state = self.state
        state.registered[list(pair)] = True
        state.T_camera_world[pair[1]] = self.two_views[pair].T_second_first
        triangulate(state, self.how.max_reproj_error, self.options.min_tri_angle)
        adjustment = BundleAdjustmentOptions(
            refine_focal_length=False, max_iterations=15, device=self.options.ba_device
        )
        state.adjust(adjustment)
        filter_observations(state, self.how.max_reproj_error, self.options.min_tri_angle)
        return bool(state.has_point.sum() >= self.how.abs_pose_min_num_inliers)

    def run(self) -> Iterator[int]:
        """Register images until none is left or none can be; yields each of them."""
        while not self.state.registered.all():
            image = self._most_covered()
            if image is None:
                image = self._attach_by_pair()
                if image is None:
                    return
            elif self._register_by_points(image):
                self._adjust([image])
            else:
                continue
            self.attempts.clear()
            self.failures.pop(image, None)
            yield image

    def _most_covered(self) -> int | None:
        """The unregistered image whose visible points cover most of it."""
        coverage, visible = self._coverage()
        return int(np.lexsort((visible, coverage))[-1]) if coverage.any() else None

    def _coverage(self) -> tuple[Indices, Indices]:
        """Count grid cells with visible points, 0 in images not to be tried, and points. (N,), (N,)."""
        state, how = self.state, self.how
        rows = state.visible_points()
        num_images = len(state.registered)
        covered = np.unique(_grid_cells(state, rows, how.coverage_grid_size)) // how.coverage_grid_size**2
        coverage = np.bincount(covered, minlength=num_images)
        visible = np.bincount(state.image_ids[rows], minlength=num_images)
        needed = how.abs_pose_min_num_inliers
        for image_id in np.flatnonzero(~state.registered & (visible < needed)).tolist():
            if self.attempts[image_id, "pair"] == 0:
                self.failures[image_id] = (
                    f"only {visible[image_id]} of the {needed} needed track points visible"
                )
        trials = np.array([self.attempts[image_id] for image_id in range(num_images)])
        eligible = ~state.registered & (visible >= needed) & (trials < how.max_reg_trials)
        return np.where(eligible, coverage, 0), visible

    def _register_by_points(self, image_id: int) -> bool:
        """Register an image by PnP."""
        state = self.state
        self.attempts[image_id] += 1
        rows = np.flatnonzero((state.image_ids == image_id) & state.has_point[state.track_ids])
        options = AbsolutePoseOptions(
            abs_pose_max_error=self.how.abs_pose_max_error,
            abs_pose_min_num_inliers=self.how.abs_pose_min_num_inliers,
            abs_pose_min_inlier_ratio=self.how.abs_pose_min_inlier_ratio,
            loss_scale=2.0,
            random_seed=self.seed * self.how.max_reg_trials + self.attempts[image_id],
        )
        pose = estimate_absolute_pose(
            state.xy[rows], state.points[state.track_ids[rows]], state.camera_model(image_id), options
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
        """Register an image by its best pair with a registered one; return it if verification confirms it."""
        state = self.state
        edges = []
        for pair, view in self.two_views.items():
            if state.registered[pair[0]] != state.registered[pair[1]]:
                known, new = pair if state.registered[pair[0]] else pair[::-1]
                edges.append((len(view) * min(view.angle, self.how.max_pair_tri_angle), known, new, view))
        for _, known, new, view in sorted(edges, key=lambda edge: -edge[0]):
            if self.attempts[new, "pair"] >= self.how.max_reg_trials or self.attempts[known, new]:
                continue
            T_world_scaled = self._scaled_pose(known, view)
            if T_world_scaled is None:
                continue
            self.attempts[new, "pair"] += 1
            self.attempts[known, new] += 1
            before = state.snapshot()
            state.T_camera_world[new] = T_world_scaled
            state.registered[new] = True
            self._adjust([new], free_focal=False)
            if self._verify_pose(new):
                return new
            state.restore(before)
            self.failures[new] = "its pose did not survive verification"
        return None

    def _scaled_pose(self, known: int, view: TwoView) -> Array | None:
        """World-to-camera transform of the other image of a pair, where shared points give the scale."""
        state = self.state
        _, T_new_known, keypoints, depths = view.from_image(known)
        rows = state.rows_of(known, keypoints[:, 0])
        shared = (rows >= 0) & state.inlier[rows]
        if shared.sum() < self.how.min_num_shared_points:
            return None
        points = state.points[state.track_ids[rows[shared]]]
        ratio = transform(state.T_camera_world[known], points)[:, 2] / depths[shared, 0]
        T_scaled = T_new_known.copy()
        T_scaled[:3, 3] *= np.median(ratio)
        return T_scaled @ state.T_camera_world[known]

    def _verify_pose(self, image_id: int) -> bool:
        """Whether an image agrees with points that others have fixed without it."""
        state = self.state
        mine = state.image_ids == image_id
        others = np.bincount(state.track_ids[state.inlier & ~mine], minlength=len(state.points))
        fixed = mine & (others[state.track_ids] >= 2)
        agreeing = int((fixed & state.inlier).sum())
        return (
            agreeing >= self.how.min_num_shared_points
            and agreeing >= self.how.min_shared_inlier_ratio * fixed.sum()
        )

    def _adjust(self, image_ids: list[int], free_focal: bool = True) -> None:
        """New points, then an adjustment of the surroundings of new images or of everything."""
        state = self.state
        extend(state, self.how.max_reproj_error)
        triangulate(state, self.how.max_reproj_error, self.options.min_tri_angle)
        num_registered = int(state.registered.sum())
        everything = (
            num_registered <= self.how.ba_local_min_num_images
            or num_registered >= self.how.ba_global_images_ratio * self.last_global
        )
        sample = _spread_sample(state, self.how)
        if everything:
            free_images = None
            self.last_global = num_registered
        else:
            free_images = self._window(image_ids)
            seen = np.zeros(len(state.points), bool)
            seen[state.track_ids[state.inlier & free_images[state.image_ids]]] = True
            sample &= seen[state.track_ids]
        adjustment = BundleAdjustmentOptions(
            refine_focal_length=free_focal
            and everything
            and num_registered >= self.how.min_num_images_for_focal,
            max_iterations=8,
            tolerance=1e-3,
            device=self.options.ba_device,
        )
        state.adjust(adjustment, sample, free_images)
        # Points that took no part follow the cameras.
        left_out = state.has_point.copy()
        left_out[state.track_ids[sample]] = False
        if everything:
            triangulate(state, self.how.max_reproj_error, self.options.min_tri_angle, left_out)
            state.rescale()
        filter_observations(state, self.how.max_reproj_error, self.options.min_tri_angle)
        extend(state, self.how.max_reproj_error)

    def _window(self, image_ids: list[int]) -> Mask:
        """A new image and the registered ones that share most points with it. (N,)."""
        state, (image_id,) = self.state, image_ids
        mine = np.zeros(len(state.points), bool)
        mine[state.track_ids[state.inlier & (state.image_ids == image_id)]] = True
        shared = np.bincount(
            state.image_ids[state.inlier & mine[state.track_ids]], minlength=len(state.registered)
        )
        shared[~state.registered] = 0
        chosen = np.zeros(len(state.registered), bool)
        chosen[np.argsort(-shared, kind="stable")[: self.how.ba_local_num_images]] = True
        return chosen & (shared > 0)


def _grid_cells(state: SfmState, rows: Indices, size: int) -> Indices:
    """Grid cell of each observation, numbered through all images. (n,)."""
    image_ids = state.image_ids[rows]
    place = (state.xy[rows] / state.half_size[image_ids] + 1) / 2
    return image_ids * size**2 + np.clip((place * size).astype(np.int64), 0, size - 1) @ (1, size)


def _spread_sample(state: SfmState, how: IncrementalRegistration) -> Mask:
    """Inlier observations of tracks that spread over each image, long tracks first. (O,)."""
    size = how.coverage_grid_size
    rows = np.flatnonzero(state.inlier)
    image_ids, tracks = state.image_ids[rows], state.track_ids[rows]
    if len(rows) < 1.5 * how.ba_max_num_observations * state.registered.sum():
        return state.inlier.copy()
    length = np.bincount(tracks, minlength=len(state.points))[tracks]
    cells = _grid_cells(state, rows, size)
    order = np.lexsort((-length, cells))
    is_first = np.r_[True, np.diff(cells[order]) != 0]
    index = np.arange(len(order))
    rank = index - np.maximum.accumulate(np.where(is_first, index, 0))
    occupied = np.bincount(image_ids[order[is_first]], minlength=len(state.registered))
    quota = np.ceil(how.ba_max_num_observations / np.maximum(occupied, 1))
    chosen = np.zeros(len(state.points), bool)
    chosen[tracks[order[rank < quota[image_ids[order]]]]] = True
    return state.inlier & chosen[state.track_ids]
