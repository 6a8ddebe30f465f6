"""Photos of a real scene as cameras write them: wide gamut, many endings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.photo_cases import make_case
from fixtures.real_images import real_scene

from nope_splat.io.images import find_images, read_image


@pytest.mark.parametrize("name", ["fountain-P11", "Herz-Jesus-P8"])
def test_wide_gamut_photos_have_the_colors_of_the_originals(tmp_path: Path, name: str) -> None:
    source = make_case("wide_gamut", real_scene(name), tmp_path / "case").source
    for number, image in enumerate(find_images(tmp_path / "case").images):
        difference = read_image(image).astype(float) - np.asarray(source.read(number))
        assert 20 * np.log10(255 / np.sqrt(np.mean(difference**2))) > 45


@pytest.mark.parametrize("name", ["fountain-P11", "Herz-Jesus-P8"])
def test_endings_of_cameras(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pillow_heif")
    source = make_case("endings", real_scene(name), tmp_path / "case").source
    folder = find_images(tmp_path / "case")
    assert len(folder.images) == min(9, len(source.files))
    assert folder.skipped == {}
    assert "1 raw file (.dng) is not read" in caplog.text
