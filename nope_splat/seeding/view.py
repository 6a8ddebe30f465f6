"""Downscaled images with their cameras for seeding, and the epipolar geometry of two such views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import NO_DISTORTION, Camera
from nope_splat.geometry.projection import project, unproject
from nope_splat.sfm import Reconstruction

Float32Array = NDArray[np.float32]

ReadImage = Callable[[int, tuple[int, int]], tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]
"""Function that reads an image as the camera `pinhole_camera` would have taken it, given the image's index
and the output size (width, height) in pixels. It returns RGB values (H, W, 3) and a mask (H, W) that is True
for valid pixels, or None instead of a mask if all pixels are valid."""


@dataclass(frozen=True)
class SeedingView:
    """Image with its intrinsics and pose, at the resolution of seeding."""

    image: NDArray[np.uint8]
    """RGB values. (H, W, 3)."""
    mask: NDArray[np.bool_]
    """True for pixels that may get seeds. (H, W)."""
    R_camera_world: NDArray[np.floating]
    """World-to-camera rotation, OpenCV axes. (3, 3)."""
    t_camera_world: NDArray[np.floating]
    """World-to-camera translation. (3,)."""
    focal: float
    """Focal length in pixels of `image`."""
    principal_point: NDArray[np.floating]
    """Principal point (x, y) in pixels of `image`. (2,)."""
    near_plane: float = 0.02
    """Minimum depth of a point in world units; nearer points are ignored. The median depth of the scene is
    one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def center(self) -> NDArray[np.floating]:
        """Camera center in world coordinates. (3,)."""
        return -self.R_camera_world.T @ self.t_camera_world

    def project(self, points: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Project world points to the image.

        Args:
            points: World coordinates. (P, 3).

        Returns:
            Pixel coordinates (P, 2), and depths in world units (P,). Pixel coordinates are valid only for
            depths beyond the near plane.
        """
        camera = points @ self.R_camera_world.T + self.t_camera_world
        xy = project(camera, self.focal, min_depth=self.near_plane) + self.principal_point
        return xy, camera[:, 2]

    def grid_cells(
        self, points: NDArray[np.floating], cell_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the grid cell that each world point projects to.

        Args:
            points: World coordinates. (P, 3).
            cell_size: Width and height of a cell in pixels.

        Returns:
            Indices of the K points that project into a cell (K,), and their cells as row and column (K, 2).
            Points in incomplete cells at the right and lower image border are omitted, and so are points
            nearer than the near plane.
        """
        xy, depth = self.project(points)
        rows, columns = self.shape[0] // cell_size, self.shape[1] // cell_size
        cell = np.floor(xy[:, ::-1] / cell_size).astype(np.int64)
        inside = (depth > self.near_plane) & (cell >= 0).all(1) & (cell < (rows, columns)).all(1)
        return np.flatnonzero(inside), cell[inside]

    def rays(self, xy: Float32Array) -> Float32Array:
        """Compute the rays of pixels, as points with z = 1 in camera coordinates. (..., 2) -> (..., 3)."""
        return unproject(xy - self.principal_point, self.focal).astype(np.float32)

    def unproject(self, xy: Float32Array, inverse_depth: Float32Array) -> NDArray[np.floating]:
        """Unproject pixels at given inverse depths to world points.

        Args:
            xy: Pixel coordinates. (K, 2).
            inverse_depth: Inverse depth of each pixel. (K,).

        Returns:
            World coordinates. (K, 3).
        """
        camera = self.rays(xy).astype(np.float64) / inverse_depth[:, None]
        return (camera - self.t_camera_world) @ self.R_camera_world


def pinhole_camera(camera: Camera) -> Camera:
    """Return the pinhole camera with the focal length and principal point of a camera.

    In images of fisheye lenses, it shows only the central part.

    Args:
        camera: Intrinsics, with any projection and distortion.
    """
    return replace(camera, distortion=NO_DISTORTION, is_fisheye=False)


def load_view(scene: Reconstruction, image_id: int, read: ReadImage, max_size: int) -> SeedingView:
    """Load a registered image with its camera, downscaled to a maximum size.

    Args:
        scene: The reconstruction, with undistorted cameras.
        image_id: Index of the image.
        read: Function that reads an undistorted image at a given size (see `ReadImage`).
        max_size: Maximum length of the longer side in pixels; smaller images are not resized.
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
    """Compute the coordinates (x, y) of the pixel centers of an image of shape (H, W). (H, W, 2)."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    return np.stack([x, y], axis=-1) + np.float32(0.5)


def sample_bilinear(image: NDArray, xy: Float32Array, outside: float | None = None) -> NDArray:
    """Sample an image at given pixel coordinates by bilinear interpolation.

    Args:
        image: Image (H, W) or (H, W, C), with at most four channels.
        xy: Pixel coordinates. (h, w, 2).
        outside: Value for coordinates outside the image; None for the value of the nearest border pixel.

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
    """Compute the epipolar line of each pixel of a view in a source view, parameterized by inverse depth.

    The scene point of a pixel at inverse depth s has the homogeneous coordinates `A + s b` in the source
    camera.

    Args:
        view: View of the pixels.
        source: Source view.
        xy: Pixel coordinates in `view`. (H, W, 2).

    Returns:
        A of each pixel (H, W, 3) and b of all pixels (3,), in camera coordinates of `source`.
    """
    rotation = source.R_camera_world @ view.R_camera_world.T
    translation = source.t_camera_world - rotation @ view.t_camera_world
    return view.rays(xy) @ rotation.T.astype(np.float32), translation.astype(np.float32)
