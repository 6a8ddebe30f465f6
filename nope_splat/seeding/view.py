"""A registered image at the resolution of seeding, and the geometry between two of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.projection import project, unproject

Map = NDArray[np.float32]

NEAREST_DEPTH = 0.02
"""Points closer than this to a camera are ignored; the scene's median depth is one."""


@dataclass(frozen=True)
class View:
    """Image and camera of one image; pixels and focal length are those of the small image."""

    image: NDArray[np.uint8]
    """RGB. (H, W, 3)."""
    used: NDArray[np.bool_]
    """Pixels that may become seeds. (H, W)."""
    R_camera_world: NDArray[np.float64]
    """Rotation from world to camera, OpenCV axes. (3, 3)."""
    t_camera_world: NDArray[np.float64]
    """Translation from world to camera. (3,)."""
    focal: float
    """Focal length in pixels."""
    principal_point: NDArray[np.float64]
    """Pixel coordinates. (2,)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def center(self) -> NDArray[np.float64]:
        """Camera center in world coordinates. (3,)."""
        return -self.R_camera_world.T @ self.t_camera_world

    def project(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel coordinates (P, 2) and depths (P,) of world points (P, 3); only z > 0 is meaningful."""
        camera = points @ self.R_camera_world.T + self.t_camera_world
        xy = project(camera, self.focal, min_depth=NEAREST_DEPTH) + self.principal_point
        return xy, camera[:, 2]

    def cells(self, points: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which points fall into the image, and the grid cell (row, column) of `size` pixels they hit.

        Returns:
            Indices of the points inside (K,), and their cells (K, 2).
        """
        xy, depth = self.project(points)
        rows, columns = self.shape[0] // size, self.shape[1] // size
        cell = np.floor(xy[:, ::-1] / size).astype(np.int64)
        inside = (depth > NEAREST_DEPTH) & (cell >= 0).all(1) & (cell < (rows, columns)).all(1)
        return np.flatnonzero(inside), cell[inside]

    def rays(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Camera coordinates at depth one of pixels. (..., 2) to (..., 3)."""
        return unproject(xy - self.principal_point, self.focal).astype(np.float32)

    def unproject(self, xy: NDArray[np.float32], inverse_depth: NDArray[np.float32]) -> NDArray[np.float64]:
        """World points of pixels (K, 2) at the given inverse depths (K,)."""
        camera = self.rays(xy).astype(np.float64) / inverse_depth[:, None]
        return (camera - self.t_camera_world) @ self.R_camera_world


def pixel_centers(shape: tuple[int, int]) -> Map:
    """Coordinates (x, y) of every pixel's center. (H, W, 2)."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    return np.stack([x, y], axis=-1) + np.float32(0.5)


def sample(image: NDArray, xy: Map, outside: float | None = None) -> NDArray:
    """Bilinear look-up of an image at pixel coordinates.

    Args:
        image: (H, W) or (H, W, C) with at most four channels.
        xy: Pixel coordinates. (h, w, 2).
        outside: Value beyond the image's border; by default the border is repeated.

    Returns:
        (h, w) or (h, w, C).
    """
    index = xy - np.float32(0.5)
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    fill = (0.0 if outside is None else outside,) * 4
    return cv2.remap(
        image, index[..., 0], index[..., 1], cv2.INTER_LINEAR, borderMode=border, borderValue=fill
    )


def rays_in_other_view(view: View, other: View, xy: Map) -> tuple[Map, NDArray[np.float32]]:
    """The line on which a pixel's point lies in another camera: `A + s b` at inverse depth s, up to scale.

    Args:
        view: Where the pixels are.
        other: The camera whose coordinates are wanted.
        xy: Pixel coordinates in `view`. (H, W, 2).

    Returns:
        A (H, W, 3) and b (3,) in camera coordinates of `other`.
    """
    rotation = other.R_camera_world @ view.R_camera_world.T
    translation = other.t_camera_world - rotation @ view.t_camera_world
    return view.rays(xy) @ rotation.T.astype(np.float32), translation.astype(np.float32)
