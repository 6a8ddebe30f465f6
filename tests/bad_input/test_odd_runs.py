"""Odd configurations and checkpoints: every command ends in one sentence, or leaves out what is unusable."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fixtures.errors import refused
from fixtures.splat_scene import make_pipeline
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from nope_splat.cli import main
from nope_splat.errors import ErrorCode, NopeSplatError
from nope_splat.plugin.checkpoints import load_checkpoint
from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.load_run import open_run
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.sfm.reliability.options import ReliabilityOptions

NAN, INFINITY = float("nan"), float("inf")
MODEL = "_model."
CAMERAS = MODEL + "camera_optimizer."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Save a training of a tiny scene, and return its folder."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        pipeline = make_pipeline(folder / "data", monkeypatch)
        config = deepcopy(nope_splat.config)
        assert isinstance(config, NopeTrainerConfig)
        config.pipeline = pipeline.config
        config.machine.device_type = "cpu"
        config.output_dir, config.timestamp = folder / "outputs", "run"
        run = folder / "run" / "config.yml"
        checkpoint(run).parent.mkdir(parents=True)
        run.write_text(yaml.dump(config))
        pipeline.history.record(0, {"psnr": 20.0})
        torch.save({"step": 9, "pipeline": pipeline.state_dict()}, checkpoint(run))
        yield run.parent


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Copy the training, and return its configuration."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run" / "config.yml"


def checkpoint(run: Path) -> Path:
    return run.parent / "nerfstudio_models" / "step-000000009.ckpt"


def assert_refused(run: Path, code: ErrorCode, *named: object) -> None:
    """Assert that the commands refuse a run."""
    for arguments in (["report"], ["export-cameras", "--output-dir", str(run.parent / "export")]):
        with refused(code, *named):
            main([*arguments, "--load-config", str(run)])


def test_the_run_itself_is_accepted(run: Path) -> None:
    main(["report", "--load-config", str(run)])
    assert (run.parent / "report.html").is_file()


DATA, SFM = "pipeline.datamanager.dataparser.", "pipeline.datamanager.dataparser.sfm."
VALUES: dict[str, list[tuple[Any, str]]] = {
    DATA + "eval_interval": [
        (0, "at least 2"),
        ("8", "a whole number"),
        (10**400, "64 bits"),
        (None, "None"),
    ],
    DATA + "max_image_size": [([1], "[1]"), (NAN, "nan"), (-3, "at least 1"), (10**5000, "64 bits")],
    DATA + "seeds": [("denser", "dense or tracks or depth"), ({}, "dict")],
    DATA + "cache_dir": [("cache", "a path"), (3, "a path")],
    DATA + "sfm": [(None, "SfmOptions"), ("sfm", "SfmOptions")],
    SFM + "initial_focal": [(NAN, "more than 0"), ("500", "a number")],
    SFM + "mapper.refinement.filter_max_reproj_errors": [((8.0, "x"), "tuple"), (None, "tuple")],
    SFM + "initialization": [(3, "TwoViewInitialization")],
    "pipeline": [(None, "NopePipelineConfig")],
    "pipeline.datamanager.data": [("photos", "a path")],
    "pipeline.datamanager.train_cameras_sampling_seed": [("x", "a whole number")],
    "pipeline.model.sh_degree": [("three", "a whole number"), (-1, "at least 0"), (3.0, "a whole number")],
    "pipeline.model.rasterize_mode": [("fast", "classic or antialiased")],
    "pipeline.model.camera_optimizer": [(None, "NopeCameraOptimizerConfig")],
    "pipeline._target": [(VanillaPipeline, "NopePipelineConfig"), (None, "NopePipelineConfig")],
    "pipeline.datamanager._target": [(VanillaDataManager, "NopeDataManagerConfig"), (Path, "_target")],
    DATA + "_target": [(NopePipeline, "NopeDataParserConfig")],
    "pipeline.model._target": [(torch.nn.Linear, "NopeSplatModelConfig")],
    "pipeline.model.camera_optimizer._target": [(torch.Tensor, "NopeCameraOptimizerConfig")],
    "machine.device_type": [("mps", "cuda or cpu")],
    "steps_per_eval_image": [("1000\n500", "1000 500")],
}
"""Odd values of settings, and words of the message."""


def edit(run: Path, setting: str, value: Any) -> None:
    """Change a setting in the file."""
    config = settings = yaml.unsafe_load(run.read_text())
    *parents, name = setting.split(".")
    for parent in parents:
        settings = getattr(settings, parent)
    object.__setattr__(settings, name, value)
    text = yaml.dump(config) if value != 10**5000 else None
    if text is None:  # Python refuses to write so many digits
        object.__setattr__(settings, name, -77_777)
        text = yaml.dump(config).replace("-77777", "0x" + "f" * 5000)
    run.write_text(text)


@pytest.mark.parametrize(
    ("setting", "number"), [(name, i) for name, values in VALUES.items() for i in range(len(values))]
)
def test_odd_settings_are_refused(setting: str, number: int, run: Path) -> None:
    value, words = VALUES[setting][number]
    edit(run, setting, value)
    is_target = setting.endswith("_target")
    assert_refused(run, "unreadable-file" if is_target else "invalid-option", run, words)


def test_settings_of_a_later_version_get_their_defaults(run: Path) -> None:
    config = yaml.unsafe_load(run.read_text())
    dataparser = config.pipeline.datamanager.dataparser
    object.__delattr__(dataparser.sfm.mapper.reliability, "camera_profile")
    object.__delattr__(dataparser.sfm, "strict")
    del dataparser.max_image_size  # "auto" by default, which depends on the device
    run.write_text(yaml.dump(config))
    read = open_run(run).pipeline.datamanager.dataparser.config
    assert read.sfm.mapper.reliability == ReliabilityOptions()
    assert not read.sfm.strict
    assert read.max_image_size != "auto"


def test_damaged_settings_are_refused(run: Path) -> None:
    text = run.read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("eval_interval")]
    run.write_text("\n".join(line for line in lines if "seeding" not in line))
    with pytest.raises(NopeSplatError):
        open_run(run)


STRUCTURES = {
    "deep": "more: " + "[" * 50_000,
    "contains itself": "more: &a\n- *a",
    "billions of references": "more:\n- &a0 [x]\n"
    + "".join(f"- &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)),
}


@pytest.mark.parametrize("case", STRUCTURES)
def test_odd_structures_end(case: str, run: Path) -> None:
    run.write_text(run.read_text() + STRUCTURES[case])
    if case == "deep":
        assert_refused(run, "unreadable-file", run)
    else:
        open_run(run)


STATES: dict[str, object] = {
    "empty": {},
    "a list": [1, 2],
    "a tensor": torch.zeros(3),
    "no pipeline": {"step": 9},
    "no step": {"pipeline": {}},
    "step of text": {"step": "9", "pipeline": {}},
    "negative step": {"step": -1, "pipeline": {}},
    "step of True": {"step": True, "pipeline": {}},
    "huge step": {"step": 10**30, "pipeline": {}},
    "pipeline is a list": {"step": 9, "pipeline": []},
    "numbered entries": {"step": 9, "pipeline": {3: torch.zeros(3)}},
}


@pytest.mark.parametrize("case", STATES)
def test_other_checkpoints_are_refused(case: str, run: Path) -> None:
    torch.save(STATES[case], checkpoint(run))
    assert_refused(run, "damaged-checkpoint", checkpoint(run), "step")


def test_the_advice_of_torch_is_left_out(run: Path) -> None:
    torch.save({"step": 9, "pipeline": Path("x")}, checkpoint(run))
    with pytest.raises(NopeSplatError) as caught:
        load_checkpoint(checkpoint(run))
    sentence = str(caught.value)
    assert caught.value.code == "damaged-checkpoint"
    assert str(checkpoint(run)) in sentence
    assert sentence.isprintable()
    assert not any(word in sentence.lower() for word in ("trust", "options", "weights", "unsafe"))


def filled(value: float) -> Callable[[Any], Any]:
    return lambda tensor: torch.full_like(tensor, value)


ENTRIES: dict[str, list[Callable[[Any], Any]]] = {
    CAMERAS + "base_poses": [filled(NAN), filled(0), filled(1e30), lambda poses: -poses],
    CAMERAS + "base_focal": [filled(NAN), filled(-1), filled(0)],
    CAMERAS + "log_focal": [filled(INFINITY), filled(1000), filled(-1000)],
    CAMERAS + "pose_adjustment": [filled(NAN), filled(1e38)],
    CAMERAS + "intrinsics_ids": [filled(7), filled(-1)],
    MODEL + "track_points": [filled(NAN), lambda points: points[:, :2]],
    MODEL + "background_color": [filled(NAN), lambda color: "white"],
    MODEL + "gauss_params.means": [filled(NAN), lambda means: means[3:], lambda means: None],
    "eval_poses": [filled(NAN), lambda poses: poses[:1]],
    "aligned_step": [lambda step: torch.zeros(3), lambda step: "x"],
    "_extra_state": [lambda state: 5, lambda state: {}, lambda state: None, lambda state: torch.zeros(3)],
    "history._extra_state": [
        lambda state: None,
        lambda state: {"interval": 0, "rows": []},
        lambda state: {"interval": 10, "rows": [{"psnr": 3.0}]},
        lambda state: {"interval": 10, "rows": [{"step": "x"}]},
        lambda state: {"interval": 10, "rows": 5},
    ],
    "unknown": [lambda nothing: torch.zeros(1)],
}
"""Edits of the entries of a checkpoint."""


@pytest.mark.parametrize(
    ("entry", "number"), [(name, i) for name, edits in ENTRIES.items() for i in range(len(edits))]
)
def test_odd_entries_are_refused(entry: str, number: int, run: Path) -> None:
    state = torch.load(checkpoint(run), weights_only=True)
    state["pipeline"][entry] = ENTRIES[entry][number](state["pipeline"].get(entry))
    torch.save(state, checkpoint(run))
    with pytest.raises(NopeSplatError) as caught:
        open_run(run)
    assert caught.value.code in ("damaged-checkpoint", "checkpoint-mismatch")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("name", ["means", "opacities", "features_rest"])
def test_gaussians_with_nan_are_left_out(
    name: str, value: float, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(checkpoint(run), weights_only=True)
    state["pipeline"][f"{MODEL}gauss_params.{name}"][[1, 4]] = value
    torch.save(state, checkpoint(run))
    count = open_run(run).pipeline.model.num_points
    assert count == len(state["pipeline"][f"{MODEL}gauss_params.means"]) - 2
    assert f"2 of {count + 2} Gaussians" in caplog.text
    main(["report", "--load-config", str(run)])
