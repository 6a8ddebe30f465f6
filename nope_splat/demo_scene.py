"""A small valley, ray-cast with embree: photographs whose cameras are known, for the demo and the tests.

Boulders, a broken column, a leaning slab and a ring stand in a valley whose slopes close the view on all
sides. Every surface carries fractal solid noise, so that no two places look alike; light and shadows do not
depend on the view. The cameras walk an uneven arc and look inward.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from nope_splat.errors import UserError

Array = NDArray[np.float64]

FIELD_OF_VIEW = 54.0
"""Angle in degrees that the longer side of a photograph spans."""
SUPERSAMPLING = 2
"""Rays per pixel and axis."""
SUN = np.array([0.45, -0.55, 0.70]) / np.linalg.norm([0.45, -0.55, 0.70])
"""Unit vector towards the sun."""


@dataclass(frozen=True)
class Material:
    """Colours and grain of a surface."""

    palette: tuple[tuple[float, float, float], ...]
    """Shadow, base, light and patch colour, linear RGB in 0..1."""
    frequency: tuple[float, float, float]
    """Grains per world unit along x, y and z in the coarsest octave."""


GRASS = Material(((0.05, 0.07, 0.02), (0.17, 0.20, 0.06), (0.45, 0.42, 0.20), (0.36, 0.24, 0.12)), (1.7, 1.7, 1.7))
GRANITE = Material(((0.06, 0.06, 0.07), (0.32, 0.31, 0.30), (0.68, 0.66, 0.62), (0.20, 0.27, 0.10)), (2.6, 2.6, 2.6))
SANDSTONE = Material(((0.20, 0.09, 0.04), (0.50, 0.29, 0.15), (0.82, 0.62, 0.40), (0.30, 0.28, 0.26)), (1.6, 1.6, 6.0))
MARBLE = Material(((0.25, 0.25, 0.28), (0.62, 0.60, 0.56), (0.90, 0.88, 0.83), (0.45, 0.30, 0.18)), (2.2, 2.2, 3.5))
COPPER = Material(((0.10, 0.05, 0.03), (0.42, 0.22, 0.12), (0.70, 0.45, 0.28), (0.16, 0.45, 0.38)), (3.0, 3.0, 3.0))


@numba.njit(parallel=True, cache=True)
def _fractal_noise(
    points: Array, footprints: Array, octaves: int, permutation: NDArray[np.int64], gradients: Array
) -> Array:
    """Three independent channels of gradient noise (Perlin 2002), summed over octaves.

    Octaves finer than two footprints fade out, so that distant surfaces do not alias.

    Args:
        points: Where to evaluate, in periods of the coarsest octave. (N, 3).
        footprints: Distance between neighbouring samples, in the same units. (N,).
        octaves: Number of octaves; each has twice the frequency and 0.6 times the amplitude of the last.
        permutation: A random permutation of 0..255.
        gradients: Random gradient vectors of each channel. (256, 3 channels, 3).

    Returns:
        Noise, roughly in -1..1. (N, 3).
    """
    noise = np.zeros((len(points), 3))
    for n in numba.prange(len(points)):
        scale = 1.0
        amplitude = 1.0
        for octave in range(octaves):
            visible = 2.0 - 4.0 * footprints[n] * scale
            if visible <= 0.0:
                break
            x = points[n, 0] * scale + 17.3 * octave
            y = points[n, 1] * scale + 5.7 * octave
            z = points[n, 2] * scale + 29.1 * octave
            ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            fx, fy, fz = x - ix, y - iy, z - iz
            sx = fx * fx * fx * (fx * (fx * 6.0 - 15.0) + 10.0)
            sy = fy * fy * fy * (fy * (fy * 6.0 - 15.0) + 10.0)
            sz = fz * fz * fz * (fz * (fz * 6.0 - 15.0) + 10.0)
            strength = amplitude * min(visible, 1.0)
            for corner in range(8):
                cx, cy, cz = corner & 1, (corner >> 1) & 1, corner >> 2
                cell = permutation[(permutation[(permutation[(ix + cx) & 255] + iy + cy) & 255] + iz + cz) & 255]
                weight = (sx if cx else 1.0 - sx) * (sy if cy else 1.0 - sy) * (sz if cz else 1.0 - sz) * strength
                for channel in range(3):
                    g = gradients[cell, channel]
                    noise[n, channel] += weight * (g[0] * (fx - cx) + g[1] * (fy - cy) + g[2] * (fz - cz))
            scale *= 2.0
            amplitude *= 0.6
    return noise


class _Noise:
    """Fractal solid noise with its own random lattice."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.permutation = rng.permutation(256)
        gradients = rng.normal(size=(256, 3, 3))
        self.gradients = 1.6 * gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)

    def __call__(self, points: Array, octaves: int, footprints: Array | None = None) -> Array:
        if footprints is None:
            footprints = np.zeros(len(points))
        return _fractal_noise(points, footprints, octaves, self.permutation, self.gradients)


