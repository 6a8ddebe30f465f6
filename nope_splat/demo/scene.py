"""A small valley, ray-cast with embree: images whose cameras are known, for the demo and the tests.

Boulders, a broken column, a leaning slab and a ring stand in a valley whose slopes close the view on all
sides. Every surface carries fractal solid noise, so that no two places look alike; light and shadows do not
depend on the view. The cameras walk an uneven arc and look inward, or tour the valley and look everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numba
import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from nope_splat.demo.noise import Lattice, make_lattice, noise, noise_at
from nope_splat.errors import NopeSplatError
from nope_splat.geometry.camera import SharedPinhole, undistort
from nope_splat.utils.jit import compiled
from nope_splat.utils.typing import Array

FIELD_OF_VIEW = 54.0
"""Angle in degrees that the longer side of an image spans, without distortion."""
SUPERSAMPLING = 2
"""Rays per pixel and axis."""
SUN = np.array([0.45, -0.55, 0.70]) / np.linalg.norm([0.45, -0.55, 0.70])
"""Unit vector toward the sun."""


@dataclass(frozen=True)
class Material:
    """Colors and grain of a surface."""

    palette: tuple[tuple[float, float, float], ...]
    """Dark, base, light and patch color, linear RGB in 0..1."""
    frequency: tuple[float, float, float]
    """Grains per world unit along x, y and z in the coarsest octave."""


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
SKY = np.array([0.55, 0.65, 0.75])


@compiled()
def _smoothstep(x: float, low: float, high: float) -> float:
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@compiled(parallel=True)
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
    """Colors where rays meet triangles.

    Args:
        origin: Common origin of the rays. (3,).
        directions: Unit directions. (N, 3).
        spacing: Angle between neighboring rays, in radians.
        faces: The triangle that each ray hits, -1 for none. (N,).
        coordinates: Affine functions of a point: distance from the plane of each triangle, and the
            barycentric coordinates of its second and third corner. (F, 3, 4).
        light: Light at the corners. (F, 3).
        materials: Material of each triangle. (F,).
        palettes: Colors of each material. (M, 4, 3).
        frequencies: Grain of each material. (M, 3).
        sky: Color where a ray hits nothing. (3,).
        lattice: What the noise is made of.

    Returns:
        Linear RGB. (N, 3).
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
            dark, base, pale, other = palettes[material, :, channel]
            color = dark + (base - dark) * to_base
            color += (pale - color) * to_light
            color += (other - color) * to_patch
            colors[n, channel] = color * (1.0 + 0.35 * tone) * brightness
    return colors


def _triangle_coordinates(triangles: Array) -> Array:
    """The affine functions that `_shade` reads. (F, 3, 3) to (F, 3, 4)."""
    a, b, c = triangles.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    twice_area = np.linalg.norm(normals, axis=1, keepdims=True)
    normals /= twice_area
    # The rows of the inverse of the frame that two sides and the normal span.
    to_second, to_third = np.cross(c - a, normals) / twice_area, np.cross(normals, b - a) / twice_area
    linear = np.stack([normals, to_second, to_third], axis=1)
    return np.concatenate([linear, -linear @ a[:, :, None]], axis=-1)


