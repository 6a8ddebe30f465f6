"""Settings that make no sense, of training and of every command, and exactly what is said about each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.synthetic import make_scene
from nerfstudio.cameras.cameras import Cameras

from nope_splat.cli import main
from nope_splat.errors import NopeSplatError
from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.pipeline import require_windows
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
    MODEL + "sh_interval": (0.0, "more than 0"),
    MODEL + "num_downscales": (-1, "at least 0"),
    MODEL + "resolution_interval": (0.0, "more than 0"),
    MODEL + "max_gaussians": (0, "at least 1"),
    MODEL + "densify_every": (0, "at least 1"),
    MODEL + "cull_alpha_thresh": (2.0, "at least 0 and at most 1"),
    MODEL + "reset_opacity": (-0.1, "at least 0"),
    MODEL + "camera_optimizer.adjust_interval": (0.0, "more than 0"),
    "alignment_steps": (-1, "at least 0"),
}
"""Setting of the pipeline, a value, and what it must be."""


@pytest.fixture
def config(tmp_path: Path) -> NopeTrainerConfig:
    """A training of images in a folder, about to start."""
    config = deepcopy(nope_splat.config)
    assert isinstance(config, NopeTrainerConfig)
    config.pipeline.datamanager.data = tmp_path
    config.output_dir = tmp_path / "outputs"
    config.machine.device_type = "cpu"
    config.set_timestamp()
    config.set_experiment_name()
    return config


def set_to(settings: Any, path: str, value: Any) -> None:
    """Set a setting of a setting, whatever is frozen on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        settings = getattr(settings, parent)
    object.__setattr__(settings, name, value)


def told(config: NopeTrainerConfig) -> str:
    """What is said instead of a training."""
    with pytest.raises(NopeSplatError) as caught:
        config.save_config()
    assert not config.output_dir.exists()
    return str(caught.value)


@pytest.mark.parametrize("setting", OUT_OF_RANGE)
def test_settings_out_of_range_are_told_before_anything_else(setting: str, config: NopeTrainerConfig) -> None:
    value, allowed = OUT_OF_RANGE[setting]
    set_to(config.pipeline, setting, value)
    name = setting.split(".")[-1].replace("_", "-")
    assert told(config) == f"nope-splat: {name} is {value}, but must be {allowed}"


def test_the_defaults_are_in_range(config: NopeTrainerConfig) -> None:
    check_ranges(config)
    config.save_config()


