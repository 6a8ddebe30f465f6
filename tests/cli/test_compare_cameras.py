"""The table of `nope-splat compare-cameras`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nope_splat.cli import main


def write_cameras(path: Path, focals: dict[str, float]) -> str:
    """Write a `transforms.json` with a focal length in pixels for each image."""
    frames = []
    for index, (name, focal) in enumerate(focals.items()):
        pose = np.eye(4)
        pose[:3, 3] = index, index**2, 0
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), "fl_x": focal})
    path.write_text(json.dumps({"w": 640, "h": 480, "frames": frames}))
    return str(path)


@pytest.mark.parametrize("num_cameras", [1, 2, 59])
def test_focal_errors_of_few_and_many_cameras(
    num_cameras: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    truth = {f"[b]{index:03d}.jpg": 500.0 + index % num_cameras for index in range(2 * num_cameras)}
    scale = {"[b]000.jpg": 1.10, "[b]001.jpg": 1.01}
    estimated = {name: focal * scale.get(name, 1.001) for name, focal in truth.items()}
    paths = [
        write_cameras(tmp_path / f"{number}.json", focals) for number, focals in enumerate((estimated, truth))
    ]
    main(["compare-cameras", *paths])
    printed = capsys.readouterr().out
    if num_cameras == 1:
        assert "+5.500" in printed
        assert "jpg" not in printed
    elif num_cameras == 2:
        assert "+5.050, +0.550" in printed
        assert "+5.050 %: [b]000.jpg and 1 other photo\n" in printed
    else:
        assert "59 cameras: median 0.100, largest +5.050" in printed
        assert printed.count("Focal error") == 4
        assert "+5.050 %: [b]000.jpg and 1 other photo\n" in printed
