"""Incremental registration: one image after another, by its view of the points so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import poselib

from nope_splat.geometry.rigid import rigid, transform
from nope_splat.sfm.initialization.two_view import TwoView
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import extend, filter_observations, triangulate
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.typing import Array, Indices, Mask

MIN_VISIBLE = 20
"""Fewest points that must be visible, and agree, to register an image by them."""
MIN_INLIER_RATIO = 0.25
"""Smallest share of the visible points that must agree with the pose."""
MAX_PNP_ERROR = 8.0
"""Largest reprojection error of a point that agrees, feature pixels: the points are still rough."""
MAX_ERROR = 4.0
"""Largest reprojection error of an observation while the scene grows, feature pixels."""
GRID = 16
"""Cells per side of the grid that measures how well visible points cover an image."""
MIN_SHARED = 3
"""Fewest points that fix, and then verify, the scale of an image attached by one pair."""
MIN_SHARED_RATIO = 0.5
"""Smallest share of those points that must agree with the pose after adjustment."""
MAX_ATTEMPTS = 3
"""Tries per image between two successes."""
MAX_INITIAL_PAIRS = 50
"""Initial pairs tried in search of one with enough parallax."""
MAX_GROWTHS = 5
"""Initial pairs from which a scene is grown while less than half of the images register."""
FOCAL_FREE_FROM = 4
"""Registered images from which the focal length is adjusted."""
SAMPLES_PER_IMAGE = 300
"""Observations of each image that take part in the adjustments along the way."""
LOCAL_FROM = 16
"""Registered images from which most adjustments are local."""
NEIGHBORS = 8
"""Images that move in a local adjustment."""


def register_incremental(
    state: SfmState,
    views: dict[tuple[int, int], TwoView],
    min_angle: float,
    device: str = "cpu",
    seed: int = 0,
) -> dict[int, str]:
    """Register as many images as hold up (Schönberger and Frahm, CVPR 2016, with a fallback).

    The next image is the one that visible points cover best; it is registered by PnP. Where none sees
    enough points, one is attached by its best pair, with the scale of at least three shared points, and
    taken back when after adjustment its pose does not agree with them.

    Args:
        state: A scene without poses; changed in place.
        views: Relative poses of the pairs.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        seed: Seed of RANSAC.

    Returns:
        Why images were not registered, by index, as far as known.
    """
    pairs = sorted(views, key=lambda pair: promise(views[pair]), reverse=True)
    return grow(IncrementalMapper, state, views, pairs, min_angle, device, seed)


def grow(
    kind: type[IncrementalMapper],
    state: SfmState,
    views: dict[tuple[int, int], TwoView],
    pairs: Sequence[tuple[int, int]],
    min_angle: float,
    device: str,
    seed: int,
) -> dict[int, str]:
    """Grow a scene from the first initial pairs that promise one, and keep the largest.

    Args:
        kind: How it grows.
        state: A scene without poses; changed in place.
        views: Relative poses of the pairs.
        pairs: Initial pairs, the most promising first.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        seed: Seed of RANSAC.

    Returns:
        Why images were not registered, by index, as far as known.
    """
    connected = {image_id for pair in views for image_id in pair}
    empty, best, best_failures = state.snapshot(), state.snapshot(), {}
    attempts = 0
    for pair in pairs[:MAX_INITIAL_PAIRS]:
        state.restore(empty.snapshot())
        growth = kind(state, views, min_angle, device, seed)
        if not growth.begin(pair):
            continue
        for _ in progress_bar(growth.run(), "Registering photos", total=len(connected) - 2):
            pass
        attempts += 1
        if state.registered.sum() > best.registered.sum():
            best, best_failures = state.snapshot(), growth.failures
        if 2 * state.registered.sum() > len(connected) or attempts == MAX_GROWTHS:
            break
    state.restore(best)
    return best_failures


def register_others(
    state: SfmState,
    views: dict[tuple[int, int], TwoView],
    min_angle: float,
    device: str = "cpu",
    seed: int = 0,
) -> dict[int, str]:
    """Register what is not registered yet against the scene that there is.

    Args:
        state: A scene with poses and points; changed in place.
        views: Relative poses of the pairs.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        seed: Seed of RANSAC.

    Returns:
        Why images were not registered, by index, as far as known.
    """
    growth = IncrementalMapper(state, views, min_angle, device, seed)
    for _ in growth.run():
        pass
    return growth.failures


def promise(view: TwoView) -> float:
    """How well a pair serves as the first one: many matches, enough parallax, not one plane."""
    return len(view) * min(view.angle, 16.0) * max(0.1, 1 - view.matches.homography_ratio)


class IncrementalMapper:
    """One attempt at growing a scene from an initial pair, image by image."""

    global_growth = 1.2
    """IncrementalMapper of the scene that calls for a global adjustment."""

    def __init__(
        self,
        state: SfmState,
        views: dict[tuple[int, int], TwoView],
        min_angle: float,
        device: str,
        seed: int,
    ) -> None:
        self.seed = seed
        self.state, self.views, self.min_angle, self.device = state, views, min_angle, device
        self.attempts: Counter[object] = Counter()
        self.failures: dict[int, str] = {}
        self.last_global = 0

    def begin(self, pair: tuple[int, int]) -> bool:
        """Start from a pair; False where it has too little parallax for points."""
        scene = self.state
        scene.registered[list(pair)] = True
        scene.T_camera_world[pair[1]] = self.views[pair].T_second_first
        triangulate(scene, MAX_ERROR, self.min_angle)
        scene.adjust(free_focal=False, max_iterations=15, device=self.device)
        filter_observations(scene, MAX_ERROR, self.min_angle)
        return bool(scene.has_point.sum() >= MIN_VISIBLE)

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
        """Number of cells that show points (0 where there is nothing to try), and of points. (N,), (N,)."""
        scene = self.state
        rows = scene.visible_points()
        image_ids = scene.image_ids[rows]
        place = (scene.xy[rows] / scene.half_size[image_ids] + 1) / 2
        cells = np.clip((place * GRID).astype(np.int64), 0, GRID - 1) @ (1, GRID)
        covered = np.unique(image_ids * GRID**2 + cells) // GRID**2
        num_images = len(scene.registered)
        coverage = np.bincount(covered, minlength=num_images)
        visible = np.bincount(image_ids, minlength=num_images)
        for image_id in np.flatnonzero(~scene.registered & (visible < MIN_VISIBLE)):
            reason = f"only {visible[image_id]} of the {MIN_VISIBLE} needed track points visible"
            if self.attempts[int(image_id), "pair"] == 0:
                self.failures[int(image_id)] = reason
        eligible = ~scene.registered & (visible >= MIN_VISIBLE)
        eligible &= np.array([self.attempts[image_id] < MAX_ATTEMPTS for image_id in range(num_images)])
        return np.where(eligible, coverage, 0), visible

    def _register_by_points(self, image_id: int) -> bool:
        """Register an image by PnP."""
        scene = self.state
        self.attempts[image_id] += 1
        rows = np.flatnonzero((scene.image_ids == image_id) & scene.has_point[scene.track_ids])
        pose, info = poselib.estimate_absolute_pose(
            scene.xy[rows],
            scene.points[scene.track_ids[rows]],
            scene.camera_model(image_id),
            {
                "max_reproj_error": MAX_PNP_ERROR,
                "max_iterations": 10000,
                "min_iterations": 100,
                "seed": self.seed * MAX_ATTEMPTS + self.attempts[image_id],
            },
            {"loss_type": "CAUCHY", "loss_scale": 2.0},
        )
        agrees = np.array(info["inliers"], bool)
        if agrees.sum() < MIN_VISIBLE or agrees.mean() < MIN_INLIER_RATIO:
            self.failures[image_id] = (
                f"only {agrees.sum()} of {len(rows)} visible track points agree with one pose"
            )
            return False
        scene.T_camera_world[image_id] = rigid(pose.R, pose.t)
        scene.registered[image_id] = True
        scene.inlier[rows[agrees]] = True
        return True

    def _attach_by_pair(self) -> int | None:
        """Register an image by its best pair with a registered one; the image, if one held up."""
        scene = self.state
        edges = []
        for pair, view in self.views.items():
            if scene.registered[pair[0]] != scene.registered[pair[1]]:
                known, new = pair if scene.registered[pair[0]] else pair[::-1]
                edges.append((len(view) * min(view.angle, 4.0), known, new, view))
        for _, known, new, view in sorted(edges, key=lambda edge: -edge[0]):
            if self.attempts[new, "pair"] >= MAX_ATTEMPTS or self.attempts[known, new]:
                continue
            T_world_scaled = self._scaled_pose(known, view)
            if T_world_scaled is None:
                continue
            self.attempts[new, "pair"] += 1
            self.attempts[known, new] += 1
            before = scene.snapshot()
            scene.T_camera_world[new] = T_world_scaled
            scene.registered[new] = True
            self._adjust([new], free_focal=False)
            if self._holds_up(new):
                return new
            scene.restore(before)
            self.failures[new] = "its pose did not survive verification"
        return None

    def _scaled_pose(self, known: int, view: TwoView) -> Array | None:
        """World-to-camera transform of the other image of a pair, where shared points give the scale."""
        scene = self.state
        _, T_new_known, keypoints, depths = view.from_image(known)
        rows = scene.rows_of(known, keypoints[:, 0])
        shared = (rows >= 0) & scene.inlier[rows]
        if shared.sum() < MIN_SHARED:
            return None
        points = scene.points[scene.track_ids[rows[shared]]]
        ratio = transform(scene.T_camera_world[known], points)[:, 2] / depths[shared, 0]
        T_scaled = T_new_known.copy()
        T_scaled[:3, 3] *= np.median(ratio)
        return T_scaled @ scene.T_camera_world[known]

    def _holds_up(self, image_id: int) -> bool:
        """Whether an image agrees with points that others have fixed without it."""
        scene = self.state
        mine = scene.image_ids == image_id
        others = np.bincount(scene.track_ids[scene.inlier & ~mine], minlength=len(scene.points))
        fixed = mine & (others[scene.track_ids] >= 2)
        agreeing = int((fixed & scene.inlier).sum())
        return agreeing >= MIN_SHARED and agreeing >= MIN_SHARED_RATIO * fixed.sum()

    def _adjust(self, image_ids: list[int], free_focal: bool = True) -> None:
        """New points, then an adjustment of the surroundings of new images or of everything."""
        scene = self.state
        extend(scene, MAX_ERROR)
        triangulate(scene, MAX_ERROR, self.min_angle)
        num_registered = int(scene.registered.sum())
        everything = num_registered <= LOCAL_FROM or num_registered >= self.global_growth * self.last_global
        sample = _spread_sample(scene)
        if everything:
            free_images = None
            self.last_global = num_registered
        else:
            free_images = self._window(image_ids)
            seen = np.zeros(len(scene.points), bool)
            seen[scene.track_ids[scene.inlier & free_images[scene.image_ids]]] = True
            sample &= seen[scene.track_ids]
        scene.adjust(
            sample,
            free_images,
            free_focal=free_focal and everything and num_registered >= FOCAL_FREE_FROM,
            max_iterations=8,
            tolerance=1e-3,
            device=self.device,
        )
        # Points that took no part follow the cameras.
        left_out = scene.has_point.copy()
        left_out[scene.track_ids[sample]] = False
        if everything:
            triangulate(scene, MAX_ERROR, self.min_angle, left_out)
            scene.rescale()
        filter_observations(scene, MAX_ERROR, self.min_angle)
        extend(scene, MAX_ERROR)

    def _window(self, image_ids: list[int]) -> Mask:
        """A new image and the registered ones that share most points with it. (N,)."""
        scene, (image_id,) = self.state, image_ids
        mine = np.zeros(len(scene.points), bool)
        mine[scene.track_ids[scene.inlier & (scene.image_ids == image_id)]] = True
        shared = np.bincount(
            scene.image_ids[scene.inlier & mine[scene.track_ids]], minlength=len(scene.registered)
        )
        shared[~scene.registered] = 0
        chosen = np.zeros(len(scene.registered), bool)
        chosen[np.argsort(-shared, kind="stable")[:NEIGHBORS]] = True
        return chosen & (shared > 0)


def _spread_sample(state: SfmState) -> Mask:
    """Inlier observations of tracks that spread over each image, long tracks first. (O,)."""
    rows = np.flatnonzero(state.inlier)
    image_ids, tracks = state.image_ids[rows], state.track_ids[rows]
    if len(rows) < 1.5 * SAMPLES_PER_IMAGE * state.registered.sum():
        return state.inlier.copy()
    length = np.bincount(tracks, minlength=len(state.points))[tracks]
    place = (state.xy[rows] / state.half_size[image_ids] + 1) / 2
    cells = image_ids * GRID**2 + np.clip((place * GRID).astype(np.int64), 0, GRID - 1) @ (1, GRID)
    order = np.lexsort((-length, cells))
    is_first = np.r_[True, np.diff(cells[order]) != 0]
    index = np.arange(len(order))
    rank = index - np.maximum.accumulate(np.where(is_first, index, 0))
    occupied = np.bincount(image_ids[order[is_first]], minlength=len(state.registered))
    quota = np.ceil(SAMPLES_PER_IMAGE / np.maximum(occupied, 1))
    chosen = np.zeros(len(state.points), bool)
    chosen[tracks[order[rank < quota[image_ids[order]]]]] = True
    return state.inlier & chosen[state.track_ids]
