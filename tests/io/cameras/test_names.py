"""Image names of camera files match those of photos although folders, endings and separators differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nope_splat.io.cameras import match_names, read_matching_cameras
from nope_splat.io.cameras.names import original_name
from nope_splat.io.image_export import exported_names

MATCHES = {
    "folders": (["images/a/1.jpg", "images/b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
    "no folders": (["1.jpg", "2.jpg"], ["cam/1.jpg", "cam/2.jpg"]),
    "other folders": (["x/1.jpg", "x/2.jpg"], ["y/1.jpg", "y/2.jpg"]),
    "root and subfolder": (["images/1.jpg", "images/b/1.jpg"], ["1.jpg", "b/1.jpg"]),
    "relative": (["./images/1.jpg", "../images/2.jpg"], ["1.jpg", "2.jpg"]),
    "backslashes": (["images\\a\\1.jpg", "images\\b\\1.jpg"], ["a/1.jpg", "b/1.jpg"]),
    "drive": (["C:\\photos\\1.jpg", "C:\\photos\\2.jpg"], ["1.jpg", "2.jpg"]),
    "no ending": (["./train/r_0", "./train/r_10"], ["train/r_0.png", "train/r_10.png"]),
    "dots but no ending": (["frame.001", "frame.002"], ["frame.001.jpg", "frame.002.jpg"]),
    "case": (["IMG_1.JPG"], ["img_1.jpg"]),
    "exported": (["b/x.heic.png", "b/y.jpg", "z.tif_1.png"], ["b/x.heic", "b/y.jpg", "z.tif"]),
    "from the original to the export": (["x.heic", "y.jpg"], ["x.heic.png", "y.jpg"]),
}


@pytest.mark.parametrize("case", MATCHES)
def test_names_match(case: str) -> None:
    names, others = MATCHES[case]
    assert match_names(names, others) == dict(zip(names, others, strict=True))


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["1"], ["1.jpg", "1.png"]),
        (["c/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["a/1.jpg", "c/1.jpg"], ["1.jpg"]),
        (["1.jpg"], ["2.jpg"]),
    ],
)
def test_ambiguous_and_unknown_names_do_not_match(names: list[str], others: list[str]) -> None:
    assert match_names(names, others) == {}


def test_equal_names_match_first() -> None:
    assert match_names(["a.heic", "a.heic.png"], ["a.heic.png", "a.heic"]) == {
        "a.heic": "a.heic",
        "a.heic.png": "a.heic.png",
    }


def test_exported_names_lead_to_their_originals() -> None:
    names = ["a.heic", "b.jpg", "b.jpg.png", "c/d.tiff", "e.f.webp"]
    exported = exported_names(names, [False, False, True, False, False])
    assert match_names(exported, names) == dict(zip(exported, names, strict=True))
    assert [original_name(name) for name in ("a.heic.png", "a.png", "a.b.png", "v1.2.png")] == [
        *("a.heic", "a.png", "a.b.png", "v1.2.png")
    ]


def test_cameras_of_exported_copies_get_the_names_of_the_photos(tmp_path: Path) -> None:
    intrinsics = {"w": 640, "h": 480, "fl_x": 500.0}
    for file, names in (("cameras.json", ["a.heic.png", "b.jpg"]), ("reference.json", ["b.jpg", "a.heic"])):
        frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in names]
        (tmp_path / file).write_text(json.dumps({**intrinsics, "frames": frames}))
    cameras, reference = read_matching_cameras(tmp_path / "cameras.json", tmp_path / "reference.json")
    assert cameras.keys() == reference.keys() == {"a.heic", "b.jpg"}