class _Scene:
    """Triangles with a material each, and the light on them."""

    def __init__(self, rng: np.random.Generator) -> None:
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
        self.light = self._light()[self.mesh.faces]

    def _displaced(self, mesh: trimesh.Trimesh, amount: float, frequency: float) -> trimesh.Trimesh:
        """Push the vertices along their normals by noise."""
        vertices = np.array(mesh.vertices, dtype=np.float64)
        offsets = amount * noise(frequency * vertices, 4, self.lattice)[:, :1]
        return trimesh.Trimesh(vertices + offsets * mesh.vertex_normals, mesh.faces, process=False)

    def _valley(self) -> trimesh.Trimesh:
        """Ground that rises to slopes on all sides."""
        # The column hides the hole in the middle.
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

    def _light(self) -> Array:
        """Sun with cast shadows and a sky that is brighter above, at the vertices. (V,)."""
        normals = np.array(self.mesh.vertex_normals)
        above = self.mesh.vertices + 0.01 * normals
        in_sun = ~self.mesh.ray.intersects_any(above, np.broadcast_to(SUN, above.shape))
        return 0.32 + 0.18 * normals[:, 2] + 0.75 * np.clip(normals @ SUN, 0.0, None) * in_sun

    def image(self, T_world_camera: Array, camera: SharedPinhole, size: tuple[int, int]) -> NDArray[np.uint8]:
        """One picture.

        Args:
            T_world_camera: Camera-to-world transform, OpenCV axes. (4, 4).
            camera: The camera, its principal point in the middle.
            size: Width and height in pixels.

        Returns:
            sRGB. (height, width, 3).
        """
        width, height = size
        grid = _grid(camera, size, SUPERSAMPLING)
        directions = grid / np.linalg.norm(grid, axis=1, keepdims=True) @ T_world_camera[:3, :3].T
        origin = T_world_camera[:3, 3].copy()
        faces = self.mesh.ray.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        color = _shade(
            origin, directions, 1.0 / (camera.focal * SUPERSAMPLING), faces, self.coordinates, self.light,
            self.materials, PALETTES, FREQUENCIES, SKY, self.lattice,
        )  # fmt: skip
        color = color.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, 3).mean(axis=(1, 3))
        return np.round(255.0 * np.clip(color, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)

    def depth(
        self, T_world_camera: Array, camera: SharedPinhole, size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """What is behind the centers of the pixels; arguments as for `image`.

        Returns:
            Depth along the optical axis, NaN where there is nothing. (height, width).
        """
        directions = _grid(camera, size) / camera.focal @ T_world_camera[:3, :3].T
        origin = T_world_camera[:3, 3]
        faces = self.mesh.ray.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        planes = self.coordinates[faces, 0]
        with np.errstate(divide="ignore"):
            depth = -(planes[:, :3] @ origin + planes[:, 3]) / (planes[:, :3] * directions).sum(1)
        return np.where(faces >= 0, depth, np.nan).reshape(size[1], size[0]).astype(np.float32)


def _grid(camera: SharedPinhole, size: tuple[int, int], density: int = 1) -> Array:
    """Directions, with z the focal length, through evenly spaced places in the pixels, row by row. (N, 3)."""
    x, y = ((np.arange(side * density) + 0.5) / density - side / 2 for side in size)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    if any(camera.radial):
        places = camera.focal * undistort(places / camera.focal, camera.radial)
    return np.column_stack([places, np.full(len(places), camera.focal)])


def _look_at(position: Array, target: Array) -> Array:
    """Camera-to-world transform (OpenCV axes) of a level camera."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose


def _arc_of_cameras(rng: np.random.Generator, num_images: int) -> Array:
    """Cameras on an arc of 150 degrees around the valley, at uneven steps, distances, heights and tilts."""
    step = np.deg2rad(150.0) / max(num_images - 1, 1)
    poses = []
    for index in range(num_images):
        azimuth = -np.pi / 2 + step * (index - (num_images - 1) / 2 + rng.uniform(-0.3, 0.3))
        distance, height = rng.uniform(2.9, 3.5), rng.uniform(0.7, 1.7)
        position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
        pose = _look_at(position, np.array([0.0, 0.2, 0.45]) + rng.uniform(-0.2, 0.2, 3))
        roll = trimesh.transformations.rotation_matrix(rng.uniform(-0.08, 0.08), [0.0, 0.0, 1.0])
        poses.append(pose @ roll)
    return np.stack(poses)


def _tour_of_cameras(rng: np.random.Generator, num_images: int) -> Array:
    """Cameras that walk twice around the valley: looking inward, turning round on the way, looking outward.

    Hundreds of images of it show a place as large as such a number is taken of: each overlaps with one
    in ten of the others, where on the arc it is two in three.
    """
    poses = []
    for index in range(num_images):
        along = (index + 0.5 + rng.uniform(-0.3, 0.3)) / num_images
        outward = np.interp(along, [0.375, 0.625], [0.0, 1.0])
        azimuth, turned = 4 * np.pi * along, np.pi * (1.0 + outward)
        distance = 3.3 - 0.5 * outward + rng.uniform(-0.2, 0.2)
        height = 1.2 + rng.uniform(-0.2, 0.2)
        position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
        heading = azimuth + turned + rng.uniform(-0.05, 0.05)
        slope = np.tan(-0.45 + 0.45 * outward + rng.uniform(-0.05, 0.05))
        direction: Array = np.array([np.cos(heading), np.sin(heading), slope])
        poses.append(_look_at(position, position + direction))
    return np.stack(poses)


def render_demo_scene(
    output_dir: Path,
    num_images: int = 20,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    path: Literal["arc", "tour"] = "arc",
    depth: bool = False,
    radial: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Image the valley.

    Writes `images/*.jpg`, in an order that tells nothing of the cameras, and `ground_truth.json` with the
    true cameras: for checks only, nothing reads it on the way from images to splat.

    Args:
        output_dir: Folder to write into; made where missing.
        num_images: Number of images.
        size: Width and height in pixels.
        seed: The same seed gives the same images.
        path: Where the cameras stand: on an arc around the middle, or along a tour of the whole valley, which
            wants fifty images or more.
        depth: Whether to write the true depth as well, `depth/*.npz` with the array `depth` (H, W).
        radial: Radial distortion k1 and k2 of the lens, as of `SharedPinhole`.

    Returns:
        The folder of the images.

    Raises:
        NopeSplatError: There is nothing to image, or the folder cannot be written.
    """
    if num_images < 1 or min(size) < 1 or seed < 0:
        raise NopeSplatError(
            "invalid-option",
            f"{num_images} photos of {size[0]} x {size[1]} pixels with seed {seed} cannot be made; give"
            " at least 1 of each and a seed from 0 on",
        )
    rng = np.random.default_rng(seed)
    scene = _Scene(rng)
    cameras = _arc_of_cameras if path == "arc" else _tour_of_cameras
    poses = rng.permutation(cameras(rng, num_images))
    camera = SharedPinhole(max(size) / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2), radial=radial)
    frames = []
    try:
        (output_dir / "images").mkdir(parents=True, exist_ok=True)
        for index, pose in enumerate(poses):
            name = f"images/photo_{index:03d}.jpg"
            Image.fromarray(scene.image(pose, camera, size)).save(output_dir / name, quality=95)
            frames.append({"file_path": name, "camera_to_world_opencv": pose.tolist()})
            if depth:
                (output_dir / "depth").mkdir(exist_ok=True)
                file = output_dir / "depth" / f"photo_{index:03d}.npz"
                np.savez_compressed(file, depth=scene.depth(pose, camera, size))
        truth = {
            "note": "true cameras, for checks only; OpenCV camera axes: x right, y down, z forward",
            "w": size[0],
            "h": size[1],
            "fl_x": camera.focal,
            "fl_y": camera.focal,
            "cx": size[0] / 2,
            "cy": size[1] / 2,
            "k1": radial[0],
            "k2": radial[1],
            "frames": frames,
        }
        (output_dir / "ground_truth.json").write_text(json.dumps(truth, indent=1))
    except OSError as error:
        reason = error.strerror or error
        raise NopeSplatError(
            "unwritable-output", f"cannot write the demo photos to {output_dir}: {reason}."
        ) from error
    return output_dir / "images"
