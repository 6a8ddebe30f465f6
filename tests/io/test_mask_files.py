"""Which mask file belongs to which photo, by names."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.image_files import picture, save

from nope_splat.io.images import count_images, find_images, list_files
from nope_splat.io.mask_files import mask_folders


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def assigned(data: Path) -> dict[str, str | None]:
    """Return the mask of each photo, relative to the folder above `data` or `data/images`."""
    return {
        name: mask and mask.relative_to(data).as_posix()
        for name, (_, mask) in sorted(list_files(data).items())
    }


@pytest.mark.parametrize(
    "mask",
    [
        "masks/a.jpg.png",
        "masks/a.png",
        "masks/a.jpg",
        "masks/a.JPG",
        "masks/A.PNG",
        "masks/a.gif",
        "masks/a_mask.png",
        "masks/a.mask.png",
        "masks/a.jpg.mask.png",
        "masks/a_Mask.JPG",
        "masks/a.png.png",
        "masks/a-removebg-preview.png",
        "Masks/a_mask.JPG",
        "MASKS/a.png",
        "mask/a.png",
        "images_mask/a.png",
        "images_masks/a.png",
        "images/masks/a.png",
        "images/mask/a_mask.png",
        "images/images_mask/a.png",
        "images/a_mask.png",
        "images/a.mask.png",
        "images/a-MASK.PNG",
        "images/a.jpg_mask.png",
    ],
)
def test_names_of_masks(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", mask)
    assert assigned(tmp_path) == {"a.jpg": mask, "b.jpg": None}
    assert count_images(tmp_path) == 2


@pytest.mark.parametrize(
    ("mask", "photo"),
    [
        ("masks/left/a.png", "left/a.jpg"),
        ("images/left/masks/a_mask.png", "left/a.jpg"),
        ("images/left/a_mask.png", "left/a.jpg"),
        ("masks/c.png", "right/c.jpg"),  # the only one of this name
        ("masks/a.png", None),
        ("masks/left/c.png", None),
        ("images/left/masks/c.png", None),
        ("masks/c_2.png", None),  # may be the mask of another photo
        ("masks/c.2.png", None),
        ("masks/cmask.png", None),
    ],
)
def test_masks_of_photos_in_subfolders(tmp_path: Path, mask: str, photo: str | None) -> None:
    touch(tmp_path, "images/left/a.jpg", "images/right/a.jpg", "images/right/c.jpg", mask)
    expected = {
        name: mask if name == photo else None for name in ("left/a.jpg", "right/a.jpg", "right/c.jpg")
    }
    assert assigned(tmp_path) == expected


def test_photos_that_are_called_masks_are_photos(tmp_path: Path) -> None:
    names = ["a.jpg", "carnival/gas_mask.png", "gas_mask.png", "mask.jpg", "unmask.jpg"]
    touch(tmp_path, *names)
    assert assigned(tmp_path) == dict.fromkeys(names)


def test_a_mask_beside_a_photo_with_the_name_of_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "gas_mask.jpg", "gas_mask_mask.png", "masks/gas_mask.png")
    assert assigned(tmp_path)["gas_mask.jpg"] == "masks/gas_mask.png"


def test_the_case_of_letters_distinguishes_photos(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/A.jpg", "masks/a.png", "masks/A.png")
    if len(list((tmp_path / "images").iterdir())) < 2:
        pytest.skip("the file system ignores the case of letters")
    assert assigned(tmp_path) == {"a.jpg": "masks/a.png", "A.jpg": "masks/A.png"}


def test_two_photos_of_one_name_share_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png")
    assert set(assigned(tmp_path).values()) == {"masks/a.png"}
    touch(tmp_path, "masks/a.png.png")
    assert assigned(tmp_path) == {"a.jpg": "masks/a.png", "a.png": "masks/a.png.png"}


ORDER = [
    "images/masks/a.jpg.png",
    "images/masks/a.png",
    "images/masks/a.jpg",
    "images/masks/a_mask.png",
    "images/masks/a.png.png",
    "images/mask/a.png",
    "masks/a.jpg.png",
    "images_mask/a.png",
    "images/a_mask.png",
]


@pytest.mark.parametrize("first", range(len(ORDER) - 1))
def test_one_of_several_masks_is_used(tmp_path: Path, first: int, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("images/a.jpg", "images/b.jpg", *ORDER[first:]):
        save(picture(), tmp_path / name)
    assert assigned(tmp_path)["a.jpg"] == ORDER[first]
    find_images(tmp_path)
    (message,) = [text for text in caplog.messages if "several masks" in text]
    assert f"{tmp_path / ORDER[first]} is used" in message
    assert str(tmp_path / ORDER[first + 1]) in message


def test_masks_without_a_photo_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "masks/a.png", *(f"masks/{n}.png" for n in range(5))):
        save(picture(), tmp_path / name)
    find_images(tmp_path)
    (message,) = [text for text in caplog.messages if "masks" in text]
    assert str(tmp_path / "masks") in message
    assert "0.png, 1.png, 2.png and 2 more" in message


def test_searched_folders_include_those_that_do_not_exist(tmp_path: Path) -> None:
    folders = mask_folders(tmp_path / "photos")
    for name in ("masks", "photos/Masks", "photos_mask", "images_masks", "photos/mask"):
        assert tmp_path / name in folders
