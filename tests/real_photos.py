"""Real photographs for end-to-end tests; the tests skip where the research data is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_scene(name: str) -> Path:
    """Folder of a real scene (with `images/`, perhaps `ground_truth.json`); skips the test without it."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"research data {name} is not on this machine")
    return folder
