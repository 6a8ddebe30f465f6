"""Export images and masks, so that other tools read the same pixels as this package."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, compress, count
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.decoding import read_pixels
from nope_splat.io.images import (
    MAX_READING_THREADS,
    ImageFile,
    ImageFolder,
    read_image,
    read_mask,
    reopen_image,
)
from nope_splat.io.mask_files import mask_folders
from nope_splat.io.output import RECORD, check_replaceable, replacing_files
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.utils.progress import progress_bar

PORTABLE_FORMATS = frozenset({"JPEG", "MPO", "PNG"})
"""Pillow formats that all other tools read. Images in other formats are converted: pycolmap cannot read WebP,
AVIF, HEIC, GIF or JPEG 2000 files, and some tools cannot read TIFF or BMP files."""
MAX_COLOR_DIFFERENCE = 2
"""Colors whose 8-bit levels differ by at most this number count as equal."""


def export_images(
    scene: Reconstruction, folder: ImageFolder, directory: Path, copy: bool = False
) -> Reconstruction:
    """Export the registered images to a folder for other tools, as symbolic links or copies.

    Images that other tools may read differently (see `is_portable`) are converted to upright PNG files with
    8 bits per channel in sRGB, and `.png` is appended to their names (`_1.png` and so on if the name is
    taken). Images of an earlier export to the same folder are removed.

    Args:
        scene: The reconstruction.
        folder: The original images.
        directory: Folder to export to; created if missing.
        copy: Whether to copy the files instead of creating symbolic links.

    Returns:
        The reconstruction with the names of the exported images; names of unregistered images are unchanged.

    Raises:
        NopeSplatError: If the files cannot be written, or `directory` is in the original image folder or
            contains a file of the same name that this package did not write.
    """
    images = list(compress(images_of(scene, folder), scene.registered))
    names = _names_outside_photos(images, folder, directory)

    def write(image: ImageFile, name: str, staging: Path) -> None:
        file = staging / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name != image.name:
            Image.fromarray(read_image(image)).save(file, compress_level=1)  # other levels are slow
        elif copy or image.video is not None:  # frames are in the cache, which may be removed
            shutil.copyfile(image.path, file)
        else:
            file.symlink_to(image.path.resolve())

    pool = ThreadPoolExecutor(MAX_READING_THREADS)
    with replacing_files(directory, remove_others=True) as staging, pool:
        tasks = pool.map(write, images, names, [staging] * len(names))
        list(progress_bar(tasks, "Writing photos", len(names)))
    new_names = np.array(scene.image_names, dtype=object)
    new_names[scene.registered] = names
    return replace(scene, image_names=tuple(new_names.tolist()))


def check_image_export(folder: ImageFolder, directory: Path) -> None:
    """Check, before a long computation, that `export_images` can export all images of a folder.

    Args:
        folder: The original images.
        directory: Folder to export to.

    Raises:
        NopeSplatError: For the same reasons as `export_images`.
    """
    check_replaceable(directory, _names_outside_photos(folder.images, folder, directory))


def uses_original_images(folder: ImageFolder, output_dir: Path) -> bool:
    """Check whether the output is in the image folder, so that other tools have to read the original images.

    Images are not exported into the image folder, because the next run would read them as photos.

    Args:
        folder: The original images.
        output_dir: Output folder; images are exported to its subfolder `images`.

    Raises:
        NopeSplatError: If the output is in the image folder, and an image has to be converted or is a frame
            of a video.
    """
    root = folder.root.resolve()
    if not (output_dir / "images").resolve().is_relative_to(root):
        return False
    written = (image.name for image in folder.images if image.video is not None or not is_portable(image))
    converted = next(written, None)
    if converted is not None:
        raise NopeSplatError(
            "unwritable-output",
            f"{converted} must be written or converted for other tools, but {output_dir / 'images'} is in the"
            f" photo folder {folder.root}; choose another output folder",
        )
    return True


def is_portable(image_file: ImageFile) -> bool:
    """Check whether other tools read the same pixels from an image file as `read_image` does.

    Args:
        image_file: The image.

    Returns:
        True if the file is a JPEG or PNG file with 8-bit gray, RGB or RGBA pixels in sRGB, without animation
        and without EXIF orientation.

    Raises:
        NopeSplatError: If the file can no longer be read.
    """
    with reopen_image(image_file.path) as image:
        animated = image.format == "PNG" and getattr(image, "n_frames", 1) > 1
        tiles = getattr(image, "tile", ())  # their last values are decoder arguments such as "RGB;16B"
        deep = any("16" in str(tile[-1]) for tile in tiles)
        return (
            image.format in PORTABLE_FORMATS
            and image.mode in ("L", "RGB", "RGBA")
            and not animated
            and not deep
            and _is_upright(image)
            and not _has_other_colors(image)
        )


def exported_names(names: Sequence[str], portable: Sequence[bool]) -> list[str]:
    """Choose the names of exported images, so that no two images are written to the same file.

    Args:
        names: Names of the N images.
        portable: Whether each image is exported without conversion, under its original name. (N,).

    Returns:
        Name of each exported image: unchanged if `portable` is True, else the original name with `.png`
        appended, or `_1.png`, `_2.png` and so on if that name is taken. (N,).
    """
    # Names are compared without case, for file systems that ignore it, and with the names of folders.
    taken = {part.casefold() for name in names for part in (name, *map(str, PurePosixPath(name).parents))}
    chosen = []
    for name, is_unchanged in zip(names, portable, strict=True):
        endings = chain([".png"], (f"_{number}.png" for number in count(1)))
        free = (name + ending for ending in endings if (name + ending).casefold() not in taken)
        chosen.append(name if is_unchanged else next(free))
        taken.add(chosen[-1].casefold())
    return chosen


def export_masks(scene: Reconstruction, folder: ImageFolder, directory: Path, names: Sequence[str]) -> bool:
    """Write the mask of each registered image: mask file, transparency and stationary cells combined.

    Stationary cells show content that moves with the camera, such as a logo (see `StationaryPixels`).

    As COLMAP and nerfstudio expect, there is one PNG file per image, named like the exported image plus
    `.png`, with used pixels white and ignored pixels black. Without any masks, nothing is written. Masks of
    an earlier export to the same folder are removed.

    Args:
        scene: The reconstruction, with the original image names.
        folder: The original images.
        directory: Folder to export to; created if missing.
        names: Names of all N images after export, from `export_images`. (N,).

    Returns:
        Whether masks were written.

    Raises:
        NopeSplatError: If the files cannot be written, if masks of the original images are read from
            `directory`, or if it contains a file of the same name that this package did not write.
    """
    images, registered = images_of(scene, folder), np.flatnonzero(scene.registered).tolist()
    is_masked = any(has_mask(images[image_id]) for image_id in registered)
    if not is_masked and not (directory / RECORD).is_file():
        return False
    originals = [image.mask_path.resolve() for image in folder.images if image.mask_path is not None]
    searched = [path.resolve() for path in mask_folders(folder.root)]
    if directory.resolve() in searched or any(path.is_relative_to(directory.resolve()) for path in originals):
        raise NopeSplatError(
            "unwritable-output",
            f"masks cannot be written to {directory}, because masks of the original photos are read from"
            " there; choose another output folder",
        )

    def write(image_id: int, staging: Path) -> None:
        image, mask = images[image_id], read_mask(images[image_id])
        used = np.ones((image.height, image.width), bool) if mask is None else mask
        file = staging / f"{names[image_id]}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 * used.astype(np.uint8)).save(file)

    pool = ThreadPoolExecutor(MAX_READING_THREADS)
    with replacing_files(directory, remove_others=True) as staging, pool:
        if is_masked:
            list(pool.map(write, registered, [staging] * len(registered)))
    return is_masked


def images_of(scene: Reconstruction, folder: ImageFolder) -> list[ImageFile]:
    """Return the image file of each image in a reconstruction, with the stationary cells of the image.

    Stationary cells are grid cells whose content moves with the camera, such as a logo (see
    `StationaryPixels`). They are stored in the field `ignored` of each `ImageFile`; None if there are none.

    Args:
        scene: The reconstruction, with the original image names.
        folder: The original images.
    """
    by_name = {image.name: image for image in folder.images}
    return [
        replace(by_name[name], ignored=scene.stationary_cells(image_id))
        for image_id, name in enumerate(scene.image_names)
    ]


def has_mask(image_file: ImageFile) -> bool:
    """Check whether `read_mask` returns a mask for an image, without decoding the image.

    Args:
        image_file: The image.

    Raises:
        NopeSplatError: If the file can no longer be read.
    """
    if image_file.mask_path is not None or image_file.ignored is not None:
        return True
    with reopen_image(image_file.path) as image:
        return image.has_transparency_data


def _is_upright(image: Image.Image) -> bool:
    """Check whether the stored pixels are upright; False if damaged EXIF data leave this open."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # damaged EXIF data, which other tools may still read
        return False


