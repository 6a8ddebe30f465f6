"""Mirrored images among others, and symmetric scenes without any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.spatial import KDTree

from nope_splat.io.images import ImageFile, find_images
from nope_splat.matching import Keypoints, MatchingSettings, PairMatches, extract_keypoints, match_keypoints
from nope_splat.matching.database import MatchDatabase, load_or_match
from nope_splat.matching.mirrored import (
    candidate_pairs,
    chirality_evidence,
    count_flipped_matches,
    find_mirrored_images,
    flip_descriptors,
    mirror_keypoints,
    split_by_chirality,
)
from nope_splat.matching.sift import sift_keypoints
from nope_splat.scene.stationary import StationaryPixels
from nope_splat.utils.cache import Cache
from scripts.reliability.ray_caster import PinholeView, Quad, box, look_at, quad, render
from scripts.reliability.textures import noise_texture

SETTINGS = MatchingSettings(max_keypoints=2000, max_feature_size=320)


def mirrored_copy(image: ImageFile, path: Path) -> ImageFile:
    """Save the mirrored image."""
    with Image.open(image.path) as opened:
        ImageOps.mirror(opened).save(path)
    return replace(image, path=path, name=path.name)


def mirrored_some(features: Sequence[Keypoints], mirrored: Sequence[int]) -> list[Keypoints]:
    """Replace the keypoints of some images by those of the mirrored images."""
    return [mirror_keypoints(one) if index in mirrored else one for index, one in enumerate(features)]


def find_mirrored(features: Sequence[Keypoints]) -> list[int]:
    """Match images, and find the mirrored ones."""
    return find_mirrored_images(features, match_keypoints(features, SETTINGS), (), SETTINGS).tolist()


@pytest.fixture(scope="module")
def features(valley: Path) -> list[Keypoints]:
    """Keypoints of nine images of the valley."""
    return extract_keypoints(find_images(valley).images, SETTINGS)


def test_flipped_descriptors_are_those_of_the_mirrored_image(valley: Path, tmp_path: Path) -> None:
    image = find_images(valley).images[0]
    mirrored = sift_keypoints(mirrored_copy(image, tmp_path / "mirrored.png"), SETTINGS)
    predicted = mirror_keypoints(sift_keypoints(image, SETTINGS))
    # A blob may have up to four orientations, and some blobs are found in one of the images only.
    distance, nearest = KDTree(predicted.xy).query(mirrored.xy, k=4)
    both = np.min(distance, axis=1) < 0.01
    assert both.sum() > 500
    candidates, descriptors = np.asarray(nearest)[both], mirrored.descriptors[both]
    similarity = np.einsum("kd,kod->ko", descriptors, predicted.descriptors[candidates]).max(axis=1)
    assert np.mean(similarity > 0.999) > 0.97
    unflipped = sift_keypoints(image, SETTINGS).descriptors[candidates]
    assert np.mean(np.einsum("kd,kod->ko", descriptors, unflipped).max(axis=1) > 0.95) < 0.05
    np.testing.assert_array_equal(
        flip_descriptors(flip_descriptors(predicted.descriptors)), predicted.descriptors
    )


def test_flipped_matches_of_a_mirrored_image_are_the_matches_of_the_image(features: list[Keypoints]) -> None:
    pair = max(match_keypoints(features, SETTINGS), key=lambda pair: len(pair.indices))
    count = count_flipped_matches(pair.first, pair.second, mirrored_some(features, [pair.first]), SETTINGS)
    assert count == pytest.approx(len(pair.indices), rel=0.05)
    assert count_flipped_matches(pair.first, pair.second, features, SETTINGS) == 0


@pytest.mark.parametrize(
    ("mirrored", "expected"),
    [
        ([], []),
        ([4], [4]),
        ([0, 8], [0, 8]),
        ([0, 2, 4, 6, 8], [1, 3, 5, 7]),
        ([1, 3, 5, 7], [1, 3, 5, 7]),
        (range(9), []),
    ],
)
def test_the_smaller_group_is_mirrored(
    features: list[Keypoints], mirrored: Sequence[int], expected: list[int]
) -> None:
    assert find_mirrored(mirrored_some(features, mirrored)) == expected


def test_of_equal_groups_that_of_the_first_image_is_not_mirrored(features: list[Keypoints]) -> None:
    assert find_mirrored(mirrored_some(features[:8], [0, 1, 4, 6])) == [2, 3, 5, 7]


def symmetric_texture(seed: int) -> NDArray[np.uint8]:
    """A texture that equals its mirror image."""
    half = noise_texture(seed)[:, :128]
    return np.concatenate([half, half[:, ::-1]], axis=1)


def symmetric_box() -> list[Quad]:
    """A box whose left side mirrors its right side, with symmetric front, back and top."""
    side = noise_texture(2)
    symmetric = [symmetric_texture(seed) for seed in (1, 3, 4)]
    return box((0, 0, 0.8), (0.8, 0.8, 0.8), [symmetric[0], side, symmetric[1], side[:, ::-1], symmetric[2]])


def render_all(folder: Path, quads: Sequence[Quad], centers: Sequence[tuple[float, float, float]]) -> None:
    """Render images that look at the middle of the box."""
    view = PinholeView(focal=300, size=(320, 240), supersampling=1)
    for index, center in enumerate(centers):
        image = Image.fromarray(render(quads, look_at(center, (0, 0, 0.8)), view, index))
        image.save(folder / f"{index:02d}.png")


def on_circle(num_images: int, first: float, last: float) -> list[tuple[float, float, float]]:
    """Positions on an arc around the box, from one angle to another; in degrees, the front is at -90."""
    angles = np.radians(np.linspace(first, last, num_images))
    return [(4 * np.cos(a), 4 * np.sin(a), 1.6 + 0.25 * (i % 2)) for i, a in enumerate(angles.tolist())]


@pytest.mark.parametrize("ground", [False, True])
def test_the_sides_of_a_symmetric_box_are_not_mirrored(ground: bool, tmp_path: Path) -> None:
    """Opposite sides have more matches with each other's mirror image than neighboring images have."""
    lawn = [quad((-6, -6, 0), (12, 0, 0), (0, 12, 0), noise_texture(9, (600, 600)))]
    render_all(tmp_path, symmetric_box() + lawn * ground, on_circle(16, -90, 247.5))
    features = extract_keypoints(find_images(tmp_path).images, SETTINGS)
    pairs = match_keypoints(features, SETTINGS)
    neighbors = [len(pair.indices) for pair in pairs if pair.second - pair.first in (1, 15)]
    assert len(neighbors) == 16
    assert count_flipped_matches(4, 12, features, SETTINGS) > 2 * min(neighbors)
    assert find_mirrored_images(features, pairs, (), SETTINGS).tolist() == []


