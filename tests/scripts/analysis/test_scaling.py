"""Test sorting the tour of the demo scene in capture order."""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.demo.camera_paths import tour_poses
from scripts.analysis.scaling import order_of_capture


@pytest.mark.parametrize("seed", range(3))
def test_images_of_a_tour_are_sorted_by_capture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tour = tour_poses(rng, 120)
    shuffled = rng.permutation(120)
    np.testing.assert_array_equal(shuffled[order_of_capture(tour[shuffled])], np.arange(120))
