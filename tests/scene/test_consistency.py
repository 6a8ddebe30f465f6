"""Stored reconstructions and matches whose arrays do not fit each other are not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.sparse_scene import make_scene

from nope_splat.io.export import colmap_model
from nope_splat.matching.database import MatchDatabase
from nope_splat.scene.consistency import consistent_reconstruction
from nope_splat.scene.features import Keypoints, PairMatches
from nope_splat.utils.cache import Cache

KEY = "a" * 64
ARRAYS = make_scene().to_arrays()
Edit = Callable[[Any], Any]


def filled(value: float) -> Edit:
    return lambda array: np.full_like(array, value)


EDITS: dict[str, list[Edit]] = {
    "image_sizes": [filled(0), lambda a: a[:-1], lambda a: a.astype(float)],
    "camera_ids": [filled(-1), filled(1), lambda a: a[:, None]],
    "held_out": [lambda a: a.astype(int), lambda a: a[1:]],
    "registered": [lambda a: a[None]],
    "T_world_camera": [filled(np.nan), filled(0), filled(1e200), lambda a: a[:, :3], lambda a: 2 * a],
    "points": [filled(np.inf), lambda a: a[:-1], lambda a: a[:, :2], lambda a: a[:0]],
    "colors": [lambda a: a[:-1], lambda a: a.astype(float)],
    "noise": [lambda a: a[:-1], filled(np.nan)],
    "observations.point_ids": [filled(60), filled(-1), lambda a: a[:-1], lambda a: a.astype(float)],
    "observations.image_ids": [filled(7), filled(-1), lambda a: a[None]],
    "observations.xy": [filled(np.nan), lambda a: a[:-1]],
    "resections.point_ids": [filled(60)],
    "graph.edges": [lambda a: np.array([[0, 7]])],
    "graph.tree": [lambda a: np.array([0])],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, edits in EDITS.items() for i in range(len(edits))]
)
def test_arrays_that_do_not_fit_are_not_used(name: str, number: int, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.store("scene", KEY, ARRAYS | {name: EDITS[name][number](ARRAYS[name])})
    assert cache.load("scene", KEY, consistent_reconstruction) is None


@pytest.mark.parametrize(
    "change",
    [
        {"cameras": []},
        {"cameras": [{"focal": -3.0}]},
        {"cameras": [{"focal": float("nan")}]},
        {"cameras": [{"focal": "3"}]},
        {"image_names": [1, 2, 3, 4, 5, 6, 7]},
        {"image_names": ["a"]},
        {"num_images": 3},
        {"failures": {"a": 3}},
        {"seconds": {"matching": "x"}},
        {"notices": [{"code": "weak-support", "message": 3}]},
        {"notices": [3]},
        {"trust": 7.0},
    ],
)
def test_values_that_do_not_fit_are_not_used(change: dict[str, object]) -> None:
    plain = np.array(json.dumps(json.loads(ARRAYS["plain"].item()) | change))
    with pytest.raises((ValueError, TypeError)):
        consistent_reconstruction(ARRAYS | {"plain": plain})


def test_reconstructions_are_read_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.store("scene", KEY, ARRAYS)
    scene = cache.load("scene", KEY, consistent_reconstruction)
    assert scene is not None
    assert len(colmap_model(scene).images) == 6


def database(indices: list[list[int]], images: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """Return the arrays of two images with three keypoints each."""
    keypoints = tuple(Keypoints(np.ones((3, 2)), np.zeros((3, 0), np.float32)) for _ in range(2))
    pair = PairMatches(*images, np.array(indices), np.eye(3), 0.0)
    return MatchDatabase(keypoints, (pair,)).to_arrays()


def test_matches_of_keypoints_that_do_not_exist_are_not_used() -> None:
    assert len(MatchDatabase.from_arrays(database([[0, 2], [1, 1]])).pairs) == 1
    for indices, images in (([[0, 3]], (0, 1)), ([[-1, 0]], (0, 1)), ([[0, 0]], (0, 2)), ([[0, 0]], (1, 0))):
        with pytest.raises(ValueError, match=r"exist|range"):
            MatchDatabase.from_arrays(database(indices, images))