OTHER: dict[str, tuple[Callable[[NopeTrainerConfig], None], str]] = {
    "no length": (
        lambda config: set_to(config, "max_num_iterations", 0),
        "max-num-iterations is 0, but must be at least 1",
    ),
    "no photos": (
        lambda config: set_to(config, "pipeline.datamanager.data", None),
        "no photos were given; pass their folder with --data",
    ),
    "no such folder": (
        lambda config: set_to(config, "pipeline.datamanager.data", Path("/nowhere")),
        "there is no photo folder /nowhere; check --data",
    ),
    "no GPU": (
        lambda config: set_to(config, "machine.device_type", "cuda"),
        "machine.device-type is cuda, but torch finds no GPU here; choose cpu",
    ),
    "no rasterizer": (
        lambda config: set_to(config, "machine.device_type", "mps"),
        "machine.device-type is mps, which has no rasterizer; choose cpu or cuda",
    ),
    "no run to go on with": (
        lambda config: set_to(config, "load_dir", Path("/nowhere")),
        "there is no checkpoint in /nowhere; let the training run until it saves one",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_trainings_that_cannot_be_are_told_before_anything_else(
    case: str, config: NopeTrainerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change, sentence = OTHER[case]
    change(config)
    assert told(config) == f"nope-splat: {sentence}"


def test_a_damaged_checkpoint_is_told(config: NopeTrainerConfig, tmp_path: Path) -> None:
    config.load_dir = tmp_path
    torch.save({}, tmp_path / "step-000000009.ckpt")
    config.save_config()
    (tmp_path / "step-000000019.ckpt").write_bytes((tmp_path / "step-000000009.ckpt").read_bytes()[:-30])
    with pytest.raises(NopeSplatError) as caught:
        config.save_config()
    assert str(caught.value) == (
        f"nope-splat: the checkpoint {tmp_path}/step-000000019.ckpt is damaged; remove it, and train anew or"
        " from another"
    )


@pytest.mark.parametrize(("size", "halvings"), [((64, 10), 0), ((40, 30), 2), ((512, 1), 1)])
def test_images_too_small_to_compare_are_told(size: tuple[int, int], halvings: int) -> None:
    width, height = size
    pose = torch.eye(4)[None, :3]
    cameras = Cameras(pose, 50.0, 50.0, 1.0, 1.0, torch.tensor([width]), torch.tensor([height]))
    with pytest.raises(NopeSplatError) as caught:
        require_windows(cameras, halvings)
    assert str(caught.value) == (
        f"nope-splat: training images of {width} x {height} pixels, halved {halvings} times, have sides"
        " shorter than the 11 pixels that the loss compares; raise max-image-size or lower num-downscales"
    )
    cameras.width[:], cameras.height[:] = 11 * 2**halvings, 500
    require_windows(cameras, halvings)


@pytest.mark.parametrize("focal", [30.0, 1e9])
def test_a_focal_length_in_other_units_is_told(focal: float, tmp_path: Path) -> None:
    folder = make_scene(3).write_images(tmp_path)
    with pytest.raises(NopeSplatError) as caught:
        reconstruct(folder, options=SfmOptions(initial_focal=focal))
    assert str(caught.value) == (
        f"nope-splat: initial-focal is {focal:g}, but photos of 640 pixels have focal lengths from 64 to"
        " 12800 pixels; it is not in millimeters"
    )


CAMERAS = "pipeline.model.camera_optimizer."
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "two devices": (
        {"machine.num_devices": 2},
        "trainings run on one device; leave out machine.num-devices and machine.num-machines",
    ),
    "a step of no folder": (
        {"load_step": 9},
        "load-step chooses among the checkpoints of load-dir, which is not given; give it too",
    ),
    "two checkpoints": (
        {"load_dir": Path("/one"), "load_checkpoint": Path("/other.ckpt")},
        "load-dir and load-checkpoint name two checkpoints to go on from; give one of them",
    ),
    "paused for ever": (
        {"start_paused": True, "vis": "tensorboard"},
        "start-paused waits for a click in the viewer, and vis is tensorboard; choose a vis with the viewer,"
        " or leave start-paused out",
    ),
    "a pull without gradient steps": (
        {CAMERAS + "rot_l2_penalty": 0.1},
        "rot-l2-penalty pulls on gradient steps, and joint adjustments take none; set camera-optimizer.method"
        " to adam, or leave it out",
    ),
    "a loss of what no gradient moves": (
        {"pipeline.model.track_3d_weight": 0.1},
        "track-3d-weight has no say where joint adjustments move cameras and track points; set"
        " camera-optimizer.method to adam or track-points to tied, or leave it out",
    ),
    "two focal lengths": (
        {
            "pipeline." + SFM + "initialization": KnownCamerasInitialization(Path("/transforms.json")),
            "pipeline." + SFM + "initial_focal": 500.0,
        },
        "the file of known cameras has the focal length already; leave out initial-focal, or the known"
        " cameras",
    ),
    "depth for nothing": (
        {"pipeline." + SFM + "depth.maps": Path("/maps")},
        "depth.maps is given, but nothing uses depth; pass initialization:depth, set seeds to depth or a"
        " weight such as depth-weight, or leave it out",
    ),
    "two kinds of depth": (
        {
            "pipeline." + SFM + "depth.maps": Path("/maps"),
            "pipeline." + MATCHING + "matcher": "dust3r",
            "pipeline." + DATA + "seeds": "depth",
        },
        "depth comes from the matcher dust3r or from depth.maps; leave out one of them",
    ),
    "weights of another matcher": (
        {"pipeline." + MATCHING + "dust3r_weights": "some/weights"},
        "matching.dust3r-weights is given, but the matcher is sift; set matching.matcher to dust3r",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_told_before_anything_else(case: str, config: NopeTrainerConfig) -> None:
    changes, sentence = CONTRADICTIONS[case]
    for setting, value in changes.items():
        set_to(config, setting, value)
    assert told(config) == f"nope-splat: {sentence}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files that are not what they should be."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.yml").write_text("hello")
    (tmp_path / "binary.yml").write_bytes(b"\x80\x04\x95")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "cut.json").write_text('{"frames": [')
    (tmp_path / "nerfstudio_models").mkdir()
    torch.save({}, tmp_path / "nerfstudio_models" / "step-000000009.ckpt")
    return tmp_path


NO_CAMERAS = "; give a transforms.json, a folder with a COLMAP model, or a ground truth file"
COMMANDS: dict[str, tuple[list[str], str]] = {
    "no such run": (
        ["report", "--load-config", "{}/nowhere.yml"],
        "there is no file {}/nowhere.yml; give the config.yml that ns-train wrote",
    ),
    "not a configuration": (
        ["report", "--load-config", "{}/text.yml"],
        "{}/text.yml is not the configuration of a training; give the config.yml of ns-train",
    ),
    "not even text": (
        ["export-cameras", "--output-dir", "{}/out", "--load-config", "{}/binary.yml"],
        "{}/binary.yml is not the configuration of a training; give the config.yml of ns-train",
    ),
    "no checkpoint": (
        ["report", "--load-config", "{}/empty/../other.json"],
        "{}/empty/../other.json is not the configuration of a training; give the config.yml of ns-train",
    ),
    "json of something else": (
        ["compare-cameras", "{}/other.json", "{}/other.json"],
        "{}/other.json holds no cameras (KeyError: 'frames')" + NO_CAMERAS,
    ),
    "json cut off": (
        ["compare-cameras", "{}/cut.json", "{}/other.json"],
        "{}/cut.json holds no cameras (JSONDecodeError: Expecting value: line 1 column 13 (char 12))"
        + NO_CAMERAS,
    ),
    "empty folder": (
        ["compare-cameras", "{}/empty", "{}/other.json"],
        "there is no COLMAP model (cameras.bin and images.bin, or .txt) in {}/empty/sparse/0",
    ),
    "no photos to make": (
        ["demo-scene", "--output-dir", "{}/demo", "--num-images", "0"],
        "0 photos of 640 x 480 pixels with seed 0 cannot be made; give at least 1 of each and a seed"
        " from 0 on",
    ),
    "photos of no size": (
        ["demo-scene", "--output-dir", "{}/demo", "--size", "64", "0"],
        "20 photos of 64 x 0 pixels with seed 0 cannot be made; give at least 1 of each and a seed from 0 on",
    ),
    "output is a file": (
        ["demo-scene", "--output-dir", "{}/text.yml", "--num-images", "1", "--size", "8", "8"],
        "cannot write the demo photos to {}/text.yml: Not a directory.",
    ),
    "a file in the way": (
        ["reconstruct", "--data", "{}", "--output-dir", "{}/text.yml"],
        "cannot write to {}/text.yml (File exists); free some space or choose another folder",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands_with_wrong_arguments(case: str, files: Path) -> None:
    arguments, sentence = COMMANDS[case]
    with pytest.raises(NopeSplatError) as caught:
        main([argument.replace("{}", str(files)) for argument in arguments])
    assert str(caught.value) == "nope-splat: " + sentence.replace("{}", str(files))
