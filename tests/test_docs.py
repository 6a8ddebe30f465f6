"""Test examples in docstrings, and tables in the documentation that repeat the code."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from nope_splat.errors import NopeSplatError

DOCS = Path(__file__).parents[1] / "docs"

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
    assert failed == 0  # differences are printed


def test_troubleshooting_lists_the_error_codes() -> None:
    documented = re.findall(r"- `([a-z-]+)`: (.*)\.\n", NopeSplatError.__doc__ or "")
    table = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", (DOCS / "troubleshooting.md").read_text("utf8"), re.M)
    assert table == documented
    assert len(documented) > 20
