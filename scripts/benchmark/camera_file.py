"""File format of the cameras that a method has estimated, for later stages of the benchmark."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError

Poses = dict[str, NDArray[np.floating]]


def require_one_camera(data: Path, camera_ids: NDArray[np.int64]) -> None:
    """Check that all images share one camera, since the benchmarks support only one.

    Args:
        data: Folder of the images or file of the training, named in the error message.
        camera_ids: Index of the camera (intrinsics) of each image. (N,).

    Raises:
        NopeSplatError: If there are several cameras.
    """
    if camera_ids.any():
        raise NopeSplatError(
            "unsupported-scene",
            f"{data} has photos of several cameras, and the benchmarks support one; measure another scene,"
            " or use nope-splat compare-cameras and ns-eval",
        )


@dataclass(frozen=True)
class CameraFile:
    """Estimated cameras of a scene with a single camera. Pixels are those of the full-resolution images."""

    T_world_camera: Poses
    """Camera-to-world transforms (OpenCV axes) of the registered training images, by name. (4, 4) each."""
    held_out: Poses
    """Camera-to-world transforms (OpenCV axes) of the held-out images, by name, registered against the
    finished points. (4, 4) each."""
    focal: float
    """Focal length in pixels."""
    offset: tuple[float, float]
    """Principal point minus image center, (x, y) in pixels."""
    num_points: int = 0
    """Number of 3D points."""
    median_depth: float = 1.0
    """Median depth of the observed points, in world units."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time in seconds of each stage that led to these cameras, by name of the stage."""

    def save(self, path: Path) -> None:
        """Write the cameras to a JSON file. Missing folders are created.

        Args:
            path: Path of the file.
        """
        content = asdict(self)
        for name in ("T_world_camera", "held_out"):
            content[name] = {image: pose.tolist() for image, pose in getattr(self, name).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> CameraFile:
        """Read a JSON file that `save` has written.

        Args:
            path: Path of the file.
        """
        content = json.loads(path.read_text())
        for name in ("T_world_camera", "held_out"):
            content[name] = {image: np.array(pose) for image, pose in content[name].items()}
        return cls(**{**content, "offset": tuple(content["offset"])})
