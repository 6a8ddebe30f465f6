"""Image sets with known cameras that are wrong in typical ways, and with correct known cameras."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from nope_splat.geometry.axes import OPENGL_FROM_OPENCV
from nope_splat.geometry.rigid import invert, nearest_rotation, rigid
from nope_splat.io.cameras import GroundTruth, read_ground_truth
from nope_splat.utils.typing import Array
from scripts.reliability.edited import make_valley
from scripts.reliability.image_set import KNOWN_CAMERAS, TRUTH, ImageSet, Inputs

Cameras = dict[str, Any]
"""Content of a `transforms.json` file: shared intrinsics, and `frames` with poses in OpenGL axes."""
Change = Callable[[Cameras], None]
"""Function that changes the content of a `transforms.json` file in place."""
PoseChange = Callable[[Array, int], Array]
"""Function that takes a camera-to-world transform (OpenGL axes) and the index of an image, and returns a
changed transform."""

NUM_IMAGES, SIZE = 8, (320, 240)
ANOTHER_SCENE = "another_scene"


def image_sets() -> list[ImageSet]:
    """Return all image sets of the family "known-cameras"."""
    y_to_z = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    mirror = np.diag([-1.0, 1, 1, 1])
    wrong: dict[str, Change] = {
        "opencv_axes": _each(lambda pose, _: pose @ OPENGL_FROM_OPENCV),
        "world_to_camera": _each(lambda pose, _: invert(pose)),
        "names_shifted": _shift_names,
        "two_photos_exchanged": _exchange,
        "line_unrotated": _line,
        "three_in_a_line_unrotated": partial(_line, num_frames=3),
        "y_and_z_exchanged": _each(lambda pose, _: y_to_z @ pose),
        "mirrored_x_axis": _each(lambda pose, _: pose @ mirror),
        "positions_rotated": _each(_rotate_position),
        "focal_of_half_the_size": lambda cameras: cameras.update(
            fl_x=cameras["fl_x"] / 2, fl_y=cameras["fl_y"] / 2
        ),
        "random": _each(_random_pose),
        "perturbed_by_10_degrees": _each(_perturb),
        "strong_distortion": lambda cameras: cameras.update(k1=0.5),
        "half_random": _each(lambda pose, i: pose if i % 2 else _random_pose(pose, i)),
    }
    right: dict[str, Change] = {
        "right": lambda cameras: None,
        "scale_1e-9": _each(lambda pose, _: rigid(pose[:3, :3], 1e-9 * pose[:3, 3])),
        "far_from_the_origin": _each(lambda pose, _: rigid(pose[:3, :3], pose[:3, 3] + [5e6, 4e6, 0])),
    }
    sets = [_known_set(name, change) for name, change in wrong.items()]
    sets.append(_known_set(ANOTHER_SCENE, right["right"]))
    return sets + [_known_set(name, change, honest=True) for name, change in right.items()]


def _known_set(name: str, change: Change, honest: bool = False) -> ImageSet:
    """Define a set of images of the demo scene, whose known cameras are changed true cameras."""

    def write(folder: Path, inputs: Inputs) -> None:
        source = make_valley(inputs, NUM_IMAGES, SIZE)
        shutil.copytree(source / "images", folder / "images")
        shutil.copy(source / TRUTH, folder)
        given = make_valley(inputs, NUM_IMAGES, SIZE, seed=1) if name == ANOTHER_SCENE else source
        cameras = to_transforms(read_ground_truth(given / TRUTH))
        change(cameras)
        (folder / KNOWN_CAMERAS).write_text(json.dumps(cameras))

    return ImageSet(f"given_{name}", "known-cameras", write, honest, known_cameras=True, max_keypoints=1500)


def to_transforms(truth: GroundTruth) -> Cameras:
    """Convert true cameras to the content of a `transforms.json` file.

    Args:
        truth: The true cameras.
    """
    width, height = truth.size
    return {
        "w": width,
        "h": height,
        "fl_x": truth.focal,
        "fl_y": truth.focal,
        "cx": width / 2,
        "cy": height / 2,
        "frames": [
            {"file_path": f"images/{name}", "transform_matrix": (pose @ OPENGL_FROM_OPENCV).tolist()}
            for name, pose in sorted(truth.T_world_camera.items())
        ],
    }


def _each(change: PoseChange) -> Change:
    """Create a change of all poses from a change of one pose."""

    def changed(cameras: Cameras) -> None:
        for index, frame in enumerate(cameras["frames"]):
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"]), index).tolist()

    return changed


def _shift_names(cameras: Cameras) -> None:
    """Assign the pose of the next image to every image."""
    poses = deepcopy([frame["transform_matrix"] for frame in cameras["frames"]])
    for frame, pose in zip(cameras["frames"], poses[1:] + poses[:1], strict=True):
        frame["transform_matrix"] = pose


def _exchange(cameras: Cameras) -> None:
    """Exchange the poses of the images with index 3 and 6."""
    first, second = cameras["frames"][3], cameras["frames"][6]
    poses = second["transform_matrix"], first["transform_matrix"]
    first["transform_matrix"], second["transform_matrix"] = poses


def _line(cameras: Cameras, num_frames: int | None = None) -> None:
    """Place all cameras on a line, without rotation.

    Args:
        cameras: Content of a `transforms.json` file, changed in place.
        num_frames: Number of cameras that are kept; None to keep all.
    """
    _each(lambda _, index: rigid(np.eye(3), np.array([float(index), 0, 0])))(cameras)
    cameras["frames"] = cameras["frames"][:num_frames]


def _rotate_position(pose: Array, _: int) -> Array:
    """Rotate the camera position by 90 degrees about the world's z axis, without rotating the camera."""
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    return rigid(pose[:3, :3], quarter @ pose[:3, 3])


def _random_pose(_: Array, index: int) -> Array:
    rng = np.random.default_rng(index)
    return rigid(nearest_rotation(rng.normal(size=(3, 3))), rng.normal(size=3))


def _perturb(pose: Array, index: int) -> Array:
    """Rotate a camera by about 10 degrees, and move it by about a fifth of its distance to the scene."""
    turn = Rotation.from_rotvec(np.random.default_rng(index).normal(0, 0.1, 3)).as_matrix()
    move = np.random.default_rng(index + 99).normal(0, 0.8, 3)
    return rigid(pose[:3, :3] @ turn, pose[:3, 3] + move)
