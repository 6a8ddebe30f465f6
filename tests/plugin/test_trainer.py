"""Test checkpoints and the length of trainings.

- Checkpoints are written atomically: a failure while saving keeps the previous one.
- The length of a training counts from its start, also after resuming. By default it depends on the number of
  images.
- Unusable checkpoints raise before any work.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from fixtures.disk import full_after
from fixtures.errors import refused
from fixtures.videos import pan, write_video
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from torch import nn

from nope_splat.errors import ErrorCode, NopeSplatError
from nope_splat.io.frame_choice import FrameOptions
from nope_splat.plugin.resume import lock_run
from nope_splat.plugin.trainer import NopeTrainer, NopeTrainerConfig
from nope_splat.sfm import SfmOptions


class Optimizers:
    """Optimizers without parameters."""

    optimizers: dict[str, Any] = {}
    schedulers: dict[str, Any] = {}


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NopeTrainer:
    """Create a trainer without its setup."""
    monkeypatch.setattr("nope_splat.plugin.trainer.capture_state", lambda pipeline: {})
    trainer = NopeTrainer.__new__(NopeTrainer)
    trainer.config = NopeTrainerConfig(max_num_iterations=100)
    trainer.base_dir, trainer.checkpoint_dir = tmp_path, tmp_path / "nerfstudio_models"
    trainer.pipeline = nn.Linear(2, 2)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.optimizers = Optimizers()  # pyright: ignore[reportAttributeAccessIssue]
    trainer.grad_scaler = torch.amp.GradScaler(enabled=False)  # pyright: ignore[reportAttributeAccessIssue]
    trainer._start_step, trainer._lock, trainer.viewer_state = 0, None, None
    return trainer


def names(trainer: NopeTrainer) -> list[str]:
    return sorted(path.name for path in trainer.base_dir.rglob("*") if path.is_file())


def test_the_latest_checkpoint_replaces_the_previous_one(trainer: NopeTrainer) -> None:
    trainer.save_checkpoint(9)
    trainer.save_checkpoint(19)
    assert names(trainer) == ["step-000000019.ckpt"]
    state = torch.load(trainer.checkpoint_dir / "step-000000019.ckpt", weights_only=True)
    assert state["step"] == 19
    torch.testing.assert_close(state["pipeline"], dict(trainer.pipeline.state_dict()))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failed_save_keeps_the_previous_checkpoint(
    trainer: NopeTrainer, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    trainer.save_checkpoint(9)

    def fail(state: object, file: BinaryIO) -> None:
        file.write(b"half of it")
        raise interruption

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises((KeyboardInterrupt, NopeSplatError)) as caught:
        trainer.save_checkpoint(19)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000009.ckpt"]
    if isinstance(caught.value, NopeSplatError):
        assert caught.value.code == "unwritable-output"
        assert names(trainer) == ["step-000000009.ckpt"]


@pytest.mark.parametrize(
    ("max_num_iterations", "images", "length"),
    [("auto", 2, 500), ("auto", 11, 1100), ("auto", 301, 30_000), (70, 11, 70)],
)
def test_default_length_depends_on_the_number_of_images(
    tmp_path: Path, max_num_iterations: Any, images: int, length: int
) -> None:
    config = NopeTrainerConfig(
        method_name="nope-splat", output_dir=tmp_path, max_num_iterations=max_num_iterations
    )
    config.pipeline.datamanager.data = tmp_path
    (tmp_path / "images").mkdir()
    for number in range(images):
        (tmp_path / "images" / f"{number}.jpg").touch()
    (tmp_path / "images" / "notes.txt").touch()
    config.set_timestamp()
    assert config.max_num_iterations == length


def test_a_run_on_a_video_is_named_after_it_and_as_long_as_its_frames_require(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "photos" / "clip.mp4", pan(np.linspace(0, 60, 30).tolist()))
    config = NopeTrainerConfig(method_name="nope-splat", output_dir=tmp_path)
    config.machine.device_type = "cpu"
    config.pipeline.datamanager.data = clip
    config.pipeline.datamanager.dataparser.sfm = SfmOptions(frames=FrameOptions(num_frames=20))
    config.set_timestamp()
    assert config.get_base_dir().relative_to(tmp_path).parts[0] == "clip"
    assert config.pipeline.datamanager.dataparser.cache_dir == tmp_path / "clip" / "cache"
    assert config.max_num_iterations == 2000


@pytest.mark.parametrize(("done", "remaining"), [(0, 100), (60, 40), (99, 1)])
def test_length_counts_from_the_start(
    trainer: NopeTrainer, monkeypatch: pytest.MonkeyPatch, done: int, remaining: int
) -> None:
    trained = []
    monkeypatch.setattr(Trainer, "train", lambda self: trained.append(self.config.max_num_iterations))
    trainer._start_step = done
    trainer.train()
    assert trained == [remaining]


def test_no_remaining_iterations_raises(trainer: NopeTrainer) -> None:
    trainer._start_step = 100
    with refused("invalid-option", 100, "--max-num-iterations"):
        trainer.train()


def test_a_missing_checkpoint_raises(tmp_path: Path) -> None:
    config = NopeTrainerConfig(method_name="nope-splat", load_dir=tmp_path / "nowhere")
    config.machine.device_type = "cpu"
    config.pipeline.datamanager.data = tmp_path
    with refused("missing-file", tmp_path / "nowhere"):
        config.save_config()


@pytest.mark.parametrize("gone", ["checkpoint", "images", "reconstruction"])
def test_an_unresumable_training_restarts(
    trainer: NopeTrainer, gone: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer.save_checkpoint(9)
    if gone == "checkpoint":
        (trainer.checkpoint_dir / "step-000000009.ckpt").write_bytes(b"damaged")
    monkeypatch.setattr(NopeTrainerConfig, "resumes", True)
    monkeypatch.setattr(trainer.pipeline, "data_difference", lambda state: gone, raising=False)
    trainer._load_checkpoint()
    assert trainer._start_step == 0
    assert str(trainer.base_dir) in caplog.messages[-1]
    assert gone in caplog.messages[-1]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_else(
    trainer: NopeTrainer, share: float
) -> None:
    """What torch raises while it closes the file depends on what is missing."""
    trainer.pipeline = nn.Sequential(*(nn.Linear(50, 50) for _ in range(10)))  # pyright: ignore[reportAttributeAccessIssue]
    trainer.save_checkpoint(9)
    last = trainer.checkpoint_dir / "step-000000009.ckpt"
    before = last.read_bytes()
    reason = os.strerror(errno.EFBIG)
    with (
        full_after(int(share * len(before))),
        refused("unwritable-output", trainer.checkpoint_dir, reason, "--output-dir"),
    ):
        trainer.save_checkpoint(19)
    assert names(trainer) == [last.name]
    assert last.read_bytes() == before
    trainer.save_checkpoint(19)  # there is space again
    assert names(trainer) == ["step-000000019.ckpt"]


def test_a_checkpoint_reaches_the_disk_before_the_previous_one_is_removed(
    trainer: NopeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss, file systems may have the removal but not the content."""
    trainer.save_checkpoint(9)
    order, fsync, unlink = [], os.fsync, Path.unlink

    def traced_fsync(descriptor: int) -> None:
        order.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def traced_unlink(path: Path, **options: bool) -> None:
        order.append(f"unlink {path.name}")
        unlink(path, **options)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "unlink", traced_unlink)
    trainer.save_checkpoint(19)
    assert order == ["fsync checkpoint.partial", "fsync nerfstudio_models", "unlink step-000000009.ckpt"]


