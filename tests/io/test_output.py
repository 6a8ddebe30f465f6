"""Output files are complete or unchanged, and replace only files that this package wrote."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.sparse_scene import image_folder, make_scene

from nope_splat.cli import main
from nope_splat.io.export import write_colmap, write_report, write_transforms
from nope_splat.io.image_export import export_images
from nope_splat.io.output import RECORD, STAGING, check_replaceable, replacing_files


def write(directory: Path, files: dict[str, str], **options) -> None:
    with replacing_files(directory, **options) as staging:
        for name, content in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(content)


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(directory).as_posix(): path.read_text() for path in files}


def test_files_of_earlier_exports_are_replaced_or_removed(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1", "sub/b": "1", "c": "1"})
    (tmp_path / "mine").write_text("1")
    (tmp_path / "c").write_text("changed")
    write(tmp_path, {"a": "2"}, remove_others=True)
    assert contents(tmp_path) == {"a": "2", "mine": "1", "c": "changed"}
    assert not (tmp_path / "sub").exists()


def test_the_record_does_not_depend_on_earlier_exports(tmp_path: Path) -> None:
    files = dict.fromkeys("dbcafe", "1")
    write(tmp_path / "once", files)
    write(tmp_path / "twice", dict(list(files.items())[:3]))
    write(tmp_path / "twice", files)
    assert (tmp_path / "once" / RECORD).read_bytes() == (tmp_path / "twice" / RECORD).read_bytes()


def test_no_empty_folder_is_left(tmp_path: Path) -> None:
    write(tmp_path / "masks", {"a.png": "1"})
    write(tmp_path / "masks", {}, remove_others=True)
    with suppress(ValueError), replacing_files(tmp_path / "refused"):
        raise ValueError
    (tmp_path / "of somebody else").mkdir()
    write(tmp_path / "of somebody else", {})
    assert [path.name for path in tmp_path.iterdir()] == ["of somebody else"]


def test_obsolete_files_are_removed(tmp_path: Path) -> None:
    write(tmp_path, {"model.txt": "1", "other": "1"})
    write(tmp_path, {"model.bin": "2"}, obsolete=["model.bin", "model.txt", "missing"])
    assert contents(tmp_path) == {"model.bin": "2", "other": "1"}
    write(tmp_path, {"other": "2"})


@pytest.mark.parametrize("options", [{}, {"obsolete": ["b"]}])
def test_files_of_others_are_refused(options: dict, tmp_path: Path) -> None:
    write(tmp_path, {"b": "1"})
    (tmp_path / "b").write_text("changed")
    name = "a" if options else "b"
    with refused("unwritable-output", tmp_path / "b"):
        write(tmp_path, {name: "2"}, **options)
    with refused("unwritable-output", tmp_path / "b"):
        check_replaceable(tmp_path, ["b"])
    assert contents(tmp_path) == {"b": "changed"}


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": {"a": 1}}', '{"files": {"../a": ["1"]}}'])
def test_a_damaged_record_protects_all_files(record: str, tmp_path: Path) -> None:
    write(tmp_path, {"a": "1"})
    (tmp_path / RECORD).write_text(record)
    with refused("unwritable-output", tmp_path / "a"):
        write(tmp_path, {"a": "2"}, remove_others=True)


def test_files_behind_a_link_are_not_removed(tmp_path: Path) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    write(out, {"sub/a": "1"})
    (out / "sub").rename(photos)
    (out / "sub").symlink_to(photos)
    write(out, {}, remove_others=True)
    assert (photos / "a").read_text() == "1"


def test_an_error_leaves_the_earlier_files(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1"})
    with refused("unwritable-output", tmp_path), replacing_files(tmp_path) as staging:
        (staging / "a").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert contents(tmp_path) == {"a": "1"}


def test_a_kill_between_two_files_does_not_block_the_next_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a": "1", "b": "1"})

    def killed(source: Path, target: Path, replace=os.replace) -> None:
        if target.name == "b":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, {"a": "2", "b": "2"})
    assert contents(tmp_path) == {"a": "2", "b": "1"}
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "b").write_text("half")
    write(tmp_path, {"a": "3", "b": "3"})
    assert contents(tmp_path) == {"a": "3", "b": "3"}


def test_a_model_of_colmap_is_refused_and_ours_is_replaced(tmp_path: Path) -> None:
    """COLMAP would read poses from `frames.bin` of the other model."""
    scene = make_scene()
    for name in ("rigs.bin", "frames.bin", "cameras.txt"):
        (tmp_path / name / "sparse" / "0").mkdir(parents=True)
        (tmp_path / name / "sparse" / "0" / name).write_bytes(b"")
        with refused("unwritable-output", tmp_path / name / "sparse" / "0" / name):
            write_colmap(scene, tmp_path / name / "sparse" / "0")
        with refused("unwritable-output", tmp_path / name / "sparse" / "0" / name):
            main(["reconstruct", "--data", str(tmp_path / "none"), "--output-dir", str(tmp_path / name)])
    for text, suffix in ((False, "bin"), (True, "txt"), (False, "bin")):
        write_colmap(scene, tmp_path / "ours", text)
        names = {path.name for path in (tmp_path / "ours").iterdir()}
        assert names == {RECORD, f"cameras.{suffix}", f"images.{suffix}", f"points3D.{suffix}"}


def test_pycolmap_reads_our_poses_after_a_second_export(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene()
    write_colmap(scene, tmp_path)
    pycolmap.Reconstruction(tmp_path).write(tmp_path)  # adds rigs.bin and frames.bin
    with refused("unwritable-output", tmp_path, "was changed since"):
        write_colmap(scene, tmp_path)


def test_other_outputs_of_others_are_refused(tmp_path: Path) -> None:
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "photos")
    for name in ("transforms.json", "report.json", "images/sub folder/photo 1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    with refused("unwritable-output", tmp_path / "transforms.json"):
        write_transforms(scene, tmp_path / "images", tmp_path / "transforms.json")
    with refused("unwritable-output", tmp_path / "report.json"):
        write_report(scene, tmp_path / "report.json")
    with refused("unwritable-output", tmp_path / "images" / "sub folder" / "photo 1.jpg"):
        export_images(scene, folder, tmp_path / "images")
    assert (tmp_path / "images" / "sub folder" / "photo 1.jpg").read_text() == "precious"


def test_images_of_an_earlier_export_are_removed(tmp_path: Path) -> None:
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "photos")
    export_images(scene, folder, tmp_path / "images", copy=True)
    scene.registered[np.flatnonzero(scene.registered)[1:]] = False
    export_images(scene, folder, tmp_path / "images")
    files = {path.name for path in (tmp_path / "images").rglob("*") if not path.is_dir()}
    assert files == {RECORD, "photo 0.jpg"}
