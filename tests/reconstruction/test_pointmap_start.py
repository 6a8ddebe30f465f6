"""Focal length, depth and cameras from pointmaps with noise, outliers, holes and a unit for each pair.

The scene is known; the network's errors are 2 % of the depth, smooth for the most part, so that no amount of
pixels averages them away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pointmap_scene import CAMERA, FakeNetwork, grey_photos, ray_cast
from synthetic import ring

from nope_splat.cache import Cache
from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.images import Photo, PhotoFolder
from nope_splat.matching import MatchingSettings, Pointmaps, dust3r
from nope_splat.matching.dust3r import View
from nope_splat.reconstruction.canonical import canonical_depths, pointmap_focal, weiszfeld_focal
from nope_splat.reconstruction.matches import find_matches, matches_key
from nope_splat.reconstruction.pointmap_start import align_pointmaps

Array = NDArray[np.float64]
POSES = ring(6, 70.0)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Photo], Pointmaps]:
    """Photographs, two of them upright, and what the network says of all pairs, by way of the cache."""
    folder = tmp_path_factory.mktemp("photos")
    photos = grey_photos(folder, len(POSES), upright=(1, 4))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
        monkeypatch.setattr(dust3r, "predict", FakeNetwork(POSES, noise=0.02).predict)
        cache, settings = Cache(folder / "cache"), MatchingSettings(matcher="dust3r")
        whole = PhotoFolder(folder, tuple(photos), {})
        key = matches_key(whole, settings)
        fresh, stored = (find_matches(whole, settings, cache, key) for _ in range(2))
    assert fresh.pointmaps is not None
    assert stored.pointmaps is not None
    for one, other in zip(fresh.pointmaps.pairs, stored.pointmaps.pairs, strict=True):
        assert (one.first, one.second) == (other.first, other.second)
        for name in ("points", "confidence"):
            for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    return photos, stored.pointmaps


def sizes(photos: Sequence[Photo]) -> NDArray[np.int64]:
    return np.array([(photo.width, photo.height) for photo in photos])


def test_weiszfeld_finds_the_focal_length_among_outliers() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -1, 2), (1, 1, 4), (400, 3))
    xy = 300 * points[:, :2] / points[:, 2:] + rng.normal(0, 0.5, (400, 2))
    xy[:80] = rng.uniform(-150, 150, (80, 2))
    assert weiszfeld_focal(xy, points, np.ones(400)) == pytest.approx(300, rel=0.01)


def test_pairs_agree_about_the_focal_length(said: tuple[list[Photo], Pointmaps]) -> None:
    photos, pointmaps = said
    estimate = pointmap_focal(pointmaps, sizes(photos))
    assert estimate.certain
    assert estimate.focal == pytest.approx(CAMERA.focal, rel=0.03)
    nothing = pointmap_focal(pointmaps.without(np.ones(len(photos), bool)), sizes(photos))
    assert not nothing.certain


def test_canonical_depth_is_that_of_the_photograph(
    said: tuple[list[Photo], Pointmaps], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, pointmaps = said
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    depths = canonical_depths(pointmaps)
    assert sorted(depths) == list(range(len(photos)))
    for index, depth_map in depths.items():
        view, pose = View.of(photos[index]), POSES[index]
        world = ray_cast(pose, photos[index], view)
        # Places of the map fall on pixel centres of the view.
        column, row = np.moveaxis(depth_map.positions() / view.scale - view.cut, -1, 0)
        np.testing.assert_allclose(column % 1, 0.5, atol=1e-9)
        true = ((world[row.astype(int), column.astype(int)] - pose[:3, 3]) @ pose[:3, :3])[..., 2]
        ratio = depth_map.values / true
        known = np.isfinite(ratio)
        assert known.mean() > 0.7
        assert np.median(np.abs(ratio[known] / np.median(ratio[known]) - 1)) < 0.015


def test_alignment_brings_all_pairs_into_one_world(said: tuple[list[Photo], Pointmaps]) -> None:
    photos, pointmaps = said
    given = align_pointmaps(pointmaps, sizes(photos), pointmap_focal(pointmaps, sizes(photos)).focal)
    assert given is not None
    assert given.photos.tolist() == list(range(len(photos)))
    found = {str(photo): pose for photo, pose in zip(given.photos, given.T_world_camera, strict=True)}
    truth = {str(photo): pose for photo, pose in enumerate(POSES)}
    print(compare_poses(found, truth))
    assert compare_poses(found, truth).auc_5 > 75


def test_photographs_left_out_have_no_say(said: tuple[list[Photo], Pointmaps]) -> None:
    photos, pointmaps = said
    left_out = np.arange(len(photos)) == 2
    given = align_pointmaps(pointmaps.without(left_out), sizes(photos), CAMERA.focal)
    assert given is not None
    assert given.photos.tolist() == [0, 1, 3, 4, 5]
    assert align_pointmaps(pointmaps.without(np.arange(len(photos)) > 0), sizes(photos), 400.0) is None