def test_a_symmetric_front_is_not_mirrored_without_images_from_the_middle(tmp_path: Path) -> None:
    centers = on_circle(3, -125, -105) + on_circle(3, -75, -55)
    render_all(tmp_path, symmetric_box(), centers)
    features = extract_keypoints(find_images(tmp_path).images, SETTINGS)
    assert count_flipped_matches(0, 5, features, SETTINGS) > 100
    assert find_mirrored(features) == []


def test_a_symmetric_frame_is_not_mirrored(features: list[Keypoints]) -> None:
    """Keypoints in stationary cells are ignored."""
    width, height = features[0].image_size or (0, 0)
    rng = np.random.default_rng(0)
    half = rng.uniform((0, 0.9 * height), (width / 2, height), (300, 2))
    left = rng.random((300, 128)).astype(np.float32) ** 4
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    framed = []
    for index, one in enumerate(features):
        inside = one.xy[:, 1] < 0.9 * height
        # Every image has noise of its own, since equal keypoints would match at rest in all pairs.
        moved = half + np.random.default_rng(index).normal(0, 0.2, half.shape)
        xy = np.concatenate([one.xy[inside], moved, (width, 0) + moved * (-1, 1)])
        descriptors = np.concatenate([one.descriptors[inside], left, flip_descriptors(left)])
        noise = np.concatenate([one.noise_or_ones()[inside], np.full(600, 9.0)])
        framed.append(replace(one, xy=xy, descriptors=descriptors, noise=noise))
    cells = np.zeros((10, 1), bool)
    cells[-1] = True
    stationary = [StationaryPixels((width, height), cells, 600)]
    apart = [PairMatches(0, 1, np.zeros((60, 2), np.int64), np.eye(3), 0.0)]
    assert find_mirrored_images(framed[:3:2], (), (), SETTINGS).tolist() == [1], "only frames match"
    assert find_mirrored_images(framed[:3:2], (), stationary, SETTINGS).tolist() == []
    assert find_mirrored_images(framed[:2], apart, stationary, SETTINGS).tolist() == []


