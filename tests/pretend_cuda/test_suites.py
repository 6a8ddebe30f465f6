"""Tests of other files, and of this package, on the pretend GPU; what is marked `gpu` runs there too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretend_cuda.subprocesses import run_tests

OTHER_GSPLAT = "NOPE_SPLAT_OTHER_GSPLAT"
"""Variable that names the folder of another version of gsplat, see `.ci/run`."""


def test_rules_of_the_device_and_gsplat() -> None:
    outcomes = run_tests("pretend_cuda/test_device.py", "splatting/rasterizer/test_rasterization_cuda.py")
    assert outcomes.get("passed", 0) >= 40
    assert "skipped" not in outcomes


def test_another_gsplat() -> None:
    """In gsplat 1.5 kernels have other names, and splats a radius for each axis."""
    folder = os.environ.get(OTHER_GSPLAT)
    if folder is None:
        pytest.skip(f"{OTHER_GSPLAT} names no folder with another version of gsplat")
    outcomes = run_tests("splatting/rasterizer/test_rasterization_cuda.py", first_on_path=Path(folder))
    assert outcomes.get("passed", 0) >= 10
    assert "skipped" not in outcomes


def test_matching_and_networks() -> None:
    """Left out is what takes long and has nothing to do with the device."""
    files = (
        "matching/test_matching.py",
        "matching/test_disk.py",
        "matching/test_dust3r.py",
        "depth/test_networks.py",
    )
    outcomes = run_tests(*files, "-k", "not real_images and not incremental")
    assert outcomes.get("passed", 0) >= 40
