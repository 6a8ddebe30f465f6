"""Test which training a command resumes: the last one of the same settings and photos, if it was interrupted.

Times and places do not matter: outputs and photos may be moved and copied, and the clock may be set back. An
unfinished training that is not resumed is named, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import Timeout
from fixtures.errors import refused
from nerfstudio.scripts.train import main

from nope_splat.io.frame_choice import FrameOptions
from nope_splat.plugin.checkpoints import is_intact, last_intact_checkpoint, load_checkpoint
from nope_splat.plugin.resume import lock_run, release_reserved
from nope_splat.plugin.run_record import RECORD_FILE, RunRecord
from nope_splat.plugin.trainer import NopeTrainer, NopeTrainerConfig
from nope_splat.sfm import SfmOptions

LENGTH = 100
HELD_OUT = "0.jpg"


@pytest.fixture(autouse=True)
def unreserved() -> Any:
    """Release the folders that a command would train in until its process ends."""
    yield
    release_reserved()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of files that are photos by their names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"photo %d" % number)
    return folder


Configure = Callable[..., NopeTrainerConfig]


@pytest.fixture
def configure(photos: Path, tmp_path: Path) -> Configure:
    """Return a function that makes the configuration of a command."""

    def make(sh_degree: int = 3, **options: Any) -> NopeTrainerConfig:
        defaults = {
            "output_dir": tmp_path / "outputs",
            "experiment_name": "scene",
            "max_num_iterations": LENGTH,
        }
        config = NopeTrainerConfig(method_name="nope-splat", **defaults | options)
        config.machine.device_type = "cpu"
        config.data = config.pipeline.datamanager.data = options.get("data", photos)
        config.pipeline.model.sh_degree = sh_degree
        return config

    return make


def leave_run(config: NopeTrainerConfig, name: str, done: int) -> Path:
    """Start a training, and leave it after some iterations."""
    config.timestamp, config.resume = name, "never"
    config.set_timestamp()
    config.save_config()
    run = config.get_base_dir()
    if done:
        save_checkpoint(run, done)
    release_reserved()
    return run


def save_checkpoint(run: Path, done: int) -> None:
    record = RunRecord.read(run)
    assert record is not None
    state = {"training_id": record.id, "continuation": {"held_out": [HELD_OUT]}}
    (run / "nerfstudio_models").mkdir(exist_ok=True)
    torch.save(state, run / "nerfstudio_models" / f"step-{done - 1:09d}.ckpt")


def resumed(config: NopeTrainerConfig) -> Path | None:
    """Return the folder of the run that a command resumes, if it resumes one."""
    config.set_timestamp()
    config.save_config()
    release_reserved()
    return config.get_base_dir() if config.resumes else None


# --- Which run is resumed ---


def test_the_last_training_with_the_same_settings_resumes(configure: Configure, tmp_path: Path) -> None:
    leave_run(configure(), "older", 60)
    last = leave_run(configure(), "last", 40)
    leave_run(configure(sh_degree=2), "other", 80)
    leave_run(configure(resume="never"), "killed before its first checkpoint", 0)
    (last.parent / "no run").mkdir()
    (last.parent / "no folder").touch()
    assert resumed(configure()) == last


def test_a_finished_training_is_not_resumed(configure: Configure) -> None:
    leave_run(configure(), "interrupted", 60)
    leave_run(configure(), "finished", LENGTH)
    assert resumed(configure()) is None


def test_the_last_one_resumed_is_the_last(configure: Configure) -> None:
    first, second = (leave_run(configure(), name, 60) for name in ("first", "second"))
    config = configure(timestamp="first")
    assert resumed(config) == first
    save_checkpoint(first, LENGTH)
    assert resumed(configure()) is None
    assert second.is_dir()


def test_a_folder_is_locked_by_one_process(configure: Configure) -> None:
    run = leave_run(configure(), "run", 60)
    lock = lock_run(run)
    assert resumed(configure()) is None
    with pytest.raises(Timeout):
        lock_run(run)
    lock.release()
    assert resumed(configure()) == run


def test_a_run_without_a_checkpoint_is_used_again(configure: Configure, photos: Path) -> None:
    """Otherwise every kill before the first checkpoint would leave an unused folder."""
    run = leave_run(configure(), "run", 0)
    (photos / "new.jpg").write_bytes(b"nothing was trained yet")
    config = configure()
    assert resumed(config) is None
    assert config.get_base_dir() == run
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]
    record = RunRecord.read(run)
    assert record is not None
    assert "new.jpg" in record.photos


def test_checkpoints_of_an_older_training_are_ignored(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Their folder has the record of a newer training, which has not saved a checkpoint yet."""
    run = leave_run(configure(), "run", 60)
    leave_run(configure(sh_degree=2), "run", 0)
    assert str(run) in caplog.messages[-1]
    assert "--timestamp" in caplog.messages[-1]
    assert resumed(configure(sh_degree=2)) is None
    assert resumed(configure()) is None