def test_images_that_strong_pairs_connect_are_not_tested() -> None:
    def pair(first: int, second: int, count: int) -> PairMatches:
        return PairMatches(first, second, np.zeros((count, 2), np.int64), np.eye(3), 0.0)

    options = SETTINGS.mirroring
    assert candidate_pairs(4, [pair(0, 1, 200), pair(1, 2, 100), pair(2, 3, 40)], options) == [
        (0, 3),
        (1, 3),
        (2, 3),
    ]
    assert candidate_pairs(3, [pair(0, 1, 600), pair(1, 2, 100)], options) == [(0, 2), (1, 2)]
    pairs = candidate_pairs(500, [], options)
    assert len(pairs) <= 500 * options.max_num_partners
    lonely = candidate_pairs(500, [pair(index, index + 1, 300) for index in range(498)], options)
    assert lonely == [(index, 499) for index in range(499)]


def test_strong_chains_outweigh_mirror_images() -> None:
    edges = np.array([(0, 1), (1, 2), (2, 3), (0, 3)])
    chain = np.array([300, 100, 300, 0])
    flipped = np.array([0, 0, 0, 500])
    assert split_by_chirality(5, edges, chirality_evidence(chain, flipped, SETTINGS)) == ([], [])
    chain[1] = 20
    assert split_by_chirality(5, edges, chirality_evidence(chain, flipped, SETTINGS)) == ([2, 3], [(0, 3)])


def test_few_flipped_matches_are_no_evidence() -> None:
    flipped = np.array([80, 89, 90, 2000, 2000])
    ordinary = np.array([0, 0, 0, 700, 600])
    evidence = chirality_evidence(ordinary, flipped, SETTINGS)
    assert (evidence[:2] == 0).all()
    assert evidence[2] < 0 < evidence[3]
    assert evidence[4] < 0


def test_mirrored_images_are_removed_and_the_result_is_cached(valley: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folder = find_images(valley)
    images = [
        mirrored_copy(image, tmp_path / "images" / image.name) if index in (0, 6) else image
        for index, image in enumerate(folder.images)
    ]
    cache = Cache(tmp_path / "cache")
    matches = load_or_match(replace(folder, images=images), SETTINGS, cache, "key")
    expected = np.isin(np.arange(9), (0, 6))
    np.testing.assert_array_equal(matches.mirrored, expected)
    assert all(expected[pair.first] == expected[pair.second] for pair in matches.pairs)
    assert (0, 6) in [(pair.first, pair.second) for pair in matches.pairs]
    loaded = load_or_match(replace(folder, images=images), SETTINGS, cache, "key")
    np.testing.assert_array_equal(loaded.mirrored, expected)
    assert not MatchDatabase(matches.keypoints, ()).mirrored.any()
