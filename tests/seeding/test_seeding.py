"""Dense seeds: exact on planes, robust to outliers, and accurate on a surface known in closed form."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from nope_splat.depth import DepthMap
from nope_splat.geometry.camera import Camera
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.seeding import dense_seeds, seeds_from_depth
from nope_splat.seeding.depth_interpolation import interpolate_inverse_depth
from nope_splat.seeding.flow import merge_estimates
from nope_splat.seeding.view_selection import select_source_views
from nope_splat.sfm import Reconstruction

SIZE = (320, 240)
FOCAL = 300.0
STEP = 0.35
"""Height of the raised half of the synthetic surface."""


def surface_height(xy: np.ndarray) -> np.ndarray:
    """Height of the surface at (x, y): a floor at z = 0 and a table at z = STEP for x > 0.2."""
    return np.where(xy[..., 0] > 0.2, STEP, 0.0)


def texture(xy: np.ndarray, noise: np.ndarray) -> np.ndarray:
    index = ((xy + 4.0) * 64).astype(np.float32)
    return cv2.remap(noise, index[..., 0], index[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def downward_pose(center: np.ndarray) -> np.ndarray:
    """Camera-to-world transform of a camera at `center` that looks along -z, OpenCV axes, world z up."""
    T = np.eye(4)
    T[:3, :3] = np.diag([1.0, -1.0, -1.0])
    T[:3, 3] = center
    return T


@pytest.fixture(scope="module")
def scene_and_images():
    """Reconstruction and five images of a floor and a table, ray-cast in closed form."""
    rng = np.random.default_rng(0)
    octaves = [rng.uniform(0, 1, (512 // s, 512 // s, 3)).astype(np.float32) for s in (2, 4, 8, 16)]
    noise = sum(cv2.resize(octave, (512, 512), interpolation=cv2.INTER_CUBIC) for octave in octaves)
    noise = np.clip(noise / 4 * 255, 0, 255).astype(np.uint8)
    centers = np.array([[x, y, 1.2] for x, y in [(0, 0), (-0.2, 0.05), (0.2, 0), (0, 0.2), (0.05, -0.2)]])
    poses = np.stack([downward_pose(center) for center in centers])
    camera = Camera(FOCAL)
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = camera.unproject(np.stack([x, y], -1), np.array(SIZE)) * (1, -1, -1)
    images, on_surface = [], []
    for center in centers:
        table = center + rays * (center[2] - STEP)
        floor = center + rays * center[2]
        hit = np.where(table[..., :1] > 0.2, table, floor)
        images.append(texture(hit[..., :2], noise))
        on_surface.append(hit)

    image_ids, point_ids, observed_xy, points = [], [], [], []
    for hit in on_surface[:1]:
        for row, column in rng.integers((10, 10), (SIZE[1] - 10, SIZE[0] - 10), (400, 2)):
            point = hit[row, column]
            points.append(point)
            for image_id, pose in enumerate(poses):
                in_camera = (point - pose[:3, 3]) @ pose[:3, :3]
                xy = camera.project(in_camera, np.array(SIZE))
                if (xy > 0).all() and (xy < SIZE).all():
                    image_ids.append(image_id)
                    point_ids.append(len(points) - 1)
                    observed_xy.append(xy)
    no_observations = Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    scene = Reconstruction(
        image_names=tuple(f"{i}.png" for i in range(len(poses))),
        image_sizes=np.tile(SIZE, (len(poses), 1)),
        held_out=np.zeros(len(poses), bool),
        registered=np.ones(len(poses), bool),
        T_world_camera=poses,
        cameras=(camera,),
        camera_ids=np.zeros(len(poses), np.int64),
        points=np.array(points),
        colors=np.zeros((len(points), 3), np.uint8),
        observations=Observations(np.array(point_ids), np.array(image_ids), np.array(observed_xy)),
        noise=np.ones(len(point_ids)),
        resections=no_observations,
        failures={},
        graph=MatchGraph(5, np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)),
        seconds={},
    )
    return scene, images


def test_seeds_lie_on_the_surface(scene_and_images):
    scene, images = scene_and_images
    points, colors = dense_seeds(scene, lambda index, size: (images[index], None))
    assert len(points) == len(colors) > 2000
    # A point near the table's edge may belong to either level.
    far_from_edge = np.abs(points[:, 0] - 0.2) > 0.05
    error = np.abs(points[:, 2] - surface_height(points[:, :2]))[far_from_edge]
    assert np.median(error) < 0.002
    assert np.mean(error < 0.02) > 0.95


def test_seeds_cover_every_image(scene_and_images):
    scene, images = scene_and_images
    points, _ = dense_seeds(scene, lambda index, size: (images[index], None))
    for pose in scene.T_world_camera:
        in_camera = (points - pose[:3, 3]) @ pose[:3, :3]
        cells = np.floor(scene.cameras[0].project(in_camera, np.array(SIZE)) / 8).astype(int)
        inside = cells[((cells >= 0) & (cells < (40, 30))).all(1)]
        assert len(np.unique(inside, axis=0)) > 0.7 * 40 * 30


def test_seeds_have_the_color_of_the_image(scene_and_images):
    scene, images = scene_and_images
    points, colors = dense_seeds(scene, lambda index, size: (images[index], None))
    in_camera = (points - scene.T_world_camera[0, :3, 3]) @ scene.T_world_camera[0, :3, :3]
    xy = np.floor(scene.cameras[0].project(in_camera, np.array(SIZE))).astype(int)
    inside = (xy >= 2).all(1) & (xy < np.array(SIZE) - 2).all(1)
    sampled = cv2.blur(images[0], (3, 3))[xy[inside, 1], xy[inside, 0]]
    assert np.median(np.abs(sampled.astype(int) - colors[inside])) < 12


def test_masked_pixels_give_no_seeds(scene_and_images):
    scene, images = scene_and_images
    left_half = np.zeros(SIZE[::-1], bool)
    left_half[:, : SIZE[0] // 2] = True
    points, _ = dense_seeds(scene, lambda index, size: (images[index], left_half))
    on_left_half = np.zeros(len(points), bool)
    for pose in scene.T_world_camera:
        xy = scene.cameras[0].project((points - pose[:3, 3]) @ pose[:3, :3], np.array(SIZE))
        on_left_half |= xy[:, 0] <= SIZE[0] // 2
    assert len(points) > 1000
    assert on_left_half.all()


def test_correspondences_in_masked_pixels_are_ignored(scene_and_images):
    """All images but the first are masked except for their left halves."""
    scene, images = scene_and_images
    left_half = np.zeros(SIZE[::-1], bool)
    left_half[:, : SIZE[0] // 2] = True
    points, _ = dense_seeds(scene, lambda index, size: (images[index], None if index == 0 else left_half))
    unmasked_in_others = np.zeros(len(points), bool)
    for pose in scene.T_world_camera[1:]:
        xy = scene.cameras[0].project((points - pose[:3, 3]) @ pose[:3, :3], np.array(SIZE))
        unmasked_in_others |= xy[:, 0] <= SIZE[0] // 2 + 1
    assert len(points) > 1000
    assert unmasked_in_others.all()


def test_seeds_from_depth_have_scales_of_pixels_and_opacities_by_confidence(scene_and_images):
    """The maps have 2 % noise, holes, random scales, and three times the confidence in their left halves."""
    scene, images = scene_and_images
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = scene.cameras[0].unproject(np.stack([x, y], -1), np.array(SIZE)) * (1, -1, -1)
    confidence = np.where(x < SIZE[0] / 2, 6.0, 2.0).astype(np.float32)
    maps = {}
    for image_id, pose in enumerate(scene.T_world_camera):
        on_table = (pose[:3, 3] + rays * (pose[2, 3] - STEP))[..., 0] > 0.2
        depth = pose[2, 3] - STEP * on_table
        smooth = cv2.GaussianBlur(rng.standard_normal(depth.shape), (0, 0), 12)
        noise = 0.02 * smooth / smooth.std() + 0.005 * rng.standard_normal(depth.shape)
        values = np.exp(rng.normal(0, 0.5)) * depth * (1 + noise)
        values[rng.random(depth.shape) < 0.01] = np.nan
        maps[image_id] = DepthMap.of_whole_image(values.astype(np.float32), "metric", SIZE, confidence)
    seeds = seeds_from_depth(scene, scene.cameras, maps, lambda index, size: (images[index], None))
    assert len(seeds.points) == len(seeds.colors) > 3000
    far_from_edge = np.abs(seeds.points[:, 0] - 0.2) > 0.05
    error = np.abs(seeds.points[:, 2] - surface_height(seeds.points[:, :2]))[far_from_edge]
    assert np.median(error) < 0.02
    assert np.mean(error < 0.08) > 0.95
    # Half the width of a cell of four pixels, at a depth between the table and the floor.
    assert (seeds.scales > 0.9 * 2 * (1.2 - STEP) / FOCAL).all()
    assert (seeds.scales < 1.1 * 2 * 1.2 / FOCAL).all()
    assert set(np.round(seeds.opacities, 3)) <= {0.25, 0.5, 0.75}
    assert len(set(np.round(seeds.opacities, 3))) == 2


def test_depth_map_that_does_not_fit_gives_no_seeds(scene_and_images):
    scene, images = scene_and_images
    unknown = DepthMap.of_whole_image(np.full((24, 32), np.nan, np.float32), "metric", SIZE)
    seeds = seeds_from_depth(scene, scene.cameras, {0: unknown}, lambda index, size: (images[index], None))
    assert len(seeds.points) == len(seeds.scales) == 0


def test_interpolation_is_exact_on_a_plane_and_ignores_outliers():
    rng = np.random.default_rng(1)
    xy = rng.uniform((0, 0), (200, 100), (300, 2))
    inverse_depth = 0.5 + 0.002 * xy[:, 0] - 0.001 * xy[:, 1]
    inverse_depth[:10] *= 3
    result = interpolate_inverse_depth(xy, inverse_depth, (100, 200))
    x, y = np.meshgrid(np.arange(200) + 0.5, np.arange(100) + 0.5)
    truth = 0.5 + 0.002 * x - 0.001 * y
    inner = np.s_[15:85, 15:185]
    np.testing.assert_allclose(result[inner], truth[inner], atol=0.01)


def test_consistent_source_views_outvote_an_outlier():
    maps = np.array([[[1.0]], [[1.005]], [[2.0]]], np.float32)
    weights = np.array([[[1.0]], [[1.0]], [[50.0]]], np.float32)
    merged = merge_estimates(maps, weights, max_relative_difference=0.015)
    assert merged.num_consistent.item() == 2
    assert merged.values.item() == pytest.approx(1.0025)


def test_source_views_need_shared_points_and_parallax():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(100, 3)) * 0.1 + (0, 0, 1)
    centers = np.array([[0, 0, 0], [0.2, 0, 0], [1e-4, 0, 0], [0.2, 0.1, 0]], float)
    visibility = np.ones((4, 100), bool)
    visibility[3, 10:] = False
    source_views = select_source_views(centers, points, visibility, max_num_views=3)
    assert source_views[0].tolist()[0] == 1
    assert 3 not in source_views[0]
    assert len(source_views[3]) == 0
