"""Test what is judged right and wrong, and what a user is said to learn from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from nope_splat.geometry.rigid import rigid
from nope_splat.io.cameras import NamedCamera
from nope_splat.utils.typing import Array
from scripts.reliability.image_set import KNOWN_CAMERAS, Family, ImageSet
from scripts.reliability.judge import GOOD, Accuracy, measure, notice_codes, verdict
from scripts.reliability.symmetric import ring

NAMES = [f"p{i}.jpg" for i in range(8)]
POSES = ring(8)
FOCAL_ONLY = "the photos hardly show the focal length, which seems to be 500 pixels"
PRAISE = "the photos show hardly more than one flat surface; still, they determine the focal length to 0.9 %"


def cameras(poses: list[Array], focal: float = 1.0) -> dict[str, NamedCamera]:
    return {name: NamedCamera(pose, focal) for name, pose in zip(NAMES, poses, strict=False)}


def accuracy(poses: list[Array], focal: float = 1.0, truth: list[Array] = POSES) -> Accuracy:
    result = measure(cameras(poses, focal), cameras(truth))
    assert result is not None
    return result


def in_another_frame(pose: Array) -> Array:
    """Turn, move and scale the world."""
    turn = Rotation.from_euler("xyz", [20, 50, 80], degrees=True).as_matrix()
    return rigid(turn @ pose[:3, :3], 0.3 * turn @ pose[:3, 3] + [5.0, 6.0, 7.0])


def test_true_cameras_in_another_frame_are_right() -> None:
    result = accuracy([in_another_frame(pose) for pose in POSES], focal=1.1)
    assert result.auc_5 == pytest.approx(100)
    assert result.ate == pytest.approx(0, abs=1e-9)
    assert result.focal_error == pytest.approx(10)
    assert result.wrong_images == result.wrong_rotations == ()


def test_permuted_cameras_are_wrong() -> None:
    result = accuracy([*POSES[:5], POSES[6], POSES[7], POSES[5]])
    assert result.wrong_rotations == result.wrong_images == tuple(NAMES[5:])
    assert result.auc_5 < 60


def test_a_shift_by_a_period_is_wrong_though_all_rotations_are_right() -> None:
    shifted = [
        pose if i < 5 else rigid(pose[:3, :3], pose[:3, 3] + [1, 0, 0]) for i, pose in enumerate(POSES)
    ]
    result = accuracy([in_another_frame(pose) for pose in shifted])
    assert result.wrong_rotations == ()
    assert result.wrong_images == tuple(NAMES[5:])


def test_images_left_out_count_in_one_of_the_two_figures() -> None:
    result = accuracy(POSES[:4])
    assert result.auc_5 == pytest.approx(100)
    assert result.auc_5_all == pytest.approx(100 * 6 / 28)


def test_images_at_one_place_are_judged_by_their_rotation() -> None:
    turned = rigid(POSES[0][:3, :3] @ Rotation.from_euler("y", 10, degrees=True).as_matrix(), POSES[0][:3, 3])
    truth = [*POSES[:6], POSES[0], turned]
    noise = 1e-6 * np.random.default_rng(0).normal(size=(8, 3))
    near = [rigid(pose[:3, :3], pose[:3, 3] + n) for pose, n in zip(truth, noise, strict=True)]
    assert accuracy(near, truth=truth).auc_5 == pytest.approx(100, abs=0.1)
    near[7] = near[6]
    assert accuracy(near, truth=truth).wrong_images == (NAMES[7],)


def judged(outcome: dict[str, Any], right: bool, family: Family = "stationary", honest: bool = False) -> str:
    image_set = ImageSet(
        "a", family, lambda folder, inputs: None, honest, known_cameras=family == "known-cameras"
    )
    poses = POSES if right else POSES[::-1]
    content = {"images": NAMES, "cameras": dict.fromkeys(NAMES), "notice": "", "notices": [], **outcome}
    return verdict(image_set, content, accuracy(poses), judged=True)


def coded(code: str) -> dict[str, Any]:
    return {"notices": [{"code": code, "message": "a sentence"}]}


@pytest.mark.parametrize(
    ("outcome", "right", "expected"),
    [
        ({}, True, "right"),
        (coded("stationary-pixels"), True, "right"),
        ({}, False, "wrong silently"),
        (coded("stationary-pixels"), False, "warned"),
        (coded("repeated-pattern"), False, "wrong, other notice"),
        ({"notice": FOCAL_ONLY}, False, "wrong, other notice"),
        ({"notice": PRAISE}, False, "wrong and praised"),
        ({"cameras": dict.fromkeys(NAMES[:3])}, True, "thin silently"),
        ({"cameras": dict.fromkeys(NAMES[:3]), **coded("weak-support")}, True, "right"),
        ({"refused": {"code": "no-baseline", "message": "turned"}}, False, "refused"),
        ({"crashed": "Traceback"}, False, "crashed"),
    ],
)
def test_verdicts_of_traps(outcome: dict[str, Any], right: bool, expected: str) -> None:
    assert judged(outcome, right) == expected


@pytest.mark.parametrize(
    ("outcome", "right", "expected"),
    [
        ({}, True, "right"),
        (coded("stationary-pixels"), True, "false notice"),
        ({"notice": PRAISE}, True, "false notice"),
        ({"cameras": dict.fromkeys(NAMES[:7])}, True, "lost images"),
        ({"refused": {"code": "no-baseline", "message": "turned"}}, True, "lost images"),
        ({}, False, "wrong silently"),
    ],
)
def test_verdicts_of_honest_sets(outcome: dict[str, Any], right: bool, expected: str) -> None:
    assert judged(outcome, right, honest=True) == expected


def test_the_cause_depends_on_the_family() -> None:
    notice = {"notice": FOCAL_ONLY}
    assert judged(notice, False, "numerics") == "warned"
    assert judged(notice, False, "repeated") == "wrong, other notice"
    assert notice_codes(notice) == ("uncertain-focal-length",)


def test_a_refusal_of_known_cameras_names_their_file() -> None:
    misleading = {"refused": {"code": "no-cameras", "message": "add photos with more overlap"}}
    assert judged(misleading, False, "known-cameras") == "misleading refusal"
    named = {"refused": {"code": "no-cameras", "message": f"the cameras in {KNOWN_CAMERAS} contradict"}}
    assert judged(named, False, "known-cameras") == "refused"
    assert "misleading refusal" not in GOOD
