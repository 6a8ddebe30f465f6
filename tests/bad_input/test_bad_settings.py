"""Test errors for invalid settings of training and of every command."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.errors import refused
from fixtures.synthetic import make_scene
from nerfstudio.cameras.cameras import Cameras

from nope_splat.cli import main
from nope_splat.errors import ErrorCode
from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.pipeline import require_min_image_size
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.sfm import SfmOptions, reconstruct
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.utils.ranges import check_ranges

DATA, MODEL = "datamanager.dataparser.", "model."
SFM = DATA + "sfm."
MATCHING = SFM + "matching."

OUT_OF_RANGE: dict[str, tuple[Any, str]] = {
    DATA + "eval_interval": (1, "at least 2"),
    DATA + "max_image_size": (0, "at least 1"),
    DATA + "seeding.max_image_size": (16, "at least 32"),
    DATA + "seeding.num_source_views": (0, "at least 1"),
    DATA + "seeding.min_tri_angle": (-1.0, "at least 0 and at most 90"),
    DATA + "seeding.cell_size": (0, "at least 1"),
    MATCHING + "max_keypoints": (0, "at least 1"),
    MATCHING + "max_feature_size": (8, "at least 32"),
    MATCHING + "match_ratio": (1.5, "more than 0 and at most 1"),
    MATCHING + "max_epipolar_error": (0.0, "more than 0 and at most 100"),
    MATCHING + "min_matches": (3, "at least 8"),
    MATCHING + "num_partners": (0, "at least 1"),
    MATCHING + "max_exhaustive_images": (-1, "at least 0"),
    MATCHING + "seed": (-1, "at least 0 and at most 1e+09"),
    SFM + "initial_focal": (-1.0, "more than 0"),
    SFM + "mapper.min_tri_angle": (float("nan"), "more than 0 and at most 90"),
    MODEL + "ssim_lambda": (1.5, "at least 0 and at most 1"),
    MODEL + "track_2d_weight": (-0.1, "at least 0"),
    MODEL + "sh_degree": (4, "at least 0 and at most 3"),
    MODEL + "sh_degree_interval_fraction": (0.0, "more than 0"),
    MODEL + "num_downscales": (-1, "at least 0"),
    MODEL + "resolution_schedule_fraction": (0.0, "more than 0"),
    MODEL + "max_gaussians": (0, "at least 1"),
    MODEL + "densification.refine_every": (0, "at least 1"),
    MODEL + "densification.cull_alpha_thresh": (2.0, "at least 0 and at most 1"),
    MODEL + "densification.reset_alpha_fraction": (-0.1, "at least 0"),
    MODEL + "camera_optimizer.refinement.interval": (0.0, "more than 0"),
    "alignment_steps": (-1, "at least 0"),
}
"""Setting of the pipeline, an invalid value, and its valid range."""


@pytest.fixture
def config(tmp_path: Path) -> NopeTrainerConfig:
    """Return the configuration of a training that is about to start."""
    config = deepcopy(nope_splat.config)
    assert isinstance(config, NopeTrainerConfig)
    config.pipeline.datamanager.data = tmp_path
    config.output_dir = tmp_path / "outputs"
    config.machine.device_type = "cpu"
    config.set_timestamp()
    config.set_experiment_name()
    return config


def set_to(settings: Any, path: str, value: Any) -> None:
    """Set a nested setting, even in frozen dataclasses."""
    *parents, name = path.split(".")
    for parent in parents:
        settings = getattr(settings, parent)
    object.__setattr__(settings, name, value)


@pytest.mark.parametrize("setting", OUT_OF_RANGE)
def test_settings_out_of_range_raise_before_any_work(setting: str, config: NopeTrainerConfig) -> None:
    value, allowed = OUT_OF_RANGE[setting]
    set_to(config.pipeline, setting, value)
    name = setting.split(".")[-1].replace("_", "-")
    with refused("invalid-option", f"{name} is {value}", allowed):
        config.save_config()
    assert not config.output_dir.exists()


def test_defaults_are_in_range(config: NopeTrainerConfig) -> None:
    check_ranges(config)
    config.save_config()


OTHER: dict[str, tuple[str, Any, ErrorCode, str]] = {
    "no length": ("max_num_iterations", 0, "invalid-option", "max-num-iterations is 0"),
    "no photos": ("pipeline.datamanager.data", None, "missing-option", "--data"),
    "no such folder": ("pipeline.datamanager.data", Path("/nowhere"), "missing-file", "/nowhere"),
    "no GPU": ("machine.device_type", "cuda", "missing-device", "machine.device-type is cuda"),
    "no rasterizer": ("machine.device_type", "mps", "invalid-option", "machine.device-type is mps"),
    "no run to go on with": ("load_dir", Path("/nowhere"), "missing-file", "/nowhere"),
}
"""Setting, value, error code, and the names in its message."""


@pytest.mark.parametrize("case", OTHER)
def test_impossible_trainings_raise_before_any_work(
    case: str, config: NopeTrainerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    setting, value, code, named = OTHER[case]
    set_to(config, setting, value)
    with refused(code, named):
        config.save_config()
    assert not config.output_dir.exists()


def test_a_damaged_checkpoint_raises(config: NopeTrainerConfig, tmp_path: Path) -> None:
    config.load_dir = tmp_path
    torch.save({}, tmp_path / "step-000000009.ckpt")
    config.save_config()
    (tmp_path / "step-000000019.ckpt").write_bytes((tmp_path / "step-000000009.ckpt").read_bytes()[:-30])
    with refused("damaged-checkpoint", tmp_path / "step-000000019.ckpt"):
        config.save_config()


@pytest.mark.parametrize(("size", "halvings"), [((64, 10), 0), ((40, 30), 2), ((512, 1), 1)])
def test_images_smaller_than_the_ssim_window_raise(size: tuple[int, int], halvings: int) -> None:
    width, height = size
    pose = torch.eye(4)[None, :3]
    cameras = Cameras(pose, 50.0, 50.0, 1.0, 1.0, torch.tensor([width]), torch.tensor([height]))
    with refused("invalid-option", f"{width} x {height}", "11 pixels", "max-image-size", "num-downscales"):
        require_min_image_size(cameras, halvings)
    cameras.width[:], cameras.height[:] = 11 * 2**halvings, 500
    require_min_image_size(cameras, halvings)


@pytest.mark.parametrize("focal", [30.0, 1e9])
def test_a_focal_length_in_other_units_raises(focal: float, tmp_path: Path) -> None:
    folder = make_scene(3).write_images(tmp_path)
    with refused("invalid-option", f"initial-focal is {focal:g}", "from 64 to 12800 pixels"):
        reconstruct(folder, options=SfmOptions(initial_focal=focal))


CONTRADICTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two devices": ({"machine.num_devices": 2}, ("machine.num-devices", "machine.num-machines")),
    "a step of no folder": ({"load_step": 9}, ("load-step", "load-dir")),
    "two checkpoints": (
        {"load_dir": Path("/one"), "load_checkpoint": Path("/other.ckpt")},
        ("load-dir", "load-checkpoint"),
    ),
    "paused for ever": (
        {"start_paused": True, "vis": "tensorboard"},
        ("start-paused", "vis is tensorboard"),
    ),
    "a loss of what no gradient moves": (
        {"pipeline.model.track_3d_weight": 0.1},
        ("track-3d-weight", "refinement:gradient", "track-points"),
    ),
    "two focal lengths": (
        {
            "pipeline." + SFM + "initialization": KnownCamerasInitialization(Path("/transforms.json")),
            "pipeline." + SFM + "initial_focal": 500.0,
        },
        ("initial-focal", "known cameras"),
    ),
    "depth for nothing": (
        {"pipeline." + SFM + "depth.maps": Path("/maps")},
        ("depth.maps", "initialization:depth", "seeds", "depth-weight"),
    ),
    "two kinds of depth": (
        {
            "pipeline." + SFM + "depth.maps": Path("/maps"),
            "pipeline." + MATCHING + "matcher": "dust3r",
            "pipeline." + DATA + "seeds": "depth",
        },
        ("dust3r", "depth.maps"),
    ),
    "weights of another matcher": (
        {"pipeline." + MATCHING + "dust3r_weights": "some/weights"},
        ("matching.dust3r-weights", "sift", "matching.matcher"),
    ),
}
"""Settings, and the names in the error message."""


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictory_settings_raise_before_any_work(case: str, config: NopeTrainerConfig) -> None:
    changes, named = CONTRADICTIONS[case]
    for setting, value in changes.items():
        set_to(config, setting, value)
    with refused("conflicting-options", *named):
        config.save_config()
    assert not config.output_dir.exists()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder of files with unexpected content."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.yml").write_text("hello")
    (tmp_path / "binary.yml").write_bytes(b"\x80\x04\x95")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "cut.json").write_text('{"frames": [')
    (tmp_path / "nerfstudio_models").mkdir()
    torch.save({}, tmp_path / "nerfstudio_models" / "step-000000009.ckpt")
    return tmp_path


COMMANDS: dict[str, tuple[list[str], ErrorCode, tuple[str, ...]]] = {
    "no such run": (
        ["report", "--load-config", "{}/nowhere.yml"],
        "missing-file",
        ("{}/nowhere.yml",),
    ),
    "not a configuration": (
        ["report", "--load-config", "{}/text.yml"],
        "unreadable-file",
        ("{}/text.yml",),
    ),
    "not even text": (
        ["export-cameras", "--output-dir", "{}/out", "--load-config", "{}/binary.yml"],
        "unreadable-file",
        ("{}/binary.yml",),
    ),
    "no checkpoint": (
        ["report", "--load-config", "{}/empty/../other.json"],
        "unreadable-file",
        ("{}/empty/../other.json",),
    ),
    "json of something else": (
        ["compare-cameras", "{}/other.json", "{}/other.json"],
        "unreadable-file",
        ("{}/other.json", "frames"),
    ),
    "json cut off": (
        ["compare-cameras", "{}/cut.json", "{}/other.json"],
        "unreadable-file",
        ("{}/cut.json", "line 1 column 13"),
    ),
    "empty folder": (
        ["compare-cameras", "{}/empty", "{}/other.json"],
        "missing-file",
        ("{}/empty contains no cameras",),
    ),
    "no photos to make": (
        ["demo-scene", "--output-dir", "{}/demo", "--num-images", "0"],
        "invalid-option",
        ("0 photos",),
    ),
    "photos of no size": (
        ["demo-scene", "--output-dir", "{}/demo", "--size", "64", "0"],
        "invalid-option",
        ("64 x 0 pixels",),
    ),
    "output is a file": (
        ["demo-scene", "--output-dir", "{}/text.yml", "--num-images", "1", "--size", "8", "8"],
        "unwritable-output",
        ("{}/text.yml", "Not a directory"),
    ),
    "a file in the way": (
        ["reconstruct", "--data", "{}", "--output-dir", "{}/text.yml"],
        "unwritable-output",
        ("{}/text.yml", "File exists"),
    ),
}
"""Arguments, error code, and the names in its message."""


@pytest.mark.parametrize("case", COMMANDS)
def test_commands_with_wrong_arguments_raise(case: str, files: Path) -> None:
    arguments, code, named = COMMANDS[case]
    with refused(code, *(name.replace("{}", str(files)) for name in named)):
        main([argument.replace("{}", str(files)) for argument in arguments])


def test_a_missing_file_of_known_cameras_is_an_error_before_any_work(tmp_path: Path) -> None:
    options = SfmOptions(initialization=KnownCamerasInitialization(tmp_path / "none.json"))
    with refused("missing-file", tmp_path / "none.json"):
        reconstruct(tmp_path / "no photos either", options=options)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with refused("missing-file", tmp_path / "photos"):
        reconstruct(str(tmp_path / "photos"))
