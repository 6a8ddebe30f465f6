"""Rigid transforms: group axioms, exponential and logarithm, for arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from nope_splat.geometry.rigid import (
    invert,
    left_jacobian,
    move_poses,
    nearest_rotation,
    rigid,
    rotation_exp,
    rotation_log,
    skew,
    transform,
)
from nope_splat.utils.typing import Array

KINDS = [np.asarray, torch.from_numpy]


def vectors(count: int = 6) -> Array:
    return np.random.default_rng(2).normal(0, 0.6, (count, 3))


def motions(count: int = 6) -> Array:
    return rigid(rotation_exp(vectors(count)), np.random.default_rng(3).normal(0, 2, (count, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_skew_is_the_cross_product(kind: Any) -> None:
    first, second = vectors(), vectors()[::-1].copy()
    product = (skew(kind(first)) @ kind(second)[..., None])[..., 0]
    np.testing.assert_allclose(product, np.cross(first, second), atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_exponential_and_logarithm(kind: Any) -> None:
    omega = vectors()
    rotations = rotation_exp(kind(omega))
    np.testing.assert_allclose(rotations, [expm(skew(vector)) for vector in omega], atol=1e-13)
    np.testing.assert_allclose(rotation_log(rotations), omega, atol=1e-13)
    assert not rotation_log(kind(np.eye(3)[None])).any()


@pytest.mark.parametrize("kind", KINDS)
def test_rigid_transforms_are_a_group(kind: Any) -> None:
    first, second = kind(motions()), kind(motions()[::-1].copy())
    points = kind(vectors())
    identity = np.broadcast_to(np.eye(4), first.shape)
    np.testing.assert_allclose(invert(first) @ first, identity, atol=1e-14)
    np.testing.assert_allclose(first @ invert(first), identity, atol=1e-14)
    in_turn = transform(first, transform(second, points))
    np.testing.assert_allclose(transform(first @ second, points), in_turn, atol=1e-14)
    np.testing.assert_allclose(transform(invert(first), transform(first, points)), points, atol=1e-14)
    np.testing.assert_allclose(transform(first[0], points)[2], transform(first[0], points[2]), atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_pose_increments_multiply_from_the_left(kind: Any) -> None:
    poses, increments = motions(), np.random.default_rng(4).normal(0, 0.3, (6, 6))
    moved = move_poses(kind(poses), kind(increments))
    expected = rigid(rotation_exp(increments[:, :3]), increments[:, 3:]) @ poses
    np.testing.assert_allclose(moved, expected, atol=1e-14)


def test_left_jacobian_gives_the_translation_of_the_exponential() -> None:
    omega, nu = vectors(), vectors()[::-1]
    expected = []
    for vector, shift in zip(omega, nu, strict=True):
        generator = np.zeros((4, 4))
        generator[:3, :3], generator[:3, 3] = skew(vector), shift
        expected.append(expm(generator)[:3, 3])
    translations = left_jacobian(torch.from_numpy(omega)) @ torch.from_numpy(nu.copy())[..., None]
    np.testing.assert_allclose(translations[..., 0], expected, atol=1e-13)


def test_nearest_rotation_removes_scale_and_is_proper() -> None:
    rotations: Array = rotation_exp(vectors())
    np.testing.assert_allclose(nearest_rotation(3 * rotations), rotations, atol=1e-14)
    mirrored: Array = rotations @ np.diag([1.0, 1.0, -0.1])
    np.testing.assert_allclose(np.linalg.det(nearest_rotation(mirrored)), 1.0)
