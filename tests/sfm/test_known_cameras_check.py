"""Known cameras are compared with the matches: right ones are kept, wrong ones left out and named."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.synthetic import SyntheticScene, make_scene, ring
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.geometry.camera import NO_DISTORTION
from nope_splat.geometry.rigid import invert
from nope_splat.io.cameras import NamedCamera
from nope_splat.sfm import Priors, SfmOptions
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.sfm.initialization.two_view import TwoViewInitialization
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.known_cameras_agreement import Agreement, match_errors
from nope_splat.sfm.known_cameras_check import CheckedCameras, check_known_cameras
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.sfm.problem import ImageProperties, SfmProblem
from nope_splat.sfm.reliability.notices import refuse_doubtful

Array = NDArray[np.floating]
FILE = Path("given/cameras.json")
MIRROR_X, MIRROR_Z = np.diag([-1.0, 1, 1, 1]), np.diag([1.0, 1, -1, 1])


@cache
def scene() -> SyntheticScene:
    return make_scene(8, 200)


def known(
    poses: Array,
    made: SyntheticScene | None = None,
    image_ids: NDArray[np.int64] | None = None,
    focal: float = 1.0,
    distortion: tuple[float, ...] = NO_DISTORTION,
) -> KnownCameras:
    """Read cameras of the images, with a scaled focal length, as from a file."""
    made = made or scene()
    image_ids = np.arange(len(poses)) if image_ids is None else image_ids
    ratio = focal * made.camera.focal / max(made.size)
    cameras = {
        image_id: NamedCamera(pose, ratio, distortion=distortion)
        for image_id, pose in zip(image_ids.tolist(), poses, strict=True)
    }
    return KnownCameras.from_cameras(
        cameras, np.zeros(len(made.names), bool), made.camera_groups.camera_ids, FILE
    )


def check(
    cameras: KnownCameras, made: SyntheticScene | None = None, repetition: float | None = None
) -> CheckedCameras:
    made = made or scene()
    problem = SfmProblem(
        made.keypoints,
        made.camera_groups,
        made.matches.pairs,
        ImageProperties(repetition=None if repetition is None else np.full(len(made.names), repetition)),
        priors=Priors(cameras),
    )
    options = SfmOptions(initialization=KnownCamerasInitialization(FILE))
    return check_known_cameras(problem, options, made.names)


def kept(checked: CheckedCameras) -> list[int]:
    """Return the images whose known cameras are kept."""
    cameras = checked.problem.priors.known_cameras
    return [] if cameras is None else cameras.image_ids.tolist()


def perturbed(poses: Array, degrees: float, share: float = 0.0, seed: int = 0) -> Array:
    """Rotate poses, and move them by a share of the largest distance between two."""
    axes, moves = np.random.default_rng(seed).normal(size=(2, len(poses), 3))
    axes, moves = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (axes, moves))
    poses, centers = poses.copy(), poses[:, :3, 3]
    extent = np.linalg.norm(centers[:, None] - centers, axis=-1).max()
    poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(np.radians(degrees) * axes).as_matrix()
    poses[:, :3, 3] += share * extent * moves
    return poses


def with_random(poses: Array, image_ids: list[int]) -> Array:
    """Replace some poses by random ones."""
    rng = np.random.default_rng(0)
    poses = poses.copy()
    for image_id in image_ids:
        poses[image_id, :3, :3] = Rotation.from_rotvec(rng.normal(0, 2, 3)).as_matrix()
        poses[image_id, :3, 3] = rng.normal(0, 2, 3)
    return poses


def moved(poses: Array, scale: float, shift: float) -> Array:
    """Scale and move the world."""
    poses = poses.copy()
    poses[:, :3, 3] = scale * poses[:, :3, 3] + shift
    return poses


HONEST = {
    "exact": lambda poses: known(poses),
    "scale of 1e-9": lambda poses: known(moved(poses, 1e-9, 0)),
    "far from the origin": lambda poses: known(moved(poses, 1, 1e7)),
    "rotated by 2 degrees": lambda poses: known(perturbed(poses, 2)),
    "rough": lambda poses: known(perturbed(poses, 1, 0.02)),
    "half the focal length": lambda poses: known(poses, focal=0.5),
    "twice the focal length": lambda poses: known(poses, focal=2.0),
    "0.8 of the focal length": lambda poses: known(poses, focal=0.8),
    "strong distortion": lambda poses: known(poses, distortion=(0.5, *5 * [0.0])),
    "some photos": lambda poses: known(poses[2:5], image_ids=np.arange(2, 5)),
    "two photos": lambda poses: known(poses[[1, 6]], image_ids=np.array([1, 6])),
}


@pytest.mark.parametrize("case", HONEST)
def test_right_and_rough_cameras_are_kept_without_a_notice(case: str) -> None:
    cameras = HONEST[case](scene().T_world_camera)
    checked = check(cameras)
    assert checked.notices == ()
    assert kept(checked) == cameras.image_ids.tolist()
    assert isinstance(checked.options.initialization, KnownCamerasInitialization)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0])
def test_a_wrong_focal_length_is_corrected(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    cameras = check(known(scene().T_world_camera, focal=factor)).problem.priors.known_cameras
    assert cameras is not None
    assert cameras.is_corrected
    assert cameras.focal[0] * 640 == pytest.approx(700, rel=0.1)
    assert str(FILE) in caplog.text


def test_wrong_distortion_is_left_out() -> None:
    cameras = check(
        known(scene().T_world_camera, distortion=(3.0, 3.0, *4 * [0.0]))
    ).problem.priors.known_cameras
    assert cameras is not None
    assert not cameras.distortion.any()
    assert cameras.focal[0] * 640 == pytest.approx(700, rel=0.01)


MISTAKES = {
    "axes": (lambda poses: poses @ OPENCV_FROM_OPENGL, "OpenCV instead of OpenGL"),
    "world to camera": (lambda poses: invert(moved(poses, 1, 5)), "world-to-camera"),
    "world to camera, axes": (
        lambda poses: invert(poses @ OPENCV_FROM_OPENGL) @ OPENCV_FROM_OPENGL,
        "world-to-camera",
    ),
    "shifted": (lambda poses: np.roll(poses, -1, axis=0), "pose of the next one"),
    "shifted back": (lambda poses: np.roll(poses, 1, axis=0), "pose of the previous one"),
    "reversed": (lambda poses: poses[::-1], "opposite order"),
    "left-handed": (lambda poses: MIRROR_X @ poses @ MIRROR_Z, "left-handed"),
    "other axes": (lambda poses: poses @ np.eye(4)[:, [1, 2, 0, 3]], "not those of this file format"),
    "random": (lambda poses: with_random(poses, list(range(8))), "contradict the matches of the photos and"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_all_cameras_is_named(case: str) -> None:
    change, words = MISTAKES[case]
    checked = check(known(change(scene().T_world_camera)))
    (notice,) = checked.notices
    assert notice.code == "contradicting-known-cameras"
    assert words in notice.message
    assert str(FILE) in notice.message
    assert kept(checked) == []
    assert isinstance(checked.options.initialization, TwoViewInitialization)


def test_cameras_for_photos_turned_otherwise_are_recognized() -> None:
    turns = np.tile(-np.eye(2), (8, 1, 1))  # the EXIF orientation turns all photos by 180 degrees
    made = make_scene(8, 200, turns=turns)
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    (notice,) = check(known(made.T_world_camera @ half_turn, made), made).notices
    assert "they are for upright photos" in notice.message
    assert "EXIF orientation" in notice.message


def test_poses_in_alphabetical_order_are_recognized() -> None:
    made = make_scene(12, 150)
    names = [f"photo{image_id}" for image_id in range(12)]
    order = sorted(range(12), key=lambda image_id: names[image_id])
    problem = SfmProblem(
        made.keypoints,
        made.camera_groups,
        made.matches.pairs,
        priors=Priors(known(made.T_world_camera[order], made)),
    )
    (notice,) = check_known_cameras(problem, SfmOptions(), names).notices
    assert "photo10 before photo9" in notice.message


def test_a_single_pair_does_not_show_the_mistake() -> None:
    poses = scene().T_world_camera[[1, 6]] @ OPENCV_FROM_OPENGL
    checked = check(known(poses, image_ids=np.array([1, 6])))
    assert kept(checked) == []
    assert "OpenCV" not in checked.notices[0].message


@pytest.mark.parametrize("wrong", [[3], [0, 2, 4, 6]])
def test_wrong_cameras_among_right_ones_are_left_out_and_named(wrong: list[int]) -> None:
    checked = check(known(with_random(scene().T_world_camera, wrong)))
    assert kept(checked) == [image_id for image_id in range(8) if image_id not in wrong]
    (notice,) = checked.notices
    for image_id in wrong:
        assert scene().names[image_id] in notice.message


def test_where_a_pattern_repeats_cameras_are_left_out_only_if_a_mistake_explains_it() -> None:
    poses = scene().T_world_camera
    for cameras in (known(with_random(poses, [3])), known(with_random(poses, list(range(8))))):
        checked = check(cameras, repetition=0.5)
        assert checked.notices == ()
        assert kept(checked) == list(range(8))
    assert kept(check(known(poses @ OPENCV_FROM_OPENGL), repetition=0.5)) == []


def test_cameras_without_matches_are_kept() -> None:
    made = make_scene(6, 100, pairs=[(0, 1), (1, 2)])
    assert kept(check(known(with_random(made.T_world_camera, [4, 5]), made), made)) == list(range(6))


def test_two_consistent_groups_that_contradict_each_other_are_told_apart() -> None:
    """Each image agrees with most of its neighbors, but the groups are in different world frames."""
    pairs = np.array([(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (4, 5), (3, 5), (5, 6), (4, 6)])
    agrees = np.array([(first < 3) == (second < 3) for first, second in pairs.tolist()])
    agreement = Agreement(pairs, agrees, np.ones(len(pairs)))
    np.testing.assert_array_equal(agreement.consistent_images(0.5), [3, 4, 5, 6])


def test_groups_without_common_pairs_are_both_consistent() -> None:
    pairs = np.array([(0, 1), (2, 3)])
    agreement = Agreement(pairs, np.ones(2, bool), np.ones(2))
    np.testing.assert_array_equal(agreement.consistent_images(0.5), [0, 1, 2, 3])


def test_errors_of_points_behind_a_camera_are_those_of_points_at_infinity() -> None:
    T_second_first = np.eye(4)
    T_second_first[0, 3] = -1.0
    first = np.tile([0.1, 0.0, 1.0], (3, 1))
    in_front, at_infinity, behind = [-0.1, 0.0, 1.0], [0.1, 0.0, 1.0], [0.4, 0.0, 1.0]
    errors = match_errors(T_second_first, (first, np.array([in_front, at_infinity, behind])), (100.0, 100.0))
    np.testing.assert_allclose(errors, [0, 0, 30], atol=1e-9)


def run(made: SyntheticScene, folder: Path, poses: Array) -> tuple[float, tuple[str, ...], int]:
    """Reconstruct with known cameras; return AUC@5, codes of the notices and number of images."""
    options = SfmOptions(initialization=KnownCamerasInitialization(FILE))
    none_held_out = np.zeros(len(made.names), bool)
    result = reconstruct_from_matches(
        made.write_images(folder), none_held_out, made.matches, options, Priors(known(poses, made))
    )
    registered = np.flatnonzero(result.registered)
    estimated = {made.names[image_id]: result.T_world_camera[image_id] for image_id in registered.tolist()}
    metrics = compare_poses(estimated, made.poses_by_name())
    if result.notices:
        with refused("doubtful-cameras", FILE):
            refuse_doubtful(result)
    return metrics.auc_5, tuple(notice.code for notice in result.notices), len(registered)


@pytest.mark.parametrize("case", ["exchanged", "world to camera"])
def test_wrong_cameras_do_not_spoil_the_result(case: str, tmp_path: Path) -> None:
    made = make_scene(7, 250)
    poses = made.T_world_camera.copy()
    if case == "exchanged":
        poses[[1, 5]] = poses[[5, 1]]
    else:
        poses = invert(poses)
    auc_5, codes, num_registered = run(made, tmp_path, poses)
    assert auc_5 > 96
    assert codes == ("contradicting-known-cameras",)
    assert num_registered == 7


def test_an_error_without_the_cameras_names_their_file(tmp_path: Path) -> None:
    """Images that only rotate cannot be reconstructed, but the user expects that the file helps."""
    made = make_scene(poses=np.repeat(ring(1), 4, axis=0) @ _turns(4), num_points=300)
    with refused("no-baseline", FILE, "only rotating the camera"):
        run(made, tmp_path, with_random(made.T_world_camera, list(range(4))))


def _turns(count: int) -> Array:
    """Return rotations about the y axis, 4 degrees apart. (n, 4, 4)."""
    turns = np.tile(np.eye(4), (count, 1, 1))
    angles = np.radians(4) * np.arange(count)
    turns[:, :3, :3] = Rotation.from_rotvec(angles[:, None] * [0.0, 1.0, 0.0]).as_matrix()
    return turns
