"""Defaults follow the device that trains, whatever the machine, and what the user gives is kept."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from fixtures.errors import refused

from nope_splat.plugin import device
from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.dataparser import NopeDataParserConfig
from nope_splat.plugin.learning_rates import RATES, fill_in_rates, optimizer_groups
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.utils.device_defaults import Device, chosen, fill_in_defaults

REASON = "gsplat has no kernels for this GPU"


def training(folder: Path) -> NopeTrainerConfig:
    config = deepcopy(nope_splat.config)
    assert isinstance(config, NopeTrainerConfig)
    config.pipeline.datamanager.data, config.output_dir = folder, folder / "outputs"
    return config


def on_a_machine(monkeypatch: pytest.MonkeyPatch, gpu: bool, kernels: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(device, "missing_kernels", lambda: None if kernels else REASON)


@pytest.mark.parametrize(("where", "size", "device"), [("cuda", 1600, "auto"), ("cpu", 512, "cpu")])
def test_auto_becomes_the_default_of_the_device(where: Device, size: int, device: str) -> None:
    settings = fill_in_defaults(NopeDataParserConfig(), where)
    assert settings.max_image_size == size
    assert settings.reconstruction.device == settings.reconstruction.depth.device == device


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_what_the_user_gives_is_kept(where: Device) -> None:
    settings = fill_in_defaults(NopeDataParserConfig(max_image_size=None), where)
    assert settings.max_image_size is None
    assert fill_in_defaults(NopeSplatModelConfig(max_gaussians=5), where).max_gaussians == 5
    groups = optimizer_groups()
    groups["scales"]["optimizer"].lr = 0.5
    groups["means"]["scheduler"].lr_final = 0.25
    fill_in_rates(groups, where)
    assert (groups["scales"]["optimizer"].lr, groups["means"]["scheduler"].lr_final) == (0.5, 0.25)


def test_a_setting_that_has_not_been_filled_in_is_no_number() -> None:
    assert chosen(3) == 3
    with pytest.raises(AssertionError, match="fill_in_defaults"):
        chosen("auto")


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_every_learning_rate_is_a_number(where: Device) -> None:
    groups = optimizer_groups()
    fill_in_rates(groups, where)
    assert groups.keys() == RATES.keys()
    for group in groups.values():
        assert group["optimizer"].lr > 0
        assert group["scheduler"] is None or 0 < group["scheduler"].lr_final <= group["optimizer"].lr


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("kernels", [True, False])
def test_a_training_on_the_cpu_is_the_same_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, kernels: bool
) -> None:
    on_a_machine(monkeypatch, gpu, kernels)
    config = training(tmp_path)
    config.machine.device_type = "cpu"
    config.set_timestamp()
    assert config.pipeline.datamanager.dataparser.max_image_size == 512
    assert config.pipeline.datamanager.dataparser.reconstruction.device == "cpu"
    assert config.pipeline.model.max_gaussians == 60_000
    assert config.pipeline.model.reset_opacity == 0
    assert config.max_num_iterations == 500
    assert config.optimizers["means"]["optimizer"].lr == 5e-4


def test_a_gpu_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, gpu=True)
    config = training(tmp_path)
    config.set_timestamp()
    assert config.machine.device_type == "cuda"
    assert config.pipeline.datamanager.dataparser.max_image_size == 1600
    assert config.pipeline.datamanager.cache_images_type == "uint8"
    assert config.pipeline.model.max_gaussians == 3_000_000
    assert (config.max_num_iterations, config.steps_per_eval_all_images) == (30_000, 10_000)
    assert config.optimizers["means"]["scheduler"].lr_final == 1.6e-6


def test_a_gpu_without_kernels_is_not_used_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_machine(monkeypatch, gpu=True, kernels=False)
    config = training(tmp_path)
    config.set_timestamp()
    assert config.machine.device_type == "cpu"
    assert config.pipeline.model.max_gaussians == 60_000
    (message,) = caplog.messages
    assert REASON in message


def test_a_gpu_without_kernels_that_was_asked_for_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, gpu=True, kernels=False)
    config = training(tmp_path)
    config.machine.device_type = "cuda"
    config.set_timestamp()
    with refused("missing-device", REASON, "--machine.device-type"):
        config.save_config()


def test_no_gpu_is_prepared_for_a_training_that_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_for_minutes() -> None:
        raise AssertionError("the folder comes first")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "missing_kernels", compile_for_minutes)
    config = training(tmp_path / "nowhere")
    with refused("missing-file", tmp_path / "nowhere"):
        config.set_timestamp()


def test_the_configuration_records_what_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, gpu=False)
    config = training(tmp_path)
    config.set_timestamp()
    config.set_experiment_name()
    config.save_config()
    saved = (config.get_base_dir() / "config.yml").read_text()
    left = [line.strip() for line in saved.splitlines() if line.endswith(": auto")]
    assert left == ["dist_url: auto", "resume: auto"]  # of others
    assert yaml.load(saved, yaml.Loader).machine.device_type == "cpu"
