"""Exported images and masks: other tools read the same pixels as this package.

- Images are linked or copied. Images that other tools would read differently are converted.
- No exported file replaces a photo, or becomes a photo of the next run.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import picture, save
from fixtures.sparse_scene import image_folder, make_scene
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from nope_splat.errors import NopeSplatError
from nope_splat.io.export import write_colmap, write_transforms
from nope_splat.io.image_export import export_images, export_masks, exported_names, is_portable
from nope_splat.io.images import find_images, read_image, read_mask
from nope_splat.io.output import RECORD
from nope_splat.scene.stationary import StationaryPixels


def mixed_files(folder: Path) -> dict[str, bool]:
    """Save images in all formats, orientations, color profiles and depths.

    Returns:
        Whether each image is portable, by name.
    """
    image, mirrored, gray = (
        picture(),
        picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        picture().convert("L"),
    )
    pixels, ramp = np.asarray(image), np.linspace(0, 255, image.width).astype(np.uint8)
    transparent = Image.fromarray(np.dstack([pixels, np.tile(ramp, (image.height, 1))]))
    frames = {"save_all": True, "append_images": [mirrored]}
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = PngImagePlugin.PngInfo()
    linear.add(b"gAMA", struct.pack(">I", 100_000))
    portable = {
        "a.jpg": (image, {"quality": 75}),
        "progressive.jpg": (image, {"progressive": True, "subsampling": 0}),
        "gray.jpg": (gray, {}),
        "stereo.jpg": (image, {"format": "MPO", **frames}),
        "srgb.jpg": (image, {"icc_profile": srgb}),
        "a png.jpg": (image, {"format": "PNG"}),
        "a.png": (image, {}),
        "gray.png": (gray, {}),
        "gray with a profile of colors.jpg": (gray, {"icc_profile": display_p3()}),
        "transparent.png": (transparent, {}),
        "one color transparent.png": (image, {"transparency": tuple(pixels[0, 0].tolist())}),
    }
    converted = {
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "wide.jpg": (image, {"icc_profile": display_p3()}),
        "wide.png": (transparent, {"icc_profile": display_p3()}),
        "linear.png": (image, {"pnginfo": linear}),
        "palette.png": (image.quantize(16), {}),
        "bits.png": (image.convert("1"), {}),
        "transparent gray.png": (transparent.convert("LA"), {}),
        "animated.png": (image, {**frames, "default_image": True}),
        "gray 16.png": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {}),
        "a.webp": (image, {"lossless": True}),
        "a.gif": (image, {}),
        "a.bmp": (image, {}),
        "a.tif": (image, {}),
        "a.jp2": (image, {}),
        "a.heic": (image, {"quality": 95}),
        "a.avif": (image, {"quality": 95}),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        files = portable if orientation == 1 else converted
        files |= {f"turned {orientation}.{suffix}": (image, {"exif": exif}) for suffix in ("jpg", "png")}
        converted[f"turned {orientation}.tif"] = (image, {"exif": exif})
    for name, (content, options) in (portable | converted).items():
        save(content, folder / name, **options)
    cv2.imwrite(str(folder / "deep.png"), pixels.astype(np.uint16) * 257)
    return dict.fromkeys(portable, True) | dict.fromkeys([*converted, "deep.png"], False)


def display_p3() -> bytes:
    """Return a color profile with the primaries of Display P3: sRGB's, changed."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for tag, xyz in primaries.items():
        (offset,) = struct.unpack_from(">I", profile, profile.index(tag) + 4)
        struct.pack_into(">3i", profile, offset + 8, *(round(65536 * value) for value in xyz))
    return bytes(profile)


def test_other_tools_read_the_same_pixels_and_cameras(tmp_path: Path):
    pycolmap = pytest.importorskip("pycolmap")
    portable = mixed_files(tmp_path / "photos")
    folder = find_images(tmp_path / "photos")
    portable = {image.name: portable[image.name] for image in folder.images}
    assert {image.name: is_portable(image) for image in folder.images} == portable
    scene = make_scene(num_images=len(folder.images))
    scene = replace(
        scene,
        image_names=tuple(portable),
        image_sizes=np.array([[image.width, image.height] for image in folder.images]),
        held_out=np.zeros_like(scene.held_out),
        registered=np.ones_like(scene.registered),
    )
    out = tmp_path / "out"
    exported = export_images(scene, folder, out / "images")
    masked = export_masks(scene, folder, out / "masks", exported.image_names)
    write_transforms(exported, out / "images", out / "transforms.json", out / "masks" if masked else None)
    write_colmap(exported, out / "sparse" / "0")

    config = NerfstudioDataParserConfig(
        data=out,
        eval_mode="all",
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
    )
    outputs = config.setup().get_dataparser_outputs("train")
    dataset = InputDataset(outputs)
    model = pycolmap.Reconstruction(out / "sparse" / "0")
    of_name = {image.name: image for image in model.images.values()}
    assert len(dataset) == len(of_name) == len(folder.images)
    for index, file in enumerate(outputs.image_filenames):
        name = file.relative_to(out / "images").as_posix()
        image_id = exported.image_names.index(name)
        expected, mask = read_image(folder.images[image_id]), read_mask(folder.images[image_id])
        data = dataset.get_data(index, "uint8")
        colmap = pycolmap.Bitmap.read(out / "images" / name, True).to_array()
        for pixels in (data["image"].numpy()[..., :3], colmap):
            assert pixels.shape[:2] == expected.shape[:2], name
            assert np.abs(pixels.astype(int) - expected[..., :3]).max() <= 2, name
        np.testing.assert_array_equal(data["mask"].numpy()[..., 0], np.True_ if mask is None else mask)

        pose, camera = scene.T_world_camera[image_id, :3], model.cameras[of_name[name].camera_id]
        np.testing.assert_allclose(of_name[name].cam_from_world().inverse().matrix(), pose, atol=1e-6)
        flipped = outputs.cameras.camera_to_worlds[index].numpy() * [1, -1, -1, 1]
        np.testing.assert_allclose(flipped, pose, atol=1e-6)
        intrinsics = [611.0, *scene.cameras[0].principal_points(scene.image_sizes[image_id])]
        np.testing.assert_allclose(camera.params, intrinsics, rtol=1e-6)
        fields = (getattr(outputs.cameras, key)[index].item() for key in ("fx", "cx", "cy"))
        np.testing.assert_allclose(list(fields), intrinsics, rtol=1e-6)


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
    with pytest.raises(NopeSplatError, match="masks cannot be written to"):
        export_masks(scene, folder, tmp_path / "originals" / "masks", exported.image_names)
    with refused("unwritable-output", tmp_path / "masks"):  # these would be masks of the next run
        export_masks(scene, folder, tmp_path / "masks", exported.image_names)
    assert not (tmp_path / "masks").exists()


def test_stationary_pixels_are_exported_as_masks(tmp_path: Path):
    scene = make_scene(portrait=False)
    folder = image_folder(scene, tmp_path / "photos")
    cells = np.zeros((2, 2), bool)
    cells[1, 0] = True
    scene = replace(scene, stationary=(StationaryPixels((640, 480), cells, 100),))
    assert export_masks(scene, folder, tmp_path / "out", scene.image_names)
    mask = np.asarray(Image.open(tmp_path / "out" / f"{scene.image_names[0]}.png")) > 0
    np.testing.assert_array_equal(mask, ~cells.repeat(240, 0).repeat(320, 1))

    assert not export_masks(replace(scene, stationary=()), folder, tmp_path / "out", scene.image_names)
    assert not list((tmp_path / "out").rglob("*.png")), "masks of the earlier export are removed"


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
