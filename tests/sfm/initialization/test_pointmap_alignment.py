"""Focal length, depth and cameras from pointmaps with noise, outliers, holes and random scales.

The errors of the simulated network are 2 % of the depth along the rays and 1 % across. They are mostly
smooth, so that averaging over pixels does not remove them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.pointmap_scene import CAMERA, SIZE, FakeNetwork, gray_images, ray_cast
from fixtures.synthetic import ring
from numpy.typing import NDArray

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.images import ImageFile, ImageFolder
from nope_splat.matching import MatchingSettings, PairPointmaps, Pointmaps, dust3r
from nope_splat.matching.database import load_or_match, matches_key
from nope_splat.matching.dust3r import NetworkInput
from nope_splat.sfm import SfmOptions, reconstruct
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.focal import joint_focal_starts
from nope_splat.sfm.initialization.pointmap_alignment import align_pointmaps
from nope_splat.sfm.initialization.pointmap_fusion import (
    fuse_pointmap_depths,
    pointmap_focal,
    pointmap_focals,
    weiszfeld_focal,
)
from nope_splat.sfm.mapper_options import FocalEstimationOptions, IntrinsicsPriorOptions, MapperOptions
from nope_splat.utils.cache import Cache

Array = NDArray[np.floating]
POSES = ring(6, 70.0)
MIN_FOCAL_SIGMA = FocalEstimationOptions.min_log_focal_sigma
MAX_FOCAL_SIGMA = IntrinsicsPriorOptions.log_focal_sigma


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ImageFile], Pointmaps]:
    """Images, two of them in portrait format, and the cached pointmaps of all pairs."""
    folder = tmp_path_factory.mktemp("images")
    images = gray_images(folder, len(POSES), upright=(1, 4))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
        monkeypatch.setattr(dust3r, "predict", FakeNetwork(POSES, noise=0.02, across=0.01).predict)
        cache, settings = Cache(folder / "cache"), MatchingSettings(matcher="dust3r")
        whole = ImageFolder(folder, tuple(images), {})
        key = matches_key(whole, settings)
        fresh, stored = (load_or_match(whole, settings, cache, key) for _ in range(2))
    assert fresh.pointmaps is not None
    assert stored.pointmaps is not None
    for pair, cached in zip(fresh.pointmaps.pairs, stored.pointmaps.pairs, strict=True):
        assert (pair.first, pair.second) == (cached.first, cached.second)
        for name in ("points", "confidence"):
            for actual, expected in zip(getattr(cached, name), getattr(pair, name), strict=True):
                np.testing.assert_array_equal(actual, expected)
    return images, stored.pointmaps


def sizes(images: Sequence[ImageFile]) -> NDArray[np.int64]:
    return np.array([(image.width, image.height) for image in images])


def test_weiszfeld_finds_the_focal_length_among_outliers() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -1, 2), (1, 1, 4), (400, 3))
    xy = 300 * points[:, :2] / points[:, 2:] + rng.normal(0, 0.5, (400, 2))
    xy[:80] = rng.uniform(-150, 150, (80, 2))
    assert weiszfeld_focal(xy, points, np.ones(400)) == pytest.approx(300, rel=0.01)


def test_pairs_agree_on_the_focal_length(prediction: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = prediction
    estimate = pointmap_focal(pointmaps, sizes(images), SIZE[0])
    assert estimate.is_certain
    assert estimate.focal == pytest.approx(CAMERA.focal, rel=0.03)
    no_evidence = pointmap_focal(pointmaps.without(np.ones(len(images), bool)), sizes(images), SIZE[0])
    assert not no_evidence.is_certain
    assert no_evidence.sigma == MAX_FOCAL_SIGMA


def test_focal_length_sigma_is_the_scatter_of_the_pairs(
    prediction: tuple[list[ImageFile], Pointmaps],
) -> None:
    images, pointmaps = prediction
    assert pointmap_focal(pointmaps, sizes(images), SIZE[0]).sigma == MIN_FOCAL_SIGMA  # they agree
    rng = np.random.default_rng(0)

    def scaled(pair: PairPointmaps) -> PairPointmaps:
        points = pair.points[0].copy()
        points[..., :2] *= np.exp(rng.normal(0, 0.2))
        return replace(pair, points=(points, pair.points[1]))

    scattered = replace(pointmaps, pairs=tuple(map(scaled, pointmaps.pairs)))
    assert pointmap_focal(scattered, sizes(images), SIZE[0]).sigma == pytest.approx(0.2, rel=0.4)


def test_each_camera_gets_the_focal_length_of_its_images(
    prediction: tuple[list[ImageFile], Pointmaps],
) -> None:
    images, pointmaps = prediction
    camera_ids = np.array([0, 1, 0, 0, 1, 0])  # upright ones are another camera
    pixel_sizes, turns = np.array([2.0, 1.0, 2.0, 2.0, 1.0, 2.0]), np.tile(np.eye(2), (6, 1, 1))
    camera_groups = CameraGroups(sizes(images), camera_ids, pixel_sizes, turns)

    def longer(pair: PairPointmaps) -> PairPointmaps:
        points = pair.points[0].copy()
        points[..., :2] /= 1.5
        return pair if camera_ids[pair.first] == 0 else replace(pair, points=(points, pair.points[1]))

    pairs = tuple(map(longer, pointmaps.pairs))
    first, second = pointmap_focals(replace(pointmaps, pairs=pairs), camera_groups)
    assert first.focal == pytest.approx(CAMERA.focal / 2, rel=0.03)
    assert second.focal == pytest.approx(1.5 * CAMERA.focal, rel=0.03)
    ((start_first, start_second),) = joint_focal_starts([first, second])
    assert (start_first, start_second) == (first.focal, second.focal)


def test_pointmap_prior_constrains_the_focal_length_of_two_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images determine it so poorly that bundle adjustment without the prior fits the track noise."""
    poses = ring(2, 15.0)
    folder = ImageFolder(tmp_path, tuple(gray_images(tmp_path, 2)), {})
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    matching = MatchingSettings(matcher="dust3r")
    focals = []
    for min_sigma in (MIN_FOCAL_SIGMA, MAX_FOCAL_SIGMA):
        mapper = MapperOptions(focal=FocalEstimationOptions(min_log_focal_sigma=min_sigma))
        monkeypatch.setattr(dust3r, "predict", FakeNetwork(poses, noise=0.02).predict)
        scene = reconstruct(folder, options=SfmOptions(matching, mapper))
        assert scene.registered.all()
        focals.append(scene.cameras[0].focal)
    with_prior, without_prior = np.abs(np.log(np.array(focals) / CAMERA.focal))
    assert with_prior < 0.02
    assert without_prior > 2 * with_prior