# --- Times and places ---


def set_the_clock_back(run: Path) -> Path:
    os.utime(run / "config.yml", (4e9, 4e9))
    return run


def copy_without_times(run: Path) -> Path:
    outputs = run.parents[2]
    subprocess.run(["cp", "-r", outputs, outputs.with_name("copy")], check=True)
    shutil.rmtree(outputs)
    subprocess.run(["cp", "-r", outputs.with_name("copy"), outputs], check=True)
    os.utime(run / "config.yml", (4e9, 4e9))
    return run


@pytest.mark.parametrize("change", [set_the_clock_back, copy_without_times])
def test_times_do_not_matter(configure: Configure, change: Callable[[Path], Path]) -> None:
    run = leave_run(configure(), "run", 60)
    assert resumed(configure()) == change(run)


def test_the_output_folder_does_not_matter(configure: Configure, tmp_path: Path) -> None:
    run = leave_run(configure(), "run", 60)
    shutil.move(tmp_path / "outputs", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / run.relative_to(tmp_path / "outputs")
    assert resumed(configure(output_dir=tmp_path / "elsewhere")) == moved
    saved = yaml.load((moved / "config.yml").read_text(), yaml.Loader)
    assert saved.get_base_dir() == moved, "nerfstudio's commands find the checkpoint by this file"
    assert saved.pipeline.datamanager.dataparser.cache_dir == tmp_path / "elsewhere" / "scene" / "cache"
    assert saved.load_dir is None
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("place", ["relative", "moved"])
def test_the_photo_folder_does_not_matter(
    configure: Configure, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run = leave_run(configure(), "run", 60)
    monkeypatch.chdir(tmp_path)
    data = Path("photos") if place == "relative" else photos.rename(tmp_path / "moved")
    assert resumed(configure(data=data)) == run


def load_config(file: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> NopeTrainerConfig:
    """Run `ns-train --load-config` up to the training, and return the configuration that it would train."""
    started: list[NopeTrainerConfig] = []
    monkeypatch.setattr("nerfstudio.scripts.train.launch", lambda **given: started.append(given["config"]))
    main(NopeTrainerConfig(method_name="nope-splat", load_config=file, **options))
    (config,) = started
    return config


@pytest.mark.parametrize("outputs", ["moved", "deep/er/outputs"])
@pytest.mark.parametrize("working_dir", ["", "deep"])
def test_a_moved_configuration_resumes_its_run(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: str, working_dir: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = leave_run(configure(output_dir=Path("outputs")), "run", 60)
    (tmp_path / outputs).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "deep").mkdir(exist_ok=True)
    shutil.move(tmp_path / "outputs", tmp_path / outputs)
    moved = tmp_path / outputs / run.relative_to("outputs")
    monkeypatch.chdir(tmp_path / working_dir)
    config = load_config(Path(os.path.relpath(moved / "config.yml")), monkeypatch)
    assert config.resumes
    assert config.get_base_dir().resolve() == moved
    cache = config.pipeline.datamanager.dataparser.cache_dir
    assert cache is not None
    assert cache.resolve() == tmp_path / outputs / "scene" / "cache"
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / working_dir / "outputs").exists()


def test_a_run_that_was_moved_alone_is_resumed(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave_run(configure(), "run", 60)
    moved = Path(shutil.move(run, tmp_path / "alone"))
    for _ in range(2):  # the second time from the file that the first one has written
        config = load_config(moved / "config.yml", monkeypatch)
        release_reserved()
        assert config.resumes
        assert config.get_base_dir() == moved
    assert not list(run.parent.iterdir())


def test_a_loaded_configuration_may_have_other_photos(
    configure: Configure, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave_run(configure(), "run", 60)
    moved = photos.rename(tmp_path / "moved photos")
    config = load_config(run / "config.yml", monkeypatch, data=moved)
    assert config.resumes
    assert config.pipeline.datamanager.data == moved


def test_a_configuration_outside_of_a_run_starts_a_training_as_it_says(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave_run(configure(), "run", 0)
    template = Path(shutil.copy(run / "config.yml", tmp_path / "template.yml"))
    shutil.rmtree(run)
    config = load_config(template, monkeypatch)
    assert config.get_base_dir() == run


def test_a_loaded_configuration_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yml").write_text(f"!!python/object/apply:os.mkdir [{tmp_path / 'loot'}]\n")
    with refused("unreadable-file", tmp_path / "config.yml"):
        load_config(tmp_path / "config.yml", monkeypatch)
    assert not (tmp_path / "loot").exists()


# --- Photos ---


@pytest.mark.parametrize("name", [HELD_OUT, "1.jpg"])
def test_a_changed_photo_matters_if_it_was_trained_on(
    configure: Configure, photos: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    run = leave_run(configure(), "run", 60)
    content = (photos / name).read_bytes()
    (photos / name).write_bytes(b"changed")
    assert resumed(configure()) == (run if name == HELD_OUT else None)
    assert any(f"the photo {name}" in message for message in caplog.messages) == (name != HELD_OUT)
    (photos / name).write_bytes(content)
    (photos / "masks").mkdir()
    (photos / "masks" / name).with_suffix(".png").write_bytes(b"mask")
    assert resumed(configure(timestamp="run")) == (run if name == HELD_OUT else None)


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "swapped"])
def test_other_photos_are_another_training(
    configure: Configure, photos: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    run = leave_run(configure(), "run", 60)
    if change == "added":
        (photos / "new.jpg").write_bytes(b"new")
    elif change == "removed":
        (photos / "1.jpg").unlink()
    elif change == "renamed":
        (photos / "1.jpg").rename(photos / "new.jpg")
    else:
        (photos / "1.jpg").write_bytes(b"photo 2")
        (photos / "2.jpg").write_bytes(b"photo 1")
    assert resumed(configure()) is None
    (message,) = (message for message in caplog.messages if str(run) in message)
    assert f"the photo {'new.jpg' if change == 'added' else '1.jpg'}" in message
    assert is_intact(run / "nerfstudio_models" / "step-000000059.ckpt"), "it can be resumed with its photos"


def test_a_run_on_a_video_is_resumed_until_video_or_options_change(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    run = leave_run(configure(data=clip), "run", 60)
    assert resumed(configure(data=clip)) == run
    fewer = configure(data=clip)
    fewer.pipeline.datamanager.dataparser.sfm = SfmOptions(frames=FrameOptions(num_frames=20))
    assert resumed(fewer) is None
    assert "dataparser.num-frames was None in the earlier run and is 20 now" in caplog.text
    clip.write_bytes(b"changed")
    assert resumed(configure(data=clip)) is None
    assert "the photo clip.mp4 or its mask has changed" in caplog.text


# --- Unfinished runs that are not resumed ---


def test_unfinished_runs_are_named_with_the_reason(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    other = leave_run(configure(sh_degree=2), "other", 60)
    done = leave_run(configure(), "done", LENGTH)
    unknown = leave_run(configure(sh_degree=1), "unknown", 60)
    (unknown / RECORD_FILE).unlink()
    caplog.clear()
    assert resumed(configure()) is None
    assert not any(str(done) in message for message in caplog.messages)
    named = {run: next(m for m in caplog.messages if str(run) in m) for run in (other, unknown)}
    assert "60 iterations" in named[other]
    assert "pipeline.model.sh-degree was 2 in the earlier run and is 3 now" in named[other]
    assert "version" in named[unknown]


@pytest.mark.parametrize("reason", ["--resume", "--timestamp", "another process", "later run"])
def test_unfinished_runs_of_the_same_training_are_named(
    configure: Configure, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    run = leave_run(configure(), "run", 60)
    options = {"--resume": {"resume": "never"}, "--timestamp": {"timestamp": "new"}}.get(reason, {})
    lock = lock_run(run) if reason == "another process" else None
    if reason == "later run":
        leave_run(configure(), "later", LENGTH)
    caplog.clear()
    assert resumed(configure(**options)) is None
    (message,) = caplog.messages
    assert str(run) in message
    assert reason in message
    if lock is not None:
        lock.release()


def test_many_unfinished_runs_are_counted(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(7):
        leave_run(configure(max_num_iterations=90 - number), f"run {number}", 60)
    caplog.clear()
    assert resumed(configure()) is None
    assert len(caplog.messages) == 6
    assert "run 6" in caplog.messages[0], "the latest first"
    assert caplog.messages[-1].startswith("2 ")


# --- Start of a run ---


def test_a_second_run_of_the_same_name_changes_nothing(configure: Configure) -> None:
    """Its configuration would make the checkpoints of the first one useless."""
    run = leave_run(configure(), "run", 60)
    lock = lock_run(run)  # the first one still trains
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config = configure(sh_degree=1, timestamp="run")
    config.set_timestamp()
    with refused("run-in-use", run, "--timestamp"):
        config.save_config()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    lock.release()


def test_the_folder_stays_locked_until_the_trainer_has_it(configure: Configure) -> None:
    config = configure(timestamp="run")
    config.set_timestamp()
    config.save_config()
    run = config.get_base_dir()
    with pytest.raises(Timeout):
        lock_run(run)
    trainer = NopeTrainer(config)
    with pytest.raises(Timeout):
        lock_run(run)
    trainer._release()
    lock_run(run).release()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"settings": [], "photos": {}, "number": 1}',
        '{"settings": {"a": 1}, "photos": {}}',
        "[" * 9999,
    ],
)
def test_a_damaged_record_is_no_record(configure: Configure, text: str) -> None:
    run = leave_run(configure(), "run", 60)
    (run / RECORD_FILE).write_text(text)
    assert RunRecord.read(run) is None
    assert resumed(configure()) is None


def test_the_record_has_what_matters_and_nothing_else(
    configure: Configure, photos: Path, tmp_path: Path
) -> None:
    def record(**options: Any) -> RunRecord:
        config = configure(**options)
        config.resolve_auto()
        return RunRecord.from_config(config, photos)

    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a").write_bytes(b"1")
    same = [
        {"output_dir": tmp_path},
        {"timestamp": "x"},
        {"vis": "wandb"},
        {"resume": "never"},
        {"data": tmp_path},
    ]
    assert {record(**options).id for options in same} == {record().id}
    different = [{"sh_degree": 2}, {"steps_per_save": 3}, {"load_dir": tmp_path / "weights"}]
    ids = {record().id, *(record(**options).id for options in different)}
    assert len(ids) == 1 + len(different)
    before = record(load_dir=tmp_path / "weights")
    moved = Path(shutil.move(tmp_path / "weights", tmp_path / "moved"))
    assert record(load_dir=moved).id == before.id, "files are compared by their content"
    (moved / "a").write_bytes(b"2")
    changed = record(load_dir=moved)
    assert changed.id != before.id
    assert changed.different_setting(before) == "the files of load-dir are not the same"
    before.write(tmp_path)
    assert RunRecord.read(tmp_path) == before
    assert json.loads((tmp_path / RECORD_FILE).read_text())["id"] == before.id


# --- Checkpoints ---


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_checkpoints_are_logged_and_skipped(
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
    """Object that would run code when unpickled."""

    def __reduce__(self) -> tuple:
        return print, ("loot",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"pipeline": Loot()}, tmp_path / "step-000000009.ckpt")
    with zipfile.ZipFile(tmp_path / "archive.ckpt", "w") as archive:
        archive.writestr("a", "b")
    for path in tmp_path.glob("*.ckpt"):
        with refused("damaged-checkpoint", path):
            load_checkpoint(path)
    assert "loot" not in capsys.readouterr().out