def _smoothstep(x: Array, low: float, high: float) -> Array:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


class _Scene:
    """Triangles with a material each, and the light on them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.noise = _Noise(rng)
        self.materials = (GRASS, GRANITE, SANDSTONE, MARBLE, COPPER)
        parts = [(self._valley(), GRASS)]
        for center, radius, flattening, material in (
            ((-0.75, 0.45, 0.30), 0.62, 0.8, GRANITE),
            ((0.80, 0.75, 0.22), 0.48, 0.9, SANDSTONE),
            ((0.55, -0.70, 0.12), 0.30, 0.7, GRANITE),
            ((-0.60, -0.75, 0.10), 0.24, 0.9, MARBLE),
            ((-1.70, -0.30, 0.15), 0.36, 0.8, SANDSTONE),
            ((1.75, -0.25, 0.20), 0.42, 1.1, GRANITE),
            ((0.15, 1.75, 0.35), 0.65, 0.7, MARBLE),
        ):
            parts.append((self._boulder(rng, center, radius, flattening), material))
        column = trimesh.creation.cylinder(radius=0.21, height=1.9, sections=64)
        parts.append((self._worn(column, 0.02, (0.08, -0.02, 0.80), (0.06, -0.04, 0.3)), MARBLE))
        slab = trimesh.creation.box(extents=(0.9, 0.16, 1.3))
        parts.append((self._worn(slab, 0.02, (-0.15, 1.0, 0.60), (-0.30, 0.10, 0.5)), SANDSTONE))
        ring = trimesh.creation.torus(major_radius=0.36, minor_radius=0.10, major_sections=96, minor_sections=32)
        parts.append((self._worn(ring, 0.01, (0.95, -0.15, 0.40), (1.25, 0.35, 0.2)), COPPER))

        self.mesh = trimesh.util.concatenate([mesh for mesh, _ in parts])
        assert isinstance(self.mesh, trimesh.Trimesh)
        self.material_of_face = np.concatenate(
            [np.full(len(mesh.faces), self.materials.index(material)) for mesh, material in parts]
        )
        self.triangles = np.asarray(self.mesh.triangles)
        self.face_normals = np.asarray(self.mesh.face_normals)
        self.corner_normals = np.asarray(self.mesh.vertex_normals)[self.mesh.faces]

    def _displaced(self, mesh: trimesh.Trimesh, amount: float, frequency: float) -> trimesh.Trimesh:
        """Push the vertices along their normals by noise."""
        offsets = self.noise(frequency * np.asarray(mesh.vertices), 4)[:, :1]
        return trimesh.Trimesh(mesh.vertices + amount * offsets * mesh.vertex_normals, mesh.faces, process=False)

    def _boulder(self, rng: np.random.Generator, center, radius: float, flattening: float) -> trimesh.Trimesh:
        ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
        ball.apply_scale([1.0, rng.uniform(0.75, 1.0), flattening])
        ball.apply_transform(trimesh.transformations.rotation_matrix(rng.uniform(0, 6.28), [0, 0, 1]))
        ball.apply_translation(center)
        return self._displaced(ball, 0.35 * radius, 1.1 / radius)

    def _worn(self, mesh: trimesh.Trimesh, amount: float, center, angles) -> trimesh.Trimesh:
        mesh = mesh.subdivide_to_size(0.06)
        mesh.apply_transform(trimesh.transformations.euler_matrix(*angles))
        mesh.apply_translation(center)
        return self._displaced(mesh, amount, 3.0)

    def _valley(self) -> trimesh.Trimesh:
        """Ground that rises to slopes on all sides."""
        radius = np.concatenate([np.linspace(0.0, 3.0, 90), 3.0 * 1.015 ** np.arange(1, 110)])
        angle = np.linspace(0, 2 * np.pi, 480, endpoint=False)
        r, a = np.meshgrid(radius, angle, indexing="ij")
        x, y = r * np.cos(a), r * np.sin(a)
        flat = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
        bumps = self.noise(0.7 * flat, 6)[:, 0].reshape(x.shape)
        cliffs = self.noise(0.35 * flat + 40.0, 6)[:, 1].reshape(x.shape)
        slope = _smoothstep(r, 3.2, 9.0)
        z = (0.12 + 0.8 * slope) * bumps + slope * (5.5 + 2.5 * cliffs)
        i, j = np.meshgrid(np.arange(len(radius) - 1), np.arange(len(angle)), indexing="ij")
        near, far, turn = i * len(angle), (i + 1) * len(angle), (j + 1) % len(angle)
        quads = np.stack([near + j, far + j, far + turn, near + turn], axis=-1).reshape(-1, 4)
        faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        return trimesh.Trimesh(np.stack([x, y, z], axis=-1).reshape(-1, 3), faces, process=False)

    def trace(self, origins: Array, directions: Array, spacing: float) -> Array:
        """Colours along rays.

        Args:
            origins: Ray origins. (N, 3).
            directions: Unit ray directions. (N, 3).
            spacing: Angle between neighbouring rays, in radians.

        Returns:
            Linear RGB. (N, 3).
        """
        face = self.mesh.ray.intersects_first(origins, directions)
        normal = self.face_normals[face]
        depth = np.sum((self.triangles[face, 0] - origins) * normal, axis=1) / np.sum(directions * normal, axis=1)
        points = origins + depth[:, None] * directions
        color = self._albedo(points, depth * spacing, self.material_of_face[face])
        return color * self._light(points, face)[:, None]

    def _albedo(self, points: Array, footprints: Array, material_ids: NDArray[np.int64]) -> Array:
        colors = np.empty_like(points)
        for index, material in enumerate(self.materials):
            chosen = material_ids == index
            frequency = np.asarray(material.frequency)
            grain = self.noise(
                points[chosen] * frequency + 11.0 * index, 8, footprints[chosen] * frequency.max()
            )
            shadow, base, light, patch = np.asarray(material.palette)
            color = shadow + (base - shadow) * _smoothstep(grain[:, :1], -0.9, 0.1)
            color = color + (light - color) * _smoothstep(grain[:, :1], 0.0, 0.9)
            colors[chosen] = color + (patch - color) * _smoothstep(grain[:, 1:2], 0.25, 0.6)
            colors[chosen] *= 1.0 + 0.35 * grain[:, 2:]
        return colors

    def _light(self, points: Array, face: NDArray[np.int64]) -> Array:
        """Sun with cast shadows, and a sky that is brighter above."""
        normal = self._smooth_normal(points, face)
        open_to_sun = ~self.mesh.ray.intersects_any(points + 2e-3 * normal, np.broadcast_to(SUN, points.shape))
        return 0.32 + 0.18 * normal[:, 2] + 0.75 * np.clip(normal @ SUN, 0.0, None) * open_to_sun

    def _smooth_normal(self, points: Array, face: NDArray[np.int64]) -> Array:
        """Vertex normals, interpolated with barycentric coordinates."""
        a, b, c = self.triangles[face].transpose(1, 0, 2)
        twice_area = np.cross(b - a, c - a)
        norm = np.sum(twice_area**2, axis=1)
        v = np.sum(np.cross(points - a, c - a) * twice_area, axis=1) / norm
        w = np.sum(np.cross(b - a, points - a) * twice_area, axis=1) / norm
        weights = np.stack([1.0 - v - w, v, w], axis=1)
        normal = np.einsum("nk,nkd->nd", weights, self.corner_normals[face])
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _look_at(position: Array, target: Array) -> Array:
    """Camera-to-world transform (OpenCV axes) of a level camera."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose


