"""Which training a command goes on with: the last of the same settings, if it was interrupted."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from fixtures.errors import refused

from nope_splat.plugin.checkpoints import is_intact, last_intact_checkpoint, load_checkpoint
from nope_splat.plugin.resume import find_resumable_run, lock_run

SETTINGS = "timestamp: now\nresume: auto\nlearning_rate: 1\n"
LENGTH = 100


def leave_run(folder: Path, step: int | None, minutes_ago: float, settings: str = SETTINGS) -> Path:
    """What a training up to a checkpoint leaves."""
    (folder / "nerfstudio_models").mkdir(parents=True)
    config = folder / "config.yml"
    config.write_text(settings.replace("now", folder.name).replace("auto", "never"))
    os.utime(config, (0, 0))
    if step is not None:
        checkpoint = folder / "nerfstudio_models" / f"step-{step:09d}.ckpt"
        torch.save({"step": step}, checkpoint)
        os.utime(checkpoint, (0, 1e9 - 60 * minutes_ago))
    return folder


def found(runs: Path) -> Path | None:
    return find_resumable_run(runs.iterdir(), SETTINGS, LENGTH)


def test_latest_run_with_the_same_settings_is_resumed(tmp_path: Path) -> None:
    leave_run(tmp_path / "older", 59, 20)
    last = leave_run(tmp_path / "last", 39, 10)
    leave_run(tmp_path / "other", 79, 5, SETTINGS.replace("1", "2"))
    leave_run(tmp_path / "killed before its first checkpoint", None, 0)
    (tmp_path / "no run").mkdir()
    (tmp_path / "no folder").touch()
    assert found(tmp_path) == last


def test_after_a_finished_training_a_new_one_begins(tmp_path: Path) -> None:
    leave_run(tmp_path / "interrupted", 59, 20)
    leave_run(tmp_path / "finished", LENGTH - 1, 10)
    assert found(tmp_path) is None


def test_no_two_processes_train_in_one_folder(tmp_path: Path) -> None:
    run = leave_run(tmp_path / "run", 59, 10)
    lock = lock_run(run)
    assert found(tmp_path) is None
    with pytest.raises(Timeout):
        lock_run(run)
    lock.release()
    assert found(tmp_path) == run


def test_checkpoints_of_an_older_training_in_the_folder_do_not_count(tmp_path: Path) -> None:
    run = leave_run(tmp_path / "latest", 59, 10)
    (run / "config.yml").touch()
    assert found(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_checkpoints_are_named_and_passed_over(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, last = (tmp_path / f"step-{step:09d}.ckpt" for step in (9, 19))
    for path in (before, last):
        torch.save({"values": torch.zeros(500)}, path)
    assert is_intact(last)
    content = bytearray(last.read_bytes())
    content[content.index(bytes(2000)) + 1000] = 1
    last.write_bytes({"cut": content[:-30], "flipped": content, "empty": b""}[damage])
    assert last_intact_checkpoint(tmp_path) == before
    (message,) = caplog.messages
    assert str(last) in message
    before.unlink()
    assert last_intact_checkpoint(tmp_path) is None


class Loot:
    """Something that would run code when it is loaded."""

    def __reduce__(self) -> tuple:
        return print, ("loot",)


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"pipeline": Loot()}, tmp_path / "step-000000009.ckpt")
    with zipfile.ZipFile(tmp_path / "archive.ckpt", "w") as archive:
        archive.writestr("a", "b")
    for path in tmp_path.glob("*.ckpt"):
        with refused("damaged-checkpoint", path):
            load_checkpoint(path)
    assert "loot" not in capsys.readouterr().out
