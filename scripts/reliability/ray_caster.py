"""Renderer of textured rectangles by ray casting, with known cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from nope_splat.geometry.rigid import rigid, transform
from nope_splat.utils.typing import Array
from scripts.reliability.textures import Image, to_image

SKY = (150, 175, 200)
"""Color of pixels whose rays hit no surface, RGB from 0 to 255."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Quad:
    """Textured parallelogram, visible from both sides."""

    corner: Array
    """World position of the upper left corner of the texture. (3,)."""
    right: Array
    """Edge vector along the upper side of the texture, in world coordinates. (3,)."""
    down: Array
    """Edge vector along the left side of the texture, in world coordinates. (3,)."""
    texture: Image
    """Texture that covers the parallelogram."""


@dataclass(frozen=True)
class PinholeView:
    """Pinhole camera with the principal point in the image center, and noise of its images."""

    focal: float = 380.0
    """Focal length in pixels."""
    size: tuple[int, int] = (384, 288)
    """Width and height of the image in pixels."""
    supersampling: int = 2
    """Number of rays per pixel along each axis."""
    noise: float = 2.0
    """Standard deviation of the noise of each color channel, on a scale from 0 to 255."""


def quad(corner: ArrayLike, right: ArrayLike, down: ArrayLike, texture: Image) -> Quad:
    """Build a `Quad` from vectors of any type."""
    corner, right, down = (np.array(vector, dtype=np.float64) for vector in (corner, right, down))
    return Quad(corner, right, down, texture)


def box(center: Vector, half: Vector, textures: Sequence[Image]) -> list[Quad]:
    """Build the sides of an axis-aligned box, and optionally its top.

    Args:
        center: Center of the box in world coordinates, z up.
        half: Half of the box's extent along x, y and z.
        textures: Textures of the sides that face -y, +x, +y and -x; with a fifth texture, the box also gets a
            top.
    """
    (x, y, z), (a, b, h) = center, half
    down = (0, 0, -2 * h)
    sides = [
        quad((x - a, y - b, z + h), (2 * a, 0, 0), down, textures[0]),
        quad((x + a, y - b, z + h), (0, 2 * b, 0), down, textures[1]),
        quad((x + a, y + b, z + h), (-2 * a, 0, 0), down, textures[2]),
        quad((x - a, y + b, z + h), (0, -2 * b, 0), down, textures[3]),
    ]
    if len(textures) > 4:
        sides.append(quad((x - a, y + b, z + h), (2 * a, 0, 0), (0, -2 * b, 0), textures[4]))
    return sides


def look_at(center: Sequence[float], target: Sequence[float], roll: float = 0.0) -> Array:
    """Build the camera-to-world transform of an upright camera, OpenCV axes. (4, 4).

    Args:
        center: Position of the camera in world coordinates, z up.
        target: World position on the optical axis; must not be vertically above or below the camera.
        roll: Rotation about the optical axis in degrees.
    """
    forward = np.subtract(target, center) / np.linalg.norm(np.subtract(target, center))
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    upright = np.stack([right, np.cross(forward, right), forward], axis=1)
    rotation = upright @ Rotation.from_euler("z", roll, degrees=True).as_matrix()
    return rigid(rotation, np.array(center, dtype=np.float64))


def project(points: Array, T_world_camera: Array, view: PinholeView) -> Array:
    """Project points to pixels; the center of the first pixel is (0.5, 0.5). (N, 3) -> (N, 2).

    Args:
        points: Points in front of the camera, in world coordinates. (N, 3).
        T_world_camera: Camera-to-world transform, OpenCV axes. (4, 4).
        view: The camera.
    """
    in_camera = transform(np.linalg.inv(T_world_camera), points)
    return view.focal * in_camera[:, :2] / in_camera[:, 2:] + np.array(view.size) / 2


def render(quads: Sequence[Quad], T_world_camera: Array, view: PinholeView, seed: int = 0) -> Image:
    """Render an image of textured quads by ray casting.

    Args:
        quads: Surfaces of the scene.
        T_world_camera: Camera-to-world transform, OpenCV axes. (4, 4).
        view: Camera and noise.
        seed: Random seed of the noise.
    """
    (width, height), rays_per_pixel = view.size, view.supersampling
    x = ((np.arange(width * rays_per_pixel) + 0.5) / rays_per_pixel - width / 2) / view.focal
    y = ((np.arange(height * rays_per_pixel) + 0.5) / rays_per_pixel - height / 2) / view.focal
    grid = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], axis=-1)
    directions, origin = grid @ T_world_camera[:3, :3].T, T_world_camera[:3, 3]
    depth = np.full(directions.shape[:2], np.inf)
    colors = np.broadcast_to(np.array(SKY, dtype=np.float32), directions.shape).copy()
    for surface in quads:
        normal = np.cross(surface.right, surface.down)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = ((surface.corner - origin) @ normal) / (directions @ normal)
            offset = origin + distance[..., None] * directions - surface.corner
            across = offset @ surface.right / (surface.right @ surface.right)
            along = offset @ surface.down / (surface.down @ surface.down)
        hit = np.isfinite(distance) & (distance > 1e-6) & (distance < depth)
        hit &= (across >= 0) & (across < 1) & (along >= 0) & (along < 1)
        if hit.any():
            ray_spacing = float(np.median(distance[hit])) / view.focal / rays_per_pixel
            texture = _mip_level(surface, ray_spacing)
            colors[hit] = _sample(texture, across, along)[hit]
            depth[hit] = distance[hit]
    image = cv2.resize(colors, view.size, interpolation=cv2.INTER_AREA)
    return to_image(image + np.random.default_rng(seed).normal(0, view.noise, image.shape))


def _mip_level(surface: Quad, ray_spacing: float) -> Image:
    """Downscale a quad's texture such that a texel is about as large as the distance between rays.

    Args:
        surface: The quad.
        ray_spacing: Distance between neighboring rays on the surface, in world units.
    """
    texels = ray_spacing * surface.texture.shape[1] / float(np.linalg.norm(surface.right))
    texture = surface.texture
    for _ in range(max(0, round(np.log2(max(texels, 1.0))))):
        size = max(texture.shape[1] // 2, 1), max(texture.shape[0] // 2, 1)
        texture = np.asarray(cv2.resize(texture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return texture


def _sample(texture: Image, across: Array, along: Array) -> Image:
    """Interpolate a texture at coordinates in [0, 1]. (H, W), (H, W) -> (H, W, 3)."""
    height, width = texture.shape[:2]
    x, y = (across * width - 0.5).astype(np.float32), (along * height - 0.5).astype(np.float32)
    sampled = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, dtype=np.uint8)
