"""The examples in the docstrings of what is public give what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "nope_splat.geometry.axes",
    "nope_splat.geometry.camera",
    "nope_splat.geometry.similarity",
    "nope_splat.scene.reconstruction",
    "nope_splat.sfm.pipeline",
    "nope_splat.splatting.rasterizer.rasterization",
]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0  # what differs is printed