@pytest.mark.parametrize("gone", ["folder", "config.yml"])
def test_a_removed_folder_raises(trainer: NopeTrainer, gone: str) -> None:
    """A checkpoint without its configuration would be of no use."""
    trainer._training_id = "id"
    (trainer.base_dir / "config.yml").touch()
    trainer.save_checkpoint(9)
    if gone == "folder":
        shutil.rmtree(trainer.base_dir)
    else:
        (trainer.base_dir / gone).unlink()
    with refused("missing-file", trainer.base_dir):
        trainer.save_checkpoint(19)
    assert trainer.base_dir.is_dir() == (gone != "folder")


def lose_folder(base_dir: Path) -> None:
    shutil.rmtree(base_dir)


def fill_disk(base_dir: Path) -> None:
    del base_dir
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(
    ("disturb", "code"), [(lose_folder, "missing-file"), (fill_disk, "unwritable-output")]
)
def test_curves_that_cannot_be_written_raise_one_error(
    trainer: NopeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    disturb: Callable[[Path], None],
    code: ErrorCode,
) -> None:
    """TensorBoard writes in a thread of its own."""
    log = trainer.base_dir / "log"
    log.mkdir()

    def train(self: NopeTrainer) -> None:
        curves = writer.TensorboardWriter(log)
        writer.EVENT_WRITERS.append(curves)
        disturb(self.base_dir)
        for step in range(100):
            curves.write_scalar("loss", 1.0, step)
            curves.tb_writer.flush()

    monkeypatch.setattr(Trainer, "train", train)
    with full_after(-1), refused(code, trainer.base_dir):  # the limit is restored at the end
        trainer.train()
    assert "Traceback" not in capfd.readouterr().err
    assert not writer.EVENT_WRITERS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_raises_with_the_reason(trainer: NopeTrainer) -> None:
    (trainer.base_dir / "checkpoint.partial").symlink_to("/dev/full")
    with refused("unwritable-output", trainer.checkpoint_dir, "No space left on device", "--output-dir"):
        trainer.save_checkpoint(9)


def test_a_read_only_output_folder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    config = NopeTrainerConfig(method_name="nope-splat", output_dir=tmp_path, timestamp="run")
    config.machine.device_type, config.pipeline.datamanager.data = "cpu", tmp_path
    monkeypatch.setattr(Path, "mkdir", refuse)
    run = tmp_path / tmp_path.name / "nope-splat" / "run"
    with refused("unwritable-output", run, "Permission denied", "--output-dir"):
        config.save_config()


def test_a_folder_in_use_by_another_process_raises(tmp_path: Path) -> None:
    config = NopeTrainerConfig(method_name="nope-splat", output_dir=tmp_path, timestamp="run")
    config.machine.device_type = "cpu"
    lock = lock_run(config.get_base_dir())
    with refused("run-in-use", config.get_base_dir(), "--timestamp"):
        NopeTrainer(config)
    lock.release()
