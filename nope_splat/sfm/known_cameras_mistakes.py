"""Common mistakes in files of known cameras, which explain why the cameras contradict the matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.geometry.rigid import invert
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.known_cameras_agreement import PairRays, measure_agreement, pair_rays
from nope_splat.sfm.mapper_options import KnownCamerasOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.utils.typing import Array

MIRROR = np.diag([-1.0, 1, 1, 1])
"""Reflection of the world coordinates. (4, 4)."""


@dataclass(frozen=True)
class Mistake:
    """Mistake in a file of known cameras, and the cameras without it."""

    cause: str
    """What is wrong in the file; a clause for a message."""
    remedy: str
    """What to do; an imperative clause for a message."""
    corrected: KnownCameras
    """The cameras without the mistake."""


def find_mistake(problem: SfmProblem, known: KnownCameras, names: Sequence[str]) -> Mistake | None:
    """Find the mistake in the poses without which most pairs agree with their matches.

    Args:
        problem: Verified matches of the training images.
        known: Cameras that most pairs contradict.
        names: Names of all images.

    Returns:
        The mistake; None if none of the common ones explains the matches.
    """
    options = problem.options.known_cameras
    pairs = strongest_pairs(pair_rays(problem, known), options)
    best, best_share = None, options.min_consistency
    for mistake in possible_mistakes(known, names):
        agreement = measure_agreement(pairs, mistake.corrected, options)
        share = agreement.share if agreement.agrees.sum() >= options.min_num_agreeing_pairs else 0.0
        if share > best_share:
            best, best_share = mistake, share
        if share >= options.min_explained:
            break
    return best


def correct_intrinsics(problem: SfmProblem, known: KnownCameras) -> KnownCameras:
    """Find the focal length, with or without the given lens, with which most matches agree with the poses.

    Files often have the focal length of photos of another size.

    Args:
        problem: Verified matches of the training images.
        known: Cameras that some pairs contradict.

    Returns:
        The cameras with these intrinsics.
    """
    options = problem.options.known_cameras
    strongest = {(pair.first, pair.second) for pair in strongest_pairs(pair_rays(problem, known), options)}
    reduced = replace(
        problem, pairs=[pair for pair in problem.pairs if (pair.first, pair.second) in strongest]
    )
    poses = known.T_by_image()

    def agreement(candidate: KnownCameras) -> float:
        pairs = pair_rays(reduced, candidate)
        return sum(pair.share_explained(invert(poses[pair.second]) @ poses[pair.first]) for pair in pairs)

    with_lens = max(_other_focals(known, options), key=agreement)
    if not (known.offset.any() or known.radial.any()):
        return with_lens
    centered = replace(known, offset=np.zeros_like(known.offset), radial=np.zeros_like(known.radial))
    without_lens = max(_other_focals(centered, options), key=agreement)
    is_better = agreement(without_lens) > options.min_lens_gain * agreement(with_lens)
    return without_lens if is_better else with_lens


def strongest_pairs(pairs: Sequence[PairRays], options: KnownCamerasOptions) -> list[PairRays]:
    """Choose the pairs with most matches.

    Args:
        pairs: The pairs.
        options: Their maximum number.
    """
    return sorted(pairs, key=lambda pair: -len(pair.rays[0]))[: options.max_num_pairs]


def _other_focals(known: KnownCameras, options: KnownCamerasOptions) -> Iterator[KnownCameras]:
    """Yield the cameras with other focal lengths, the most similar ones first."""
    logarithm = np.log(options.max_focal_factor)
    factors = np.exp(np.linspace(-logarithm, logarithm, options.num_focal_factors))
    for factor in sorted(factors.tolist(), key=lambda factor: abs(np.log(factor))):
        yield replace(known, focal=factor * known.focal, is_corrected=True)


def possible_mistakes(known: KnownCameras, names: Sequence[str]) -> Iterator[Mistake]:
    """Yield the mistakes that files of cameras often contain, the most frequent first.

    Args:
        known: The cameras.
        names: Names of all images.
    """
    T = known.T_file_camera
    axes = "their axes are those of OpenCV instead of OpenGL, or the other way around"
    inverted = "they are world-to-camera transforms instead of camera-to-world, or the other way around"
    flip = "negate the y and z axes of all cameras"
    yield _moved(known, axes, flip, T @ OPENCV_FROM_OPENGL)
    yield _moved(known, inverted, "invert all poses", invert(T))
    yield _moved(
        known,
        f"{inverted}, and {axes}",
        f"invert all poses and {flip}",
        invert(T @ OPENCV_FROM_OPENGL) @ OPENCV_FROM_OPENGL,
    )
    yield from _reordered(known, names)
    for poses, also in ((T, ""), (invert(T), f", and {inverted}")):
        for signed_axes in _signed_axes():
            if np.linalg.det(signed_axes) < 0:
                yield _moved(
                    known,
                    f"the scene is mirrored, as from left-handed coordinates{also}",
                    "convert them to right-handed coordinates",
                    MIRROR @ poses @ signed_axes,
                )
            else:
                yield _moved(
                    known,
                    f"the camera axes are not those of this file format{also}",
                    "rotate the axes of all cameras",
                    poses @ signed_axes,
                )


def _signed_axes() -> list[Array]:
    """Return all permutations and sign changes of camera axes but the identity. (4, 4) each."""
    changes = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        change = np.eye(4)
        change[:3, :3] = np.eye(3)[:, order] * signs
        changes.append(change)
    return sorted(changes[1:], key=lambda change: -np.abs(np.diag(change)).sum())


def _moved(known: KnownCameras, cause: str, remedy: str, T_world_camera: Array) -> Mistake:
    """Create a mistake without which the images have other poses."""
    return Mistake(cause, remedy, replace(known, T_world_camera=T_world_camera))


def _reordered(known: KnownCameras, names: Sequence[str]) -> Iterator[Mistake]:
    """Yield the mistakes in which images have the poses of others."""
    ids, poses = known.image_ids, known.T_world_camera
    check = "check the photo names"
    yield Mistake(
        "each photo has the pose of the next one", check, replace(known, image_ids=np.roll(ids, -1))
    )
    yield Mistake(
        "each photo has the pose of the previous one", check, replace(known, image_ids=np.roll(ids, 1))
    )
    yield Mistake(
        "the poses are in the opposite order of the photos", check, replace(known, image_ids=ids[::-1])
    )
    order = np.argsort(np.array([names[image_id] for image_id in ids.tolist()]))
    if (np.diff(order) != 1).any():  # images are in natural order
        cause = "the poses and the photos are in different order (photo10 before photo9)"
        for reordered in (poses[order], poses[np.argsort(order)]):
            yield Mistake(cause, check, replace(known, T_world_camera=reordered))
