"""Exported images and masks: other tools read the same pixels as this package.

- Images are linked or copied. Images that other tools would read differently are converted.
- No exported file replaces a photo, or becomes a photo of the next run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.sparse_scene import image_folder, make_scene
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import ExifTags, Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.export import write_transforms
from nope_splat.io.image_export import export_images, export_masks, exported_names
from nope_splat.io.images import find_images, read_image
from nope_splat.io.output import RECORD


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_exported(tmp_path: Path, copy: bool):
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "originals")
    rotated = folder.images[0].path
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    width, height = scene.image_sizes[0].tolist()
    Image.new("RGB", (height, width)).save(rotated, exif=exif)

    for _ in range(2):  # the second export replaces the first
        exported = export_images(scene, folder, tmp_path / "images", copy)
    files = {path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.*")}
    files -= {RECORD}
    names = [exported.image_names[image_id] for image_id in np.flatnonzero(scene.registered)]
    assert files == set(names)
    assert names[0] == "sub folder/photo 0.jpg.png"
    with Image.open(tmp_path / "images" / names[0]) as image:
        assert image.size == (width, height)
    unchanged = tmp_path / "images" / scene.image_names[1]
    assert unchanged.is_symlink() != copy
    assert unchanged.read_bytes() == folder.images[1].path.read_bytes()


def test_masks_and_transparency_are_exported(tmp_path: Path):
    """Nerfstudio requires a mask for every image, or for none."""
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "originals")
    assert not export_masks(scene, folder, tmp_path / "masks", scene.image_names)
    assert not (tmp_path / "masks").exists()

    (width, height), masked, clear = scene.image_sizes[1].tolist(), folder.images[1], folder.images[3]
    mask = np.full((height, width), 255, np.uint8)
    mask[:, :10] = 0
    (tmp_path / "originals" / "masks" / "sub folder").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "originals" / "masks" / f"{masked.name}.png")
    alpha = np.full((clear.height, clear.width, 4), 255, np.uint8)
    alpha[:20, :, 3] = 0
    Image.fromarray(alpha).save(clear.path, format="PNG")
    folder = find_images(tmp_path / "originals")
    out = tmp_path / "export"
    exported = export_images(scene, folder, out / "images")
    assert export_masks(scene, folder, out / "masks", exported.image_names)
    write_transforms(exported, out / "images", out / "transforms.json", out / "masks")

    config = NerfstudioDataParserConfig(data=out, eval_mode="all", downscale_factor=1)
    outputs = config.setup().get_dataparser_outputs("train")
    assert outputs.mask_filenames is not None
    used = {
        image.name: np.asarray(Image.open(mask)) > 0
        for image, mask in zip(outputs.image_filenames, outputs.mask_filenames, strict=True)
    }
    np.testing.assert_array_equal(used["photo 1.jpg"], mask > 0)
    np.testing.assert_array_equal(used["photo 3.jpg"], alpha[..., 3] > 0)
    assert used["photo 5.jpg"].all()
    with pytest.raises(NopeSplatError, match="contains the original masks"):
        export_masks(scene, folder, tmp_path / "originals" / "masks", exported.image_names)
    with refused("unwritable-output", tmp_path / "masks"):  # these would be masks of the next run
        export_masks(scene, folder, tmp_path / "masks", exported.image_names)
    assert not (tmp_path / "masks").exists()


def test_original_images_are_never_overwritten(tmp_path: Path):
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "images")
    with pytest.raises(NopeSplatError, match="choose another output folder"):
        export_images(scene, folder, tmp_path / "images")
    assert folder.images[0].path.is_file()


@pytest.mark.parametrize("output", ["", "export", "sub folder"])
def test_exports_into_the_photo_folder_are_refused(tmp_path: Path, output: str):
    """They would become photos of the next run, or its only photos."""
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "photos")
    before = sorted(tmp_path.rglob("*"))
    with refused("unwritable-output", folder.root / output / "images"):
        export_images(scene, folder, folder.root / output / "images")
    assert sorted(tmp_path.rglob("*")) == before
    assert find_images(folder.root).root == folder.root


def test_exports_do_not_reach_photos_from_a_folder_above(tmp_path: Path):
    """Exported to the folder above, a photo `a/b.jpg` of the folder `a` has the path of the photo `b.jpg`."""
    scene = make_scene()
    scene = replace(scene, image_names=tuple(f"a/{number}.jpg" for number in range(len(scene.image_names))))
    folder = image_folder(scene, tmp_path / "a")
    with refused("unwritable-output", tmp_path, tmp_path / "a"):
        export_images(scene, folder, tmp_path)
    assert all(image.path.is_file() and not image.path.is_symlink() for image in folder.images)


def test_no_two_images_share_an_exported_file(tmp_path: Path):
    """A converted image gets a free name, also if a photo or a folder has its first choice."""
    scene = make_scene()
    names = ("a.jpg", "a.jpg.png", "b.jpg", "B.JPG.png/c.jpg", "b.jpg_1.png", "d.jpg", "e.jpg")
    folder = tmp_path / "photos"
    for number, (name, size) in enumerate(zip(names, scene.image_sizes.tolist(), strict=True)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mode, color = ("CMYK", (number,) * 4) if name in ("a.jpg", "b.jpg") else ("RGB", (30 * number,) * 3)
        Image.new(mode, tuple(size), color).save(folder / name)
    scene = replace(scene, image_names=names, registered=np.ones(7, bool))
    exported = export_images(scene, find_images(folder), tmp_path / "export")
    assert exported.image_names == ("a.jpg_1.png", names[1], "b.jpg_2.png", *names[3:])
    originals = {image.name: image for image in find_images(folder).images}
    for name, new_name in zip(names, exported.image_names, strict=True):
        with Image.open(tmp_path / "export" / new_name) as image:
            np.testing.assert_array_equal(np.asarray(image), read_image(originals[name]))


@given(
    names=st.lists(st.text("aA./", min_size=1, max_size=6).map(lambda name: f"x{name}x.png"), unique=True),
    data=st.data(),
)
def test_exported_names_are_unique(names: list[str], data: st.DataObject):
    portable = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    chosen = exported_names(names, portable)
    assert len(set(chosen)) == len(names)
    for name, is_unchanged, new_name in zip(names, portable, chosen, strict=True):
        assert new_name == name if is_unchanged else new_name.startswith(name)
