"""Names that are markup, control a terminal or separate lines are read back, and messages stay one line."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.sparse_scene import make_scene
from PIL import Image
from rich.console import Console

from nope_splat.cli import main
from nope_splat.errors import NopeSplatError
from nope_splat.io.cameras import read_named_cameras
from nope_splat.io.export import write_colmap
from nope_splat.plugin.summary import table
from nope_splat.utils import progress
from nope_splat.utils.terminal import ConsoleHandler, print_error, printable

SEPARATORS = ["\x85", "\u2028", "\u2029", "\u00a0", "\u3000"]
"""Characters at which Python, but no other reader of COLMAP's text format, ends a line or a word."""
CONTROLS = ["\x1b[31m", "\x9b31m", "\x85", "\u2028", "\u202e", "\u2066", "\x7f", "\r", "\b", "\udcff"]


def test_an_output_folder_with_brackets_is_printed_as_it_is(
    valley: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    images = tmp_path / "images"
    images.mkdir()
    for image in sorted((valley / "images").iterdir())[:3]:
        shutil.copy(image, images)
    output = tmp_path / "out [/old]x"
    main(["reconstruct", "--data", str(images), "--output-dir", str(output)])
    assert (output / "transforms.json").is_file()
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out [/old]x", "out [old]", "[bold]out", "out [", "out \\"])
def test_tables_hold_no_markup(name: str) -> None:
    file = io.StringIO()
    Console(file=file, width=100).print(table("Reconstruction", {"written to": name}))
    assert f"│ {name} " in file.getvalue()


@pytest.mark.parametrize(
    "name", [f"a{separator}b.jpg" for separator in SEPARATORS] + [" a.jpg", "  .jpg", "a b .jpg"]
)
@pytest.mark.parametrize("text", [True, False])
def test_names_are_read_back(name: str, text: bool, tmp_path: Path) -> None:
    scene = make_scene()
    scene = replace(scene, image_names=(name, *(f"{i}.jpg" for i in range(1, 7))))
    write_colmap(scene, tmp_path, text)
    cameras = read_named_cameras(tmp_path)
    assert cameras.keys() == {name, *(f"{i}.jpg" for i in (1, 3, 4, 5, 6))}
    np.testing.assert_allclose(cameras[name].T_world_camera, scene.T_world_camera[0], atol=1e-9)


@pytest.mark.parametrize("control", CONTROLS)
def test_messages_do_not_control_the_terminal(
    control: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"photo{control}1.jpg"
    print_error(NopeSplatError("unreadable-file", f"{name} is damaged"))
    file = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(file=file))
    ConsoleHandler().emit(logging.makeLogRecord({"msg": f"Left out {name}: too few matches."}))
    for printed in (capsys.readouterr().err, file.getvalue()):
        assert control not in printed
        assert printed.count("\n") == 1
        assert printable(name) in printed


def test_other_characters_are_printed_as_they_are() -> None:
    text = "Фото 1, 写真, صورة, 👩‍👩‍👧, e\u0301:\n\tready"
    assert printable(text) == text


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(NopeSplatError("missing-file", "there is no folder\nfake: nothing"))
    assert capsys.readouterr().err == "nope-splat: there is no folder\\nfake: nothing\n"


FIND_IMAGES = """
import sys
from nope_splat.io.images import find_images
from nope_splat.utils.terminal import show_messages
show_messages()
print(find_images(sys.argv[1]).skipped)
"""


def test_decoders_print_nothing_between_the_messages(tmp_path: Path) -> None:
    """Damaged TIFF files make libtiff and Pillow print lines of their own."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    file = io.BytesIO()
    noise.save(file, "TIFF", compression="tiff_lzw")
    content = file.getvalue()
    rng = np.random.default_rng(1)
    for number in range(30):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=8)] = rng.integers(256, size=8)
        (tmp_path / f"{number}.tif").write_bytes(damaged.tobytes())
        if number < 2:
            (tmp_path / f"good {number}.tif").write_bytes(content)
    done = subprocess.run([sys.executable, "-c", FIND_IMAGES, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0
    assert ".tif" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("Reading photos: 32")
