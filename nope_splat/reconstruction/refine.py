"""The last word: re-triangulation, full bundle adjustment and filtering, with all intrinsics."""

from __future__ import annotations

import numpy as np

from .bundle import intrinsics_covariance
from .triangulate import extend, filter_observations, triangulate
from .working import WorkingScene

ROUNDS = (8.0, 4.0, 2.5)
"""Largest reprojection error of an observation in each round, feature pixels."""
ROUGH_TOLERANCE = 1e-3
"""Relative decrease of the cost at which adjustments before the last one stop."""
MAX_SIGMAS = 3.0
"""Intrinsics that lie beyond this many standard deviations of their prior explain something else."""
MAX_UNCERTAINTY = 0.25
"""Largest uncertainty of intrinsics, as a share of the prior's, at which the photographs determine them."""
MIN_OBSERVATIONS = 10
"""Fewest observations that keep a photograph in the scene."""


def refine(
    scene: WorkingScene,
    min_angle: float,
    refine_principal_point: bool,
    refine_radial_distortion: bool = False,
    device: str = "cpu",
) -> dict[int, str]:
    """Re-triangulate, extend, adjust and filter in rounds of falling thresholds, in place.

    Args:
        scene: A registered scene.
        min_angle: Smallest triangulation angle of a point, degrees.
        refine_principal_point: Whether to adjust the principal point, where it can be determined and all
            photographs have the same size.
        refine_radial_distortion: Whether to adjust the radial distortion, where it shows.
        device: Torch device of bundle adjustment.

    Returns:
        Photographs that lost their pose on the way, with the reason.
    """
    lost: dict[int, str] = {}
    same_size = len(np.unique(scene.half_size, axis=0)) == 1
    free_offset = free_radial = False
    for number, max_error in enumerate(ROUNDS):
        triangulate(scene, max_error, min_angle)
        extend(scene, max_error)
        scene.adjust(
            free_offset=free_offset, free_radial=free_radial, tolerance=ROUGH_TOLERANCE, device=device
        )
        scene.estimate_noise()
        if number == 0 and refine_principal_point and same_size:
            free_offset = _free_principal_point(scene, device)
        if number == 0 and refine_radial_distortion:
            free_radial = _free_radial_distortion(scene, free_offset, device)
        filter_observations(scene, max_error, min_angle)
        lost |= _drop_weak_photos(scene, min_angle)
        scene.rescale()
    scene.adjust(free_offset=free_offset, free_radial=free_radial, device=device)
    filter_observations(scene, ROUNDS[-1], min_angle)
    return lost | _drop_weak_photos(scene, min_angle)


def _free_principal_point(scene: WorkingScene, device: str) -> bool:
    """Adjust with the principal point, and keep the result if the photographs determine it."""
    before, sigma = scene.snapshot(), scene.offset_sigma
    result = scene.adjust(free_offset=True, tolerance=ROUGH_TOLERANCE, device=device)
    if result is not None:
        covariance = intrinsics_covariance(result.problem)
        if (
            covariance is not None
            and result.noise * float(covariance.diagonal()[1:3].max()) ** 0.5 < MAX_UNCERTAINTY * sigma
            and np.linalg.norm(scene.offset) < MAX_SIGMAS * sigma
        ):
            return True
    scene.restore(before)
    return False


def _free_radial_distortion(scene: WorkingScene, free_offset: bool, device: str) -> bool:
    """Adjust with radial distortion, and keep the result if the photographs determine it."""
    before, sigma = scene.snapshot(), np.array(scene.radial_sigma)
    result = scene.adjust(free_offset=free_offset, free_radial=True, tolerance=ROUGH_TOLERANCE, device=device)
    if result is not None:
        covariance = intrinsics_covariance(result.problem)
        if covariance is not None:
            uncertainty = result.noise * covariance.diagonal()[3:].cpu().numpy() ** 0.5
            determined = (uncertainty < MAX_UNCERTAINTY * sigma).all()
            if determined and (np.abs(scene.radial) < MAX_SIGMAS * sigma).all():
                return True
    scene.restore(before)
    return False


def _drop_weak_photos(scene: WorkingScene, min_angle: float) -> dict[int, str]:
    """Take out photographs that hardly any observation supports."""
    support = np.bincount(scene.photo_ids[scene.inlier], minlength=len(scene.registered))
    weak = np.flatnonzero(scene.registered & (support < MIN_OBSERVATIONS))
    if len(weak):
        scene.registered[weak] = False
        scene.inlier &= scene.registered[scene.photo_ids]
        filter_observations(scene, np.inf, min_angle)
    return {
        int(photo): f"only {support[photo]} observations of track points survived adjustment"
        for photo in weak
    }
