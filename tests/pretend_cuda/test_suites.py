"""Other test files on the pretend GPU, including tests marked `gpu`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretend_cuda.subprocesses import run_tests

OTHER_GSPLAT = "NOPE_SPLAT_OTHER_GSPLAT"
"""Environment variable with the folder of another version of gsplat, see `.ci/run`."""


def test_device_rules_and_gsplat() -> None:
    outcomes = run_tests("pretend_cuda/test_device.py", "splatting/rasterizer/test_rasterization_cuda.py")
    assert outcomes.get("passed", 0) >= 40
    assert "skipped" not in outcomes


def test_other_gsplat_version() -> None:
    """Gsplat 1.5 has different kernel names, and one radius per axis."""
    folder = os.environ.get(OTHER_GSPLAT)
    if folder is None:
        pytest.skip(f"{OTHER_GSPLAT} names no folder with another version of gsplat")
    outcomes = run_tests("splatting/rasterizer/test_rasterization_cuda.py", first_on_path=Path(folder))
    assert outcomes.get("passed", 0) >= 10
    assert "skipped" not in outcomes


def test_matching_and_networks() -> None:
    """Slow tests that are independent of the device are left out."""
    files = (
        "matching/test_matching.py",
        "matching/test_disk.py",
        "matching/test_dust3r.py",
        "depth/test_networks.py",
    )
    outcomes = run_tests(*files, "-k", "not real_images and not incremental")
    assert outcomes.get("passed", 0) >= 40
