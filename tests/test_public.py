"""Public names of `nope_splat`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nope_splat

IMPORT_CHECK = "import sys, nope_splat; assert not {'torch', 'numba', 'nerfstudio'} & set(sys.modules)"


def test_public_names_are_their_originals() -> None:
    from nope_splat import Reconstruction, rasterization, reconstruct
    from nope_splat.scene.reconstruction import Reconstruction as OriginalReconstruction
    from nope_splat.sfm import reconstruct as original
    from nope_splat.splatting import rasterizer

    assert (Reconstruction, rasterization, reconstruct) == (
        OriginalReconstruction,
        rasterizer.rasterization,
        original,
    )
    assert all(hasattr(nope_splat, name) for name in nope_splat.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = nope_splat.train  # pyright: ignore[reportAttributeAccessIssue]


def test_import_does_not_load_heavy_packages() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_CHECK], check=True)
