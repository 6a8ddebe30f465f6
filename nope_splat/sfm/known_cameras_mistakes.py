"""Common mistakes in files of known cameras that can explain why the cameras contradict the matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations, product

import numpy as np

from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.geometry.rigid import invert
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.known_cameras_agreement import PairRays, measure_agreement, pair_rays
from nope_splat.sfm.mapper_options import KnownCamerasOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.utils.typing import Array

MIRROR = np.diag([-1.0, 1, 1, 1])
"""Reflection of the world's x axis: multiply camera-to-world transforms by this matrix from the left.
(4, 4)."""


@dataclass(frozen=True)
class Mistake:
    """Mistake in a file of known cameras, and the corrected cameras."""

    cause: str
    """What is wrong in the file; a clause for a message."""
    remedy: str
    """What to do; an imperative clause for a message."""
    corrected: KnownCameras
    """The cameras after correction of the mistake."""


def find_mistake(problem: SfmProblem, known: KnownCameras, names: Sequence[str]) -> Mistake | None:
    """Find the mistake in a file of known cameras that explains why most pairs disagree with the cameras.

    Each common mistake is corrected in turn. The result is the mistake whose correction makes the largest
    fraction of the pairs, by weight, agree with the cameras. The search stops early if this fraction reaches
    `KnownCamerasOptions.early_stop_pair_ratio`.

    Args:
        problem: Verified matches of the training images.
        known: Known cameras with which most pairs disagree.
        names: Names of all images.

    Returns:
        The mistake; None if too few pairs agree after the correction of any common mistake.
    """
    options = problem.options.known_cameras
    pairs = strongest_pairs(pair_rays(problem, known), options)
    best, best_fraction = None, options.min_agreeing_pair_ratio
    turns = problem.camera_groups.upright_from_sensor
    for mistake in chain(_turned(known, turns), possible_mistakes(known, names)):
        agreement = measure_agreement(pairs, mistake.corrected, options)
        fraction = (
            agreement.agreeing_fraction if agreement.agrees.sum() >= options.min_num_agreeing_pairs else 0.0
        )
        if fraction > best_fraction:
            best, best_fraction = mistake, fraction
        if fraction >= options.early_stop_pair_ratio:
            break
    return best


def correct_intrinsics(problem: SfmProblem, known: KnownCameras) -> KnownCameras:
    """Find the intrinsics with which the matches agree best with the known poses.

    The best intrinsics maximize the fraction of agreeing matches, summed over the pairs with the most
    matches. All focal lengths are multiplied by the same factor, because files often contain the focal length
    of photos of another size. Principal point offset and distortion keep their known values, or are set to
    zero if clearly more matches agree then (see `KnownCamerasOptions.min_lens_gain`).

    Args:
        problem: Verified matches of the training images.
        known: Known cameras with which some pairs disagree.

    Returns:
        The known poses with these intrinsics; `is_corrected` is True.
    """
    options = problem.options.known_cameras
    strongest = {(pair.first, pair.second) for pair in strongest_pairs(pair_rays(problem, known), options)}
    reduced = replace(
        problem, pairs=[pair for pair in problem.pairs if (pair.first, pair.second) in strongest]
    )
    poses = known.T_by_image()

    def agreement(candidate: KnownCameras) -> float:
        pairs = pair_rays(reduced, candidate)
        return sum(pair.agreement(invert(poses[pair.second]) @ poses[pair.first]) for pair in pairs)

    with_lens = max(_other_focals(known, options), key=agreement)
    if not (known.offset.any() or known.distortion.any()):
        return with_lens
    centered = replace(known, offset=np.zeros_like(known.offset), distortion=np.zeros_like(known.distortion))
    without_lens = max(_other_focals(centered, options), key=agreement)
    is_better = agreement(without_lens) > options.min_lens_gain * agreement(with_lens)
    return without_lens if is_better else with_lens


def strongest_pairs(pairs: Sequence[PairRays], options: KnownCamerasOptions) -> list[PairRays]:
    """Choose the pairs with the most matches.

    Args:
        pairs: All pairs.
        options: Maximum number of chosen pairs.

    Returns:
        The chosen pairs, in descending order of the number of matches.
    """
    return sorted(pairs, key=lambda pair: -len(pair.rays[0]))[: options.max_num_pairs]


def _other_focals(known: KnownCameras, options: KnownCamerasOptions) -> Iterator[KnownCameras]:
    """Yield the cameras with focal lengths multiplied by a factor, starting with the factor closest to 1."""
    logarithm = np.log(options.max_focal_factor)
    factors = np.exp(np.linspace(-logarithm, logarithm, options.num_focal_factors))
    for factor in sorted(factors.tolist(), key=lambda factor: abs(np.log(factor))):
        yield replace(known, focal=factor * known.focal, is_corrected=True)


def possible_mistakes(known: KnownCameras, names: Sequence[str]) -> Iterator[Mistake]:
    """Yield common mistakes in files of cameras, the most frequent mistake first.

    Each mistake contains the corrected cameras.

    Args:
        known: The cameras as in the file.
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
    """Return all matrices that permute the camera axes and change their signs, except the identity.

    Returns:
        The matrices, those that permute the fewest axes first; multiply camera-to-world transforms by them
        from the right. (4, 4) each.
    """
    changes = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        change = np.eye(4)
        change[:3, :3] = np.eye(3)[:, order] * signs
        changes.append(change)
    return sorted(changes[1:], key=lambda change: -np.abs(np.diag(change)).sum())


def _turned(known: KnownCameras, upright_from_sensor: Array) -> Iterator[Mistake]:
    """Yield the mistake that cameras of upright photos are read as those of stored photos, or vice versa."""
    turns = np.tile(np.eye(4), (len(known.image_ids), 1, 1))
    turns[:, :2, :2] = upright_from_sensor[known.image_ids]
    if (turns == np.eye(4)).all() or (np.linalg.det(turns) <= 0).any():  # mirrored or unknown
        return
    remedy = "store the photos upright, without EXIF orientation"
    for read_as, made_for, poses in (("stored", "upright", turns), ("upright", "stored", invert(turns))):
        cause = f"they are for {made_for} photos, but were read as if for photos as they are {read_as}"
        yield _moved(known, cause, remedy, known.T_file_camera @ poses)


def _moved(known: KnownCameras, cause: str, remedy: str, T_world_camera: Array) -> Mistake:
    """Create a `Mistake` whose corrected camera-to-world transforms are `T_world_camera`. (G, 4, 4)."""
    return Mistake(cause, remedy, replace(known, T_world_camera=T_world_camera))


def _reordered(known: KnownCameras, names: Sequence[str]) -> Iterator[Mistake]:
    """Yield common mistakes that assign poses to the wrong images."""
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
    if (np.diff(order) != 1).any():  # natural order of the images differs from alphabetical order
        cause = "the poses and the photos are in different order (photo10 before photo9)"
        for reordered in (poses[order], poses[np.argsort(order)]):
            yield Mistake(cause, check, replace(known, T_world_camera=reordered))