def test_fused_depth_matches_the_true_depth(
    prediction: tuple[list[ImageFile], Pointmaps], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, pointmaps = prediction
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    depths = fuse_pointmap_depths(pointmaps)
    assert sorted(depths) == list(range(len(images)))
    for index, depth_map in depths.items():
        view, pose = NetworkInput.from_image(images[index]), POSES[index]
        world = ray_cast(pose, images[index], view)
        # Pixel centers of the map are pixel centers of the view.
        column, row = np.moveaxis(depth_map.pixel_centers() / view.scale - view.crop_offset, -1, 0)
        np.testing.assert_allclose(column % 1, 0.5, atol=1e-9)
        true = ((world[row.astype(int), column.astype(int)] - pose[:3, 3]) @ pose[:3, :3])[..., 2]
        ratio = depth_map.values / true
        known = np.isfinite(ratio)
        assert known.mean() > 0.7
        assert np.median(np.abs(ratio[known] / np.median(ratio[known]) - 1)) < 0.015


def test_alignment_recovers_all_poses(prediction: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = prediction
    cameras = align_pointmaps(
        pointmaps, sizes(images), pointmap_focal(pointmaps, sizes(images), SIZE[0]).focal
    )
    assert cameras is not None
    assert cameras.image_ids.tolist() == list(range(len(images)))
    poses = {
        str(image_id): pose for image_id, pose in zip(cameras.image_ids, cameras.T_world_camera, strict=True)
    }
    truth = {str(image_id): pose for image_id, pose in enumerate(POSES)}
    assert compare_poses(poses, truth).auc_5 > 75


def test_excluded_images_get_no_pose(prediction: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = prediction
    excluded = np.arange(len(images)) == 2
    cameras = align_pointmaps(pointmaps.without(excluded), sizes(images), CAMERA.focal)
    assert cameras is not None
    assert cameras.image_ids.tolist() == [0, 1, 3, 4, 5]
    assert align_pointmaps(pointmaps.without(np.arange(len(images)) > 0), sizes(images), 400.0) is None
