"""The tour of the demo scene, put back into the order in which it was walked."""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.demo.camera_paths import tour_poses
from scripts.analysis.scaling import walk_order


@pytest.mark.parametrize("seed", range(3))
def test_a_tour_is_put_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tour = tour_poses(rng, 120)
    shuffled = rng.permutation(120)
    np.testing.assert_array_equal(shuffled[walk_order(tour[shuffled])], np.arange(120))
