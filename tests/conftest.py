"""Photographs that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch and numba load their thread pools, which would otherwise spin against each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small demo scene: 9 photographs in `images/`, their `depth/`, and `ground_truth.json`."""
    from nope_splat.demo_scene import render_demo_scene

    folder = tmp_path_factory.mktemp("valley")
    render_demo_scene(folder, num_photos=9, size=(320, 240), depth=True)
    return folder