def _arc_of_cameras(rng: np.random.Generator, num_photos: int) -> Array:
    """Cameras on an arc of 150 degrees around the valley, at uneven steps, distances, heights and tilts."""
    step = np.deg2rad(150.0) / max(num_photos - 1, 1)
    poses = []
    for index in range(num_photos):
        azimuth = -np.pi / 2 + step * (index - (num_photos - 1) / 2 + rng.uniform(-0.3, 0.3))
        distance, height = rng.uniform(2.9, 3.5), rng.uniform(0.7, 1.7)
        position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
        pose = _look_at(position, np.array([0.0, 0.2, 0.45]) + rng.uniform(-0.2, 0.2, 3))
        roll = trimesh.transformations.rotation_matrix(rng.uniform(-0.08, 0.08), [0.0, 0.0, 1.0])
        poses.append(pose @ roll)
    return np.stack(poses)


def _photograph(scene: _Scene, T_world_camera: Array, focal: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    width, height = size
    x = (np.arange(width * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - width / 2
    y = (np.arange(height * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - height / 2
    grid = np.stack([*np.meshgrid(x, y), np.full((len(y), len(x)), focal)], axis=-1).reshape(-1, 3)
    directions = grid / np.linalg.norm(grid, axis=1, keepdims=True) @ T_world_camera[:3, :3].T
    origins = np.broadcast_to(T_world_camera[:3, 3], directions.shape)
    color = scene.trace(origins, directions, 1.0 / (focal * SUPERSAMPLING))
    color = color.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return np.round(255.0 * np.clip(color, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)


def render_demo_scene(
    output_dir: Path, num_photos: int = 20, size: tuple[int, int] = (640, 480), seed: int = 0
) -> Path:
    """Photograph the valley.

    Writes `images/*.jpg`, in an order that tells nothing of the cameras, and `ground_truth.json` with the
    true cameras: for checks only, nothing reads it on the way from photographs to splat.

    Args:
        output_dir: Folder to write into; made where missing.
        num_photos: Number of photographs.
        size: Width and height in pixels.
        seed: The same seed gives the same photographs.

    Returns:
        The folder of the photographs.

    Raises:
        UserError: The folder cannot be written.
    """
    rng = np.random.default_rng(seed)
    scene = _Scene(rng)
    poses = rng.permutation(_arc_of_cameras(rng, num_photos))
    focal = max(size) / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
    frames = []
    try:
        (output_dir / "images").mkdir(parents=True, exist_ok=True)
        for index, pose in enumerate(poses):
            name = f"images/photo_{index:03d}.jpg"
            Image.fromarray(_photograph(scene, pose, focal, size)).save(output_dir / name, quality=95)
            frames.append({"file_path": name, "camera_to_world_opencv": pose.tolist()})
        truth = {
            "note": "true cameras, for checks only; OpenCV camera axes: x right, y down, z forward",
            "w": size[0],
            "h": size[1],
            "fl_x": focal,
            "fl_y": focal,
            "cx": size[0] / 2,
            "cy": size[1] / 2,
            "frames": frames,
        }
        (output_dir / "ground_truth.json").write_text(json.dumps(truth, indent=1))
    except OSError as error:
        raise UserError(f"cannot write the demo photographs to {output_dir}: {error.strerror or error}.") from error
    return output_dir / "images"
