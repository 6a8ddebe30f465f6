"""Test that rendered images agree with their true cameras."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.reliability.image_set import Variation
from scripts.reliability.ray_caster import PinholeView, Quad, box, look_at, project, quad, render
from scripts.reliability.textures import noise_texture, plain_texture

VIEW = PinholeView(focal=200.0, size=(160, 120), supersampling=4, noise=0.0)


def spot(center: tuple[float, float, float], color: int) -> Quad:
    """Build a small square that faces -y."""
    x, y, z = center
    return quad((x - 0.02, y, z + 0.02), (0.04, 0, 0), (0, 0, -0.04), plain_texture(color))


@pytest.mark.parametrize("roll", [0.0, 30.0])
def test_a_point_appears_where_it_is_projected(roll: float) -> None:
    point, pose = (0.3, 1.0, 0.7), look_at((-0.5, -2.0, 1.2), (0.1, 1.0, 0.5), roll)
    wall = quad((-5, 1.01, 5), (10, 0, 0), (0, 0, -10), plain_texture(0))
    image = render([wall, spot(point, 255)], pose, VIEW)[..., 0].astype(float)
    rows, columns = np.mgrid[:120, :160] + 0.5
    centroid = [(image * grid).sum() / image.sum() for grid in (columns, rows)]
    np.testing.assert_allclose(centroid, project(np.array([point]), pose, VIEW)[0], atol=0.05)


def test_nearer_surfaces_hide_farther_ones() -> None:
    near, far = spot((0, 0, 0), 200), spot((0, 1, 0), 50)
    pose = look_at((0, -2, 0), (0, 0, 0))
    for quads in ([near, far], [far, near]):
        assert render(quads, pose, VIEW)[60, 80].tolist() == [200] * 3


def test_a_box_shows_its_sides_from_outside() -> None:
    colors = (40, 80, 120, 160, 200)
    sides = box((0, 0, 0), (0.5, 0.5, 0.5), [plain_texture(color) for color in colors])
    centers = [(0, -4, 0), (4, 0, 0), (0, 4, 0), (-4, 0, 0), (0, -2, 4)]
    seen = [render(sides, look_at(center, (0, 0, 0)), VIEW)[60, 80, 0] for center in centers]
    assert seen == list(colors)


def test_textures_are_upright_and_not_mirrored() -> None:
    texture = plain_texture(0)
    texture[:32, :32] = 255  # upper left
    wall = quad((-1, 0, 1), (2, 0, 0), (0, 0, -2), texture)
    image = render([wall], look_at((0, -4, 0), (0, 0, 0)), VIEW)
    assert image[40, 60, 0] == 255
    assert image[40, 100, 0] == image[80, 60, 0] == 0


def test_variations_have_other_textures_and_cameras() -> None:
    poses = [look_at((x, -4, 1), (0, 0, 0)) for x in (0.0, 1.0, 2.0, 2.0)]
    assert Variation(0).seed(7) == 7
    np.testing.assert_array_equal(Variation(0).perturb(poses), poses)
    changed = np.array(Variation(1).perturb(poses))
    moves = np.linalg.norm(changed[:, :3, 3] - np.array(poses)[:, :3, 3], axis=1)
    assert ((moves > 0) & (moves < 0.2)).all()
    np.testing.assert_array_equal(changed[2, :3, 3], changed[3, :3, 3])  # a burst stays one
    np.testing.assert_allclose(np.linalg.det(changed[:, :3, :3]), 1)
    textures = [noise_texture(Variation(index).seed(7), (32, 32)).astype(float).ravel() for index in (0, 1)]
    assert abs(np.corrcoef(textures)[0, 1]) < 0.5
