"""Similarity fits: exact recovery, weights, groups, and rigid transforms."""

from __future__ import annotations

import numpy as np

from nope_splat.geometry.rigid import rotation_exp
from nope_splat.geometry.similarity import Similarity, align_groups, align_similarity, sum_rows


def random_similarity(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    return Similarity(float(rng.uniform(0.2, 5)), rotation_exp(rng.normal(0, 1, 3)), rng.normal(0, 3, 3))


def test_exact_points_give_the_similarity() -> None:
    truth, points = random_similarity(0), np.random.default_rng(1).normal(0, 1, (8, 3))
    fitted = align_similarity(points, truth.apply(points))
    np.testing.assert_allclose(fitted.scale, truth.scale)
    np.testing.assert_allclose(fitted.rotation, truth.rotation, atol=1e-13)
    np.testing.assert_allclose(fitted.translation, truth.translation, atol=1e-13)


def test_groups_are_independent_and_zero_weights_ignore_outliers() -> None:
    rng = np.random.default_rng(2)
    points, group = rng.normal(0, 1, (30, 3)), np.repeat([0, 2, 1], 10)
    truths = [random_similarity(seed) for seed in range(3)]
    target = np.stack([truths[g].apply(point) for point, g in zip(points, group, strict=True)])
    weight = rng.uniform(0.5, 2, 30)
    target[::7], weight[::7] = 100.0, 0.0
    scales, rotations, translations = align_groups(points, target, weight, group, 4)
    for index, truth in enumerate(truths):
        np.testing.assert_allclose(scales[index], truth.scale)
        np.testing.assert_allclose(rotations[index], truth.rotation, atol=1e-12)
        np.testing.assert_allclose(translations[index], truth.translation, atol=1e-12)
    assert scales[3] == 1
    np.testing.assert_allclose(np.linalg.det(rotations[3]), 1.0)
    np.testing.assert_array_equal(translations[3], np.zeros(3))


def test_rigid_motions_have_scale_one() -> None:
    points = np.random.default_rng(3).normal(0, 1, (10, 3))
    scales, rotations, _ = align_groups(
        points, 4 * points, np.ones(10), np.zeros(10, np.int64), 1, with_scale=False
    )
    assert scales[0] == 1
    np.testing.assert_allclose(rotations[0], np.eye(3), atol=1e-14)


def test_no_similarity_near_the_fit_is_better() -> None:
    rng = np.random.default_rng(4)
    points, target, weight = rng.normal(0, 1, (12, 3)), rng.normal(0, 1, (12, 3)), rng.uniform(0.1, 1, 12)

    def cost(scale: float, rotation: np.ndarray, translation: np.ndarray) -> float:
        mapped = Similarity(scale, rotation, translation).apply(points)
        return float((weight * ((mapped - target) ** 2).sum(1)).sum())

    (scale,), (rotation,), (translation,) = align_groups(points, target, weight, np.zeros(12, np.int64), 1)
    best = cost(scale, rotation, translation)
    for _ in range(50):
        step = rng.normal(0, 1e-3, 7)
        nearby = scale + step[0], rotation_exp(step[1:4]) @ rotation, translation + step[4:]
        assert cost(*nearby) >= best


def test_sum_rows() -> None:
    values, index = np.arange(8.0).reshape(4, 2), np.array([2, 0, 2, 2])
    np.testing.assert_array_equal(sum_rows(values, index, 4), [[2, 3], [0, 0], [10, 13], [0, 0]])
