"""Frames of videos as images: names, cache, notices, and folders with videos and photos."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import picture, save
from fixtures.sparse_scene import make_scene
from fixtures.videos import HEIGHT, WIDTH, pan, write_video
from PIL import Image

from nope_splat.io import video_frames
from nope_splat.io.fingerprint import content_key, folder_hashes
from nope_splat.io.frame_choice import FrameOptions
from nope_splat.io.image_export import export_images, uses_original_images
from nope_splat.io.images import ImageFolder, count_images, find_images, read_image, read_mask
from nope_splat.io.video import VideoError
from nope_splat.io.video_frames import RECORD, estimate_num_frames, extract_frames
from nope_splat.utils.cache import Cache, read_only_caches

FIVE = FrameOptions(num_frames=5)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Write a video of 30 frames in which the camera moves sideways."""
    return write_video(tmp_path / "photos" / "clip.mp4", pan(np.linspace(0, 60, 30).tolist()))


def names(folder: ImageFolder) -> list[str]:
    return [image.name for image in folder.images]


# --- Names, content and cache ---


def test_frames_are_named_by_their_index(clip: Path, tmp_path: Path) -> None:
    folder = find_images(clip, frame_options=FIVE, cache_dir=tmp_path / "cache")
    assert len(folder.images) == 5
    with av.open(clip) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for image in folder.images:
        video, _, file = image.name.partition("/")
        assert (video, image.video) == ("clip.mp4", "clip.mp4")
        assert (image.width, image.height) == (WIDTH, HEIGHT)
        difference = read_image(image).astype(int) - expected[int(file.removesuffix(".jpg"))]
        assert np.abs(difference).mean() < 2
    assert folder.root == clip


