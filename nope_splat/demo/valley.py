"""Shapes, textures and lighting of the demo scene, and their rendering by ray casting.

Boulders, a broken column, a leaning slab and a ring stand in a valley that is enclosed by slopes. Fractal
noise gives every surface a unique texture. Lighting and shadows do not depend on the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import trimesh
from numpy.typing import NDArray

from nope_splat.demo.lens import Rays
from nope_splat.demo.noise import Lattice, make_lattice, noise, noise_at
from nope_splat.utils.jit import cached_njit
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class Lighting:
    """Illumination of the demo scene: sunlight with cast shadows, and skylight."""

    sun: tuple[float, float, float] = (0.45, -0.55, 0.70)
    """Vector toward the sun in world coordinates (z up); its length has no effect."""
    sun_intensity: float = 0.75
    """Brightness that the sun adds to a surface perpendicular to the sun's rays; the color of a surface is
    multiplied by its total brightness."""
    sky_intensity: float = 0.32
    """Brightness that the sky adds to a vertical surface, in the unit of `sun_intensity`."""
    sky_gradient: float = 0.18
    """Additional brightness from the sky if a surface faces up instead of being vertical."""
    sky_color: tuple[float, float, float] = (0.55, 0.65, 0.75)
    """Color of pixels that show the sky, linear RGB in [0, 1]."""


@dataclass(frozen=True)
class Material:
    """Colors and texture scale of the surfaces of one material."""

    palette: tuple[tuple[float, float, float], ...]
    """Four linear RGB colors in [0, 1]: dark grain, base, light grain and patches."""
    frequency: tuple[float, float, float]
    """Number of periods of the coarsest noise octave per world unit, along x, y and z."""


MATERIALS = {
    "grass": Material(
        ((0.05, 0.07, 0.02), (0.17, 0.20, 0.06), (0.45, 0.42, 0.20), (0.36, 0.24, 0.12)), (1.7, 1.7, 1.7)
    ),
    "granite": Material(
        ((0.06, 0.06, 0.07), (0.32, 0.31, 0.30), (0.68, 0.66, 0.62), (0.20, 0.27, 0.10)), (2.6, 2.6, 2.6)
    ),
    "sandstone": Material(
        ((0.20, 0.09, 0.04), (0.50, 0.29, 0.15), (0.82, 0.62, 0.40), (0.30, 0.28, 0.26)), (1.6, 1.6, 6.0)
    ),
    "marble": Material(
        ((0.25, 0.25, 0.28), (0.62, 0.60, 0.56), (0.90, 0.88, 0.83), (0.45, 0.30, 0.18)), (2.2, 2.2, 3.5)
    ),
    "copper": Material(
        ((0.10, 0.05, 0.03), (0.42, 0.22, 0.12), (0.70, 0.45, 0.28), (0.16, 0.45, 0.38)), (3.0, 3.0, 3.0)
    ),
}
PALETTES = np.array([material.palette for material in MATERIALS.values()])
FREQUENCIES = np.array([material.frequency for material in MATERIALS.values()])


@cached_njit()
def _smoothstep(x: float, low: float, high: float) -> float:
    """Return 0 for `x` below `low`, 1 for `x` above `high`, and a smooth transition in between."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@cached_njit(parallel=True)
def _shade(
    origin: Array,
    directions: Array,
    spacing: float,
    faces: NDArray[np.int64],
    coordinates: Array,
    light: Array,
    materials: NDArray[np.int64],
    palettes: Array,
    frequencies: Array,
    sky: Array,
    lattice: Lattice,
) -> Array:
    """Compute the color that each ray sees where it hits the mesh of the scene.

    Args:
        origin: Common origin of the rays, in world coordinates. (3,).
        directions: Unit direction of each ray, in world coordinates. (N, 3).
        spacing: Angle between neighboring rays, in radians.
        faces: Index of the triangle that each ray hits; -1 if the ray hits none. (N,).
        coordinates: Affine functions of each triangle, from `_triangle_coordinates`. (F, 3, 4).
        light: Brightness at the three corners of each triangle. (F, 3).
        materials: Index of the material of each triangle. (F,).
        palettes: Four colors of each material, linear RGB (see `Material`). (M, 4, 3).
        frequencies: Texture frequency of each material along x, y and z (see `Material`). (M, 3).
        sky: Color of rays that hit no triangle, linear RGB. (3,).
        lattice: Random gradients of the noise, from `make_lattice`.

    Returns:
        Color of each ray, linear RGB. (N, 3).
    """
    colors = np.empty_like(directions)
    for n in numba.prange(len(directions)):
        if faces[n] < 0:
            colors[n] = sky
            continue
        plane, second, third = coordinates[faces[n]]
        ox, oy, oz = origin
        dx, dy, dz = directions[n]
        depth = -(plane[0] * ox + plane[1] * oy + plane[2] * oz + plane[3])
        depth /= plane[0] * dx + plane[1] * dy + plane[2] * dz
        px, py, pz = ox + depth * dx, oy + depth * dy, oz + depth * dz
        beta = second[0] * px + second[1] * py + second[2] * pz + second[3]
        gamma = third[0] * px + third[1] * py + third[2] * pz + third[3]
        at_first, at_second, at_third = light[faces[n]]
        brightness = (1.0 - beta - gamma) * at_first + beta * at_second + gamma * at_third

        material = materials[faces[n]]
        fx, fy, fz = frequencies[material]
        footprint = depth * spacing * max(fx, fy, fz)
        x, y, z = px * fx + 11.0 * material, py * fy, pz * fz
        grain, patch, tone = noise_at(x, y, z, footprint, 8, lattice)
        to_base, to_light = _smoothstep(grain, -0.9, 0.1), _smoothstep(grain, 0.0, 0.9)
        to_patch = _smoothstep(patch, 0.25, 0.6)
        for channel in range(3):
            dark, base, pale, spot = palettes[material, :, channel]
            color = dark + (base - dark) * to_base
            color += (pale - color) * to_light
            color += (spot - color) * to_patch
            colors[n, channel] = color * (1.0 + 0.35 * tone) * brightness
    return colors


