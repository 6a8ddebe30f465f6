"""Focal length, depth and cameras from pointmaps with noise, outliers, holes and a unit for each pair.

The scene is known; the network's errors are 2 % of the depth along the rays and 1 % across, smooth for the
most part, so that no amount of pixels averages them away.
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
from nope_splat.sfm.initialization import pointmap_fusion as canonical
from nope_splat.sfm.initialization.focal import joint_starts
from nope_splat.sfm.initialization.pointmap_alignment import align_pointmaps
from nope_splat.sfm.initialization.pointmap_fusion import (
    MIN_FOCAL_SIGMA,
    fuse_pointmap_depths,
    pointmap_focal,
    pointmap_focals,
    weiszfeld_focal,
)
from nope_splat.sfm.state import LOG_FOCAL_SIGMA
from nope_splat.utils.cache import Cache

Array = NDArray[np.float64]
POSES = ring(6, 70.0)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ImageFile], Pointmaps]:
    """Images, two of them upright, and what the network says of all pairs, by way of the cache."""
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
    for one, other in zip(fresh.pointmaps.pairs, stored.pointmaps.pairs, strict=True):
        assert (one.first, one.second) == (other.first, other.second)
        for name in ("points", "confidence"):
            for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    return images, stored.pointmaps


def sizes(images: Sequence[ImageFile]) -> NDArray[np.int64]:
    return np.array([(image.width, image.height) for image in images])


def test_weiszfeld_finds_the_focal_length_among_outliers() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -1, 2), (1, 1, 4), (400, 3))
    xy = 300 * points[:, :2] / points[:, 2:] + rng.normal(0, 0.5, (400, 2))
    xy[:80] = rng.uniform(-150, 150, (80, 2))
    assert weiszfeld_focal(xy, points, np.ones(400)) == pytest.approx(300, rel=0.01)


def test_pairs_agree_about_the_focal_length(said: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = said
    estimate = pointmap_focal(pointmaps, sizes(images), SIZE[0])
    assert estimate.certain
    assert estimate.focal == pytest.approx(CAMERA.focal, rel=0.03)
    nothing = pointmap_focal(pointmaps.without(np.ones(len(images), bool)), sizes(images), SIZE[0])
    assert not nothing.certain
    assert nothing.sigma == LOG_FOCAL_SIGMA


def test_the_spread_of_the_focal_length_is_that_of_the_pairs(said: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = said
    assert pointmap_focal(pointmaps, sizes(images), SIZE[0]).sigma == MIN_FOCAL_SIGMA  # they agree
    rng = np.random.default_rng(0)

    def scaled(pair: PairPointmaps) -> PairPointmaps:
        points = pair.points[0].copy()
        points[..., :2] *= np.exp(rng.normal(0, 0.2))
        return replace(pair, points=(points, pair.points[1]))

    scattered = replace(pointmaps, pairs=tuple(map(scaled, pointmaps.pairs)))
    assert pointmap_focal(scattered, sizes(images), SIZE[0]).sigma == pytest.approx(0.2, rel=0.4)


def test_each_camera_has_the_focal_length_of_its_own_images(
    said: tuple[list[ImageFile], Pointmaps],
) -> None:
    images, pointmaps = said
    camera_ids = np.array([0, 1, 0, 0, 1, 0])  # upright ones are another camera
    layout = CameraGroups(sizes(images), camera_ids, np.array([2.0, 1.0, 2.0, 2.0, 1.0, 2.0]))

    def longer(pair: PairPointmaps) -> PairPointmaps:
        points = pair.points[0].copy()
        points[..., :2] /= 1.5
        return pair if camera_ids[pair.first] == 0 else replace(pair, points=(points, pair.points[1]))

    pairs = tuple(map(longer, pointmaps.pairs))
    first, second = pointmap_focals(replace(pointmaps, pairs=pairs), layout)
    assert first.focal == pytest.approx(CAMERA.focal / 2, rel=0.03)
    assert second.focal == pytest.approx(1.5 * CAMERA.focal, rel=0.03)
    ((start_first, start_second),) = joint_starts([first, second])
    assert (start_first, start_second) == (first.focal, second.focal)


def test_two_images_keep_to_the_focal_length_of_the_pointmaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images determine it so badly that adjustment alone would follow the errors of the tracks."""
    poses = ring(2, 15.0)
    folder = ImageFolder(tmp_path, tuple(gray_images(tmp_path, 2)), {})
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    options = SfmOptions(MatchingSettings(matcher="dust3r"))
    focals = []
    for spread in (MIN_FOCAL_SIGMA, LOG_FOCAL_SIGMA):
        monkeypatch.setattr(canonical, "MIN_FOCAL_SIGMA", spread)
        monkeypatch.setattr(dust3r, "predict", FakeNetwork(poses, noise=0.02).predict)
        scene = reconstruct(folder, options=options)
        assert scene.registered.all()
        focals.append(scene.cameras[0].focal)
    with_spread, without = np.abs(np.log(np.array(focals) / CAMERA.focal))
    assert with_spread < 0.02
    assert without > 2 * with_spread


def test_canonical_depth_is_that_of_the_image(
    said: tuple[list[ImageFile], Pointmaps], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, pointmaps = said
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    depths = fuse_pointmap_depths(pointmaps)
    assert sorted(depths) == list(range(len(images)))
    for index, depth_map in depths.items():
        view, pose = NetworkInput.from_image(images[index]), POSES[index]
        world = ray_cast(pose, images[index], view)
        # Places of the map fall on pixel centers of the view.
        column, row = np.moveaxis(depth_map.pixel_centers() / view.scale - view.crop_offset, -1, 0)
        np.testing.assert_allclose(column % 1, 0.5, atol=1e-9)
        true = ((world[row.astype(int), column.astype(int)] - pose[:3, 3]) @ pose[:3, :3])[..., 2]
        ratio = depth_map.values / true
        known = np.isfinite(ratio)
        assert known.mean() > 0.7
        assert np.median(np.abs(ratio[known] / np.median(ratio[known]) - 1)) < 0.015


def test_alignment_brings_all_pairs_into_one_world(said: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = said
    given = align_pointmaps(pointmaps, sizes(images), pointmap_focal(pointmaps, sizes(images), SIZE[0]).focal)
    assert given is not None
    assert given.image_ids.tolist() == list(range(len(images)))
    found = {
        str(image_id): pose for image_id, pose in zip(given.image_ids, given.T_world_camera, strict=True)
    }
    truth = {str(image_id): pose for image_id, pose in enumerate(POSES)}
    print(compare_poses(found, truth))
    assert compare_poses(found, truth).auc_5 > 75


def test_images_left_out_have_no_say(said: tuple[list[ImageFile], Pointmaps]) -> None:
    images, pointmaps = said
    left_out = np.arange(len(images)) == 2
    given = align_pointmaps(pointmaps.without(left_out), sizes(images), CAMERA.focal)
    assert given is not None
    assert given.image_ids.tolist() == [0, 1, 3, 4, 5]
    assert align_pointmaps(pointmaps.without(np.arange(len(images)) > 0), sizes(images), 400.0) is None