def test_frames_are_reused_until_video_or_options_change(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = find_images(clip, frame_options=FIVE, cache_dir=cache)
    key = content_key(first.images, {})
    with monkeypatch.context() as patch:
        patch.setattr(video_frames, "_measured", None)
        assert find_images(clip, frame_options=FIVE, cache_dir=cache) == first
        moved = shutil.copytree(clip.parent, tmp_path / "elsewhere") / "clip.mp4"
        assert content_key(find_images(moved, frame_options=FIVE, cache_dir=cache).images, {}) == key
    assert len(find_images(clip, frame_options=FrameOptions(num_frames=7), cache_dir=cache).images) == 7
    write_video(clip, pan(np.linspace(0, 60, 30).tolist(), seed=1))
    changed = find_images(clip, frame_options=FIVE, cache_dir=cache)
    assert content_key(changed.images, {}) != key
    assert len(list(cache.iterdir())) == 3


def test_frames_are_the_same_on_every_extraction(clip: Path, tmp_path: Path) -> None:
    folders = [find_images(clip, frame_options=FIVE, cache_dir=tmp_path / name) for name in "ab"]
    assert len({content_key(folder.images, {}) for folder in folders}) == 1


def test_without_a_cache_frames_are_temporary(clip: Path) -> None:
    paths = [find_images(clip, frame_options=FIVE).images[0].path for _ in range(2)]
    assert paths[0] == paths[1]
    assert not paths[0].is_relative_to(clip.parent)


def test_read_only_caches_are_read_but_not_written(clip: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with read_only_caches():
        assert len(find_images(clip, frame_options=FIVE, cache_dir=cache).images) == 5
        assert not cache.exists()
    stored = find_images(clip, frame_options=FIVE, cache_dir=cache)
    with read_only_caches():
        assert find_images(clip, frame_options=FIVE, cache_dir=cache) == stored


def test_an_interrupted_extraction_leaves_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(video_frames.Video, "read_srgb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        find_images(clip, frame_options=FIVE, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_in_the_photo_folder_is_not_read_as_photos(clip: Path) -> None:
    folders = [
        find_images(clip.parent, frame_options=FIVE, cache_dir=clip.parent / "run" / "cache")
        for _ in range(2)
    ]
    assert folders[0] == folders[1]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Frames in memory would take 57 kB each."""
    peaks = []
    for num_frames in (30, 150):
        path = write_video(tmp_path / f"{num_frames}.mp4", pan(np.linspace(0, 60, num_frames).tolist()))
        tracemalloc.start()
        extract_frames(path, path.name, FIVE, Cache(tmp_path / "cache"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 10 * WIDTH * HEIGHT * 3


# --- Videos of all kinds ---


def test_variable_frame_rates(clip: Path, tmp_path: Path) -> None:
    """Frames are chosen by motion, so they do not depend on the times; the default number does."""
    images = pan(np.linspace(0, 60, 30).tolist())
    times = np.cumsum(np.tile([0.1, 1.0, 0.03], 10)).tolist()
    path = write_video(tmp_path / "variable.mp4", images, times)
    cache = Cache(tmp_path / "cache")
    assert extract_frames(path, "v", FIVE, cache)[1].files == extract_frames(clip, "c", FIVE, cache)[1].files
    _, frames = extract_frames(path, "v", FrameOptions(), cache)
    assert frames.total == 30
    assert frames.seconds == pytest.approx(times[-1] - times[0], abs=1.1)
    assert frames.max_num_frames == FrameOptions().max_num_frames(frames.seconds)


def test_the_number_of_frames_is_estimated_without_decoding(clip: Path, tmp_path: Path) -> None:
    assert estimate_num_frames(clip, FIVE) == 5
    assert estimate_num_frames(clip, FrameOptions()) == 16
    assert estimate_num_frames(tmp_path / "missing.mp4", FIVE) == 0
    save(picture(), clip.parent / "a.jpg")
    assert count_images(clip.parent, FIVE) == 6
    assert count_images(clip, FIVE) == 5


def test_the_readable_part_of_a_truncated_video_is_used(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(clip.with_suffix(".mkv"), pan(np.linspace(0, 60, 90).tolist()))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    folder = find_images(path, frame_options=FIVE)
    assert len(folder.images) == 5
    assert "seconds of the video clip.mkv can be read" in caplog.text
    caplog.clear()
    assert find_images(path, frame_options=FIVE) == folder
    assert "seconds of the video clip.mkv can be read" in caplog.text, "also if the frames are cached"


def test_damaged_frames_are_not_used(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(clip, pan(np.linspace(0, 60, 30).tolist()), gop_size=3)
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    clip.write_bytes(content)
    assert len(find_images(clip, frame_options=FIVE).images) >= 2
    assert "damaged frames of the video clip.mp4" in caplog.text


@pytest.mark.parametrize("content", [b"", b"text\n" * 100, b"\0" * 5000])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with refused("unreadable-file", tmp_path / "a.mp4"):
        find_images(tmp_path / "a.mp4")
    with pytest.raises(VideoError):
        extract_frames(tmp_path / "a.mp4", "a.mp4", FIVE, Cache(tmp_path / "cache"))


def test_a_video_that_is_too_short_or_still_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, images in {"short": pan([0.0]), "still": pan([0.0] * 20)}.items():
        path = write_video(tmp_path / f"{name}.mp4", images)
        with refused("too-few-images", path, "only one readable frame"):
            find_images(path)
        assert f"Only one frame of the video {name}.mp4 is used" in caplog.text


def test_users_are_told_if_frames_are_far_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "a.mp4", pan(np.linspace(0, 400, 80).tolist()))
    find_images(path, frame_options=FrameOptions(num_frames=4))
    (message,) = [text for text in caplog.messages if "num-frames" in text]
    needed = int(message.rpartition("num-frames ")[2].rstrip("."))
    assert 8 <= needed <= 16
    caplog.clear()
    find_images(path, frame_options=FrameOptions(num_frames=needed))
    assert "num-frames" not in caplog.text


# --- Folders ---


def test_a_folder_with_videos_and_photos(clip: Path) -> None:
    save(picture(WIDTH, HEIGHT), clip.parent / "a.jpg")
    save(picture(WIDTH, HEIGHT), clip.parent / "z.png")
    write_video(clip.parent / "sub" / "Other.MOV", pan(np.linspace(0, 60, 30).tolist(), seed=1))
    folder = find_images(clip.parent, frame_options=FrameOptions(num_frames=3))
    assert [name.rpartition("/")[0] for name in names(folder)] == [
        "",
        *["clip.mp4"] * 3,
        *["sub/Other.MOV"] * 3,
        "",
    ]
    assert folder.skipped == {}
    assert {image.video for image in folder.images} == {None, "clip.mp4", "sub/Other.MOV"}
    assert list(folder_hashes(clip.parent)) == ["a.jpg", "z.png", "clip.mp4", "sub/Other.MOV"]


def test_a_damaged_video_beside_photos_is_skipped(clip: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        save(picture(), clip.parent / name)
    clip.write_bytes(b"text")
    folder = find_images(clip.parent)
    assert names(folder) == ["a.jpg", "b.jpg"]
    assert "not a video" in folder.skipped["clip.mp4"]


def test_the_moving_part_of_a_photo_is_not_read(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("clip.jpg", "b.jpg"):
        save(picture(), clip.parent / name)
    assert names(find_images(clip.parent)) == ["b.jpg", "clip.jpg"]
    assert "clip.mp4 is not read because there is a photo of the same name" in caplog.text


@pytest.mark.parametrize("mask", ["masks/clip.mp4.png", "masks/clip.png", "clip_mask.png"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_the_mask_of_a_video_is_that_of_its_frames(clip: Path, mask: str, is_folder: bool) -> None:
    levels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    levels[:, : WIDTH // 2] = 0
    save(Image.fromarray(levels), clip.parent / mask)
    folder = find_images(clip.parent if is_folder else clip, frame_options=FIVE)
    assert len(folder.images) == 5
    for image in folder.images:
        used = read_mask(image)
        assert used is not None
        assert used.mean() == 0.5
    assert " " in folder_hashes(clip)["clip.mp4"], "the hash of the mask follows"


# --- Export ---


def test_exported_frames_do_not_depend_on_the_cache(clip: Path, tmp_path: Path) -> None:
    folder = find_images(clip, frame_options=FIVE, cache_dir=tmp_path / "cache")
    scene = replace(
        make_scene(num_images=5),
        image_names=tuple(names(folder)),
        image_sizes=np.array([[WIDTH, HEIGHT]] * 5),
        registered=np.ones(5, bool),
    )
    assert export_images(scene, folder, tmp_path / "images").image_names == scene.image_names
    expected = {image.name: image.path.read_bytes() for image in folder.images}
    shutil.rmtree(tmp_path / "cache")
    assert {name: (tmp_path / "images" / name).read_bytes() for name in expected} == expected


def test_the_record_lists_the_frames(clip: Path, tmp_path: Path) -> None:
    folder, frames = extract_frames(clip, "clip.mp4", FIVE, Cache(tmp_path))
    assert json.loads((folder / RECORD).read_text())["total"] == frames.total == 30
    assert sorted(path.name for path in folder.iterdir()) == [*frames.files, RECORD]


def test_output_in_a_photo_folder_with_videos_is_refused(clip: Path) -> None:
    folder = find_images(clip.parent, frame_options=FIVE)
    with refused("unwritable-output", "clip.mp4/"):
        uses_original_images(folder, clip.parent)
    assert not uses_original_images(find_images(clip, frame_options=FIVE), clip.parent)
