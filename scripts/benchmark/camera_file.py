"""Store the cameras that a method has estimated, for later stages of the benchmark."""

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
        data: The images or the training, for the message.
        camera_ids: Which camera took each image. (N,).

    Raises:
        NopeSplatError: If there are several.
    """
    if camera_ids.any():
        raise NopeSplatError(
            "unsupported-scene",
            f"{data} has photos of several cameras, and the benchmarks know one; measure another scene,"
            " or use nope-splat compare-cameras and ns-eval",
        )


@dataclass(frozen=True)
class CameraFile:
    """Cameras of a scene; lengths in pixels are those of the full-resolution images."""

    T_world_camera: Poses
    """Registered training images: name to camera-to-world transform, OpenCV axes. (4, 4)."""
    held_out: Poses
    """The same for held-out images, which were registered against the finished points."""
    focal: float
    """Focal length."""
    offset: tuple[float, float]
    """Principal point minus image center."""
    num_points: int = 0
    """Number of 3D points."""
    median_depth: float = 1.0
    """Median depth of the observed points, in the units of the world."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage up to these cameras."""

    def save(self, path: Path) -> None:
        """Write as JSON; folders are created if missing.

        Args:
            path: File.
        """
        content = asdict(self)
        for name in ("T_world_camera", "held_out"):
            content[name] = {image: pose.tolist() for image, pose in getattr(self, name).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> CameraFile:
        """Read a file that `save` has written.

        Args:
            path: File.
        """
        content = json.loads(path.read_text())
        for name in ("T_world_camera", "held_out"):
            content[name] = {image: np.array(pose) for image, pose in content[name].items()}
        return cls(**{**content, "offset": tuple(content["offset"])})