def _triangle_coordinates(triangles: Array) -> Array:
    """Compute affine functions that give the position of a world point relative to each triangle.

    Args:
        triangles: World coordinates (x, y, z) of the three corners of each triangle. (F, 3, 3).

    Returns:
        Coefficients (for x, y, z and 1) of three functions per triangle: signed distance from the plane of
        the triangle, and barycentric coordinates of its second and third corner. (F, 3, 4).
    """
    a, b, c = triangles.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    twice_area = np.linalg.norm(normals, axis=1, keepdims=True)
    normals /= twice_area
    # Rows of the inverse of the matrix whose columns are two sides and the normal.
    to_second, to_third = np.cross(c - a, normals) / twice_area, np.cross(normals, b - a) / twice_area
    linear = np.stack([normals, to_second, to_third], axis=1)
    return np.concatenate([linear, -linear @ a[:, :, None]], axis=-1)


class DemoScene:
    """Triangle mesh of the demo scene, with a material per triangle and precomputed brightness."""

    def __init__(self, rng: np.random.Generator, lighting: Lighting) -> None:
        self.lighting = lighting
        self.lattice = make_lattice(rng)
        parts = [("grass", self._valley())]
        for material, center, radius, flattening in (
            ("granite", (-0.75, 0.45, 0.30), 0.62, 0.8),
            ("sandstone", (0.80, 0.75, 0.22), 0.48, 0.9),
            ("granite", (0.55, -0.70, 0.12), 0.30, 0.7),
            ("marble", (-0.60, -0.75, 0.10), 0.24, 0.9),
            ("sandstone", (-1.70, -0.30, 0.15), 0.36, 0.8),
            ("granite", (1.75, -0.25, 0.20), 0.42, 1.1),
            ("marble", (0.15, 1.75, 0.35), 0.65, 0.7),
        ):
            ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
            ball.apply_scale([1.0, rng.uniform(0.75, 1.0), flattening])
            ball.apply_transform(trimesh.transformations.rotation_matrix(rng.uniform(0.0, 6.28), [0, 0, 1]))
            ball.apply_translation(center)
            parts.append((material, self._displaced(ball, 0.35 * radius, 1.1 / radius)))
        column = trimesh.creation.cylinder(radius=0.21, height=1.9, sections=64)
        slab = trimesh.creation.box(extents=(0.9, 0.16, 1.3))
        ring = trimesh.creation.torus(0.36, 0.10, major_sections=96, minor_sections=32)
        for material, mesh, center, angles in (
            ("marble", column, (0.08, -0.02, 0.80), (0.06, -0.04, 0.3)),
            ("sandstone", slab, (-0.15, 1.0, 0.60), (-0.30, 0.10, 0.5)),
            ("copper", ring, (0.95, -0.15, 0.40), (1.25, 0.35, 0.2)),
        ):
            mesh = mesh.subdivide_to_size(0.04)
            assert isinstance(mesh, trimesh.Trimesh)
            mesh.apply_transform(trimesh.transformations.euler_matrix(*angles))
            mesh.apply_translation(center)
            parts.append((material, self._displaced(mesh, 0.02, 3.0)))

        names = list(MATERIALS)
        shapes = ((mesh.vertices, mesh.faces) for _, mesh in parts)
        self.mesh = trimesh.Trimesh(*trimesh.util.append_faces(*zip(*shapes, strict=True)), process=False)
        self.materials = np.concatenate([np.full(len(mesh.faces), names.index(name)) for name, mesh in parts])
        self.coordinates = _triangle_coordinates(np.array(self.mesh.triangles))
        self.light = self._bake_light()[self.mesh.faces]

    def _displaced(self, mesh: trimesh.Trimesh, amount: float, frequency: float) -> trimesh.Trimesh:
        """Displace the vertices of a mesh along their normals by fractal noise.

        `amount` is the displacement for a noise value of one, in world units; `frequency` is the number of
        periods of the coarsest octave per world unit.
        """
        vertices = np.array(mesh.vertices, dtype=np.float64)
        offsets = amount * noise(frequency * vertices, 4, self.lattice)[:, :1]
        return trimesh.Trimesh(vertices + offsets * mesh.vertex_normals, mesh.faces, process=False)

    def _valley(self) -> trimesh.Trimesh:
        """Build the mesh of the ground: a flat center that rises to slopes on all sides."""
        # The column covers the hole in the center.
        radii = np.concatenate([np.linspace(0.05, 3.0, 90), 3.0 * 1.015 ** np.arange(1, 110)])
        angles = np.linspace(0.0, 2 * np.pi, 480, endpoint=False)
        radius, angle = (grid.ravel() for grid in np.meshgrid(radii, angles, indexing="ij"))
        flat = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(radius)], axis=-1)
        bumps = noise(0.7 * flat, 6, self.lattice)[:, 0]
        cliffs = noise(0.35 * flat + 40.0, 6, self.lattice)[:, 1]
        slope = np.interp(radius, [3.2, 9.0], [0.0, 1.0]) ** 1.5
        height = (0.12 + 0.8 * slope) * bumps + slope * (6.5 + 2.5 * cliffs)
        ring, turn = np.meshgrid(np.arange(len(radii) - 1), np.arange(len(angles)), indexing="ij")
        near, following = ring * len(angles), (turn + 1) % len(angles)
        far = near + len(angles)
        quads = np.stack([near + turn, far + turn, far + following, near + following], axis=-1).reshape(-1, 4)
        faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        return trimesh.Trimesh(np.stack([flat[:, 0], flat[:, 1], height], axis=-1), faces, process=False)

    def _bake_light(self) -> Array:
        """Compute the brightness of each of the V mesh vertices from skylight, sunlight and shadows. (V,)."""
        lighting = self.lighting
        sun = np.array(lighting.sun) / np.linalg.norm(lighting.sun)
        normals = np.array(self.mesh.vertex_normals)
        above = self.mesh.vertices + 0.01 * normals
        in_sun = ~self.mesh.ray.intersects_any(above, np.broadcast_to(sun, above.shape))
        skylight = lighting.sky_intensity + lighting.sky_gradient * normals[:, 2]
        return skylight + lighting.sun_intensity * np.clip(normals @ sun, 0.0, None) * in_sun

    def render_image(
        self, T_world_camera: Array, rays: Rays, size: tuple[int, int], supersampling: int
    ) -> NDArray[np.uint8]:
        """Render the colors of the scene from a camera pose.

        Args:
            T_world_camera: Camera-to-world transform, OpenCV axes. (4, 4).
            rays: Viewing rays, `supersampling` x `supersampling` per pixel.
            size: Width and height of the image in pixels.
            supersampling: Number of rays per pixel along each axis.

        Returns:
            Image with gamma 2.2, uint8; rays that the lens does not show are black. (height, width, 3).
        """
        width, height = size
        directions = rays.directions @ T_world_camera[:3, :3].T
        origin = T_world_camera[:3, 3].copy()
        faces = self.mesh.ray.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        color = _shade(
            origin, directions, rays.spacing, faces, self.coordinates, self.light, self.materials, PALETTES,
            FREQUENCIES, np.array(self.lighting.sky_color), self.lattice,
        )  # fmt: skip
        color[~rays.is_shown] = 0.0
        color = color.reshape(height, supersampling, width, supersampling, 3).mean(axis=(1, 3))
        return np.round(255.0 * np.clip(color, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)

    def render_depth(self, T_world_camera: Array, rays: Rays, size: tuple[int, int]) -> NDArray[np.float32]:
        """Render the depth of the scene at the pixel centers.

        Args:
            T_world_camera: Camera-to-world transform, OpenCV axes. (4, 4).
            rays: Viewing rays of the pixel centers.
            size: Width and height of the image in pixels.

        Returns:
            Depth along the optical axis in world units; NaN for the sky and for rays that the lens does not
            show. (height, width).
        """
        directions = rays.directions @ T_world_camera[:3, :3].T
        origin = T_world_camera[:3, 3]
        faces = self.mesh.ray.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        planes = self.coordinates[faces, 0]
        with np.errstate(divide="ignore"):
            distance = -(planes[:, :3] @ origin + planes[:, 3]) / (planes[:, :3] * directions).sum(1)
        depth = np.where((faces >= 0) & rays.is_shown, distance * rays.directions[:, 2], np.nan)
        return depth.reshape(size[1], size[0]).astype(np.float32)
