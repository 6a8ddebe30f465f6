"""Downsampled images with cameras for seeding, and the geometry between two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.projection import project, unproject
from nope_splat.sfm import Reconstruction

Float32Array = NDArray[np.float32]

ReadImage = Callable[[int, tuple[int, int]], tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]
"""Reads image `index` at `(width, height)`. Returns RGB (H, W, 3) and a mask of valid pixels (H, W) or
None."""


@dataclass(frozen=True)
class SeedingView:
    """Image, camera and pose at the resolution of seeding."""

    image: NDArray[np.uint8]
    """RGB. (H, W, 3)."""
    mask: NDArray[np.bool_]
    """True for pixels that may give seeds. (H, W)."""
    R_camera_world: NDArray[np.floating]
    """World-to-camera rotation, OpenCV axes. (3, 3)."""
    t_camera_world: NDArray[np.floating]
    """World-to-camera translation. (3,)."""
    focal: float
    """Focal length in pixels."""
    principal_point: NDArray[np.floating]
    """Principal point in pixels. (2,)."""
    near_plane: float = 0.02
    """Depth below which points are ignored. The scene's median depth is one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def center(self) -> NDArray[np.floating]:
        """Camera center in world coordinates. (3,)."""
        return -self.R_camera_world.T @ self.t_camera_world

    def project(self, points: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Project world points (P, 3) to pixels (P, 2) and depths (P,).

        Pixels are only meaningful where the depth exceeds the near plane.
        """
        camera = points @ self.R_camera_world.T + self.t_camera_world
        xy = project(camera, self.focal, min_depth=self.near_plane) + self.principal_point
        return xy, camera[:, 2]

    def grid_cells(
        self, points: NDArray[np.floating], cell_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the grid cell of `cell_size` pixels that each world point (P, 3) projects to.

        Returns:
            Indices of the K points that project into the grid (K,), and their cells (row, column) (K, 2).
        """
        xy, depth = self.project(points)
        rows, columns = self.shape[0] // cell_size, self.shape[1] // cell_size
        cell = np.floor(xy[:, ::-1] / cell_size).astype(np.int64)
        inside = (depth > self.near_plane) & (cell >= 0).all(1) & (cell < (rows, columns)).all(1)
        return np.flatnonzero(inside), cell[inside]

    def rays(self, xy: Float32Array) -> Float32Array:
        """Compute camera coordinates at depth one of pixels. (..., 2) -> (..., 3)."""
        return unproject(xy - self.principal_point, self.focal).astype(np.float32)

    def unproject(self, xy: Float32Array, inverse_depth: Float32Array) -> NDArray[np.floating]:
        """Unproject pixels (K, 2) at inverse depths (K,) to world points (K, 3)."""
        camera = self.rays(xy).astype(np.float64) / inverse_depth[:, None]
        return (camera - self.t_camera_world) @ self.R_camera_world


def load_view(scene: Reconstruction, image_id: int, read: ReadImage, max_size: int) -> SeedingView:
    """Load a registered image at limited resolution, with its camera.

    Args:
        scene: The reconstruction.
        image_id: Index of the image.
        read: Reads an image.
        max_size: Largest length of the longer side in pixels.
    """
    size = scene.image_sizes[image_id]
    scale = min(1.0, max_size / size.max())
    width, height = (max(1, round(side * scale)) for side in size.tolist())
    T_camera_world = np.linalg.inv(scene.T_world_camera[image_id])
    image, mask = read(int(image_id), (width, height))
    return SeedingView(
        image=np.ascontiguousarray(image),
        mask=np.ones((height, width), bool) if mask is None else mask,
        R_camera_world=T_camera_world[:3, :3],
        t_camera_world=T_camera_world[:3, 3],
        focal=scene.camera_of(image_id).focal * scale,
        principal_point=scene.camera_of(image_id).principal_points(size) * scale,
    )


def pixel_centers(shape: tuple[int, int]) -> Float32Array:
    """Compute the coordinates (x, y) of all pixel centers of an image (H, W). (H, W, 2)."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    return np.stack([x, y], axis=-1) + np.float32(0.5)


def sample_bilinear(image: NDArray, xy: Float32Array, outside: float | None = None) -> NDArray:
    """Sample an image at pixel coordinates by bilinear interpolation.

    Args:
        image: Image (H, W) or (H, W, C), with at most four channels.
        xy: Pixel coordinates. (h, w, 2).
        outside: Value outside the image; by default, the value of the nearest border pixel.

    Returns:
        Sampled values. (h, w) or (h, w, C).
    """
    index = xy - np.float32(0.5)
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    fill = (0.0 if outside is None else outside,) * 4
    return cv2.remap(
        image, index[..., 0], index[..., 1], cv2.INTER_LINEAR, borderMode=border, borderValue=fill
    )


def epipolar_lines(
    view: SeedingView, source: SeedingView, xy: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Compute the points in a source view that pixels may correspond to, as a function of inverse depth.

    A pixel's point at inverse depth s has the homogeneous coordinates `A + s b` in the source camera.

    Args:
        view: View of the pixels.
        source: Source view.
        xy: Pixel coordinates in `view`. (H, W, 2).

    Returns:
        A (H, W, 3) and b (3,), in camera coordinates of `source`.
    """
    rotation = source.R_camera_world @ view.R_camera_world.T
    translation = source.t_camera_world - rotation @ view.t_camera_world
    return view.rays(xy) @ rotation.T.astype(np.float32), translation.astype(np.float32)