def _names_outside_photos(images: Sequence[ImageFile], folder: ImageFolder, directory: Path) -> list[str]:
    """Choose names of exported images (see `exported_names`), and check that none is in the image folder.

    Raises:
        NopeSplatError: If an exported image would be in the image folder.
    """
    names = exported_names([image.name for image in images], [is_portable(image) for image in images])
    # Files exported to the photo folder could replace photos, or would be input of the next run.
    folders = {directory.resolve(), *((directory / name).parent.resolve() for name in names)}
    if any(path.is_relative_to(folder.root.resolve()) for path in folders):
        raise NopeSplatError(
            "unwritable-output",
            f"{directory} is in the photo folder {folder.root}, or leads into it; choose another output"
            " folder",
        )
    return names


def _has_other_colors(image: Image.Image) -> bool:
    """Check whether `read_image` changes colors, because the file describes colors other than sRGB.

    Other tools ignore such descriptions. The check converts a few colors as if they were in the image.
    """
    levels = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 17)], indexing="ij"), -1).astype(np.uint8)
    samples = Image.fromarray(levels.reshape(len(levels), -1, 3)).convert(image.mode)
    samples.info, samples.format = image.info, image.format
    difference = read_pixels(samples)[..., :3].astype(int) - np.asarray(samples.convert("RGB"))
    return bool(np.abs(difference).max() > MAX_COLOR_DIFFERENCE)
