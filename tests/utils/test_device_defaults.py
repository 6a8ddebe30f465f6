"""Defaults depend on the training device only, and values set by the user are kept."""

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
from nope_splat.plugin.learning_rates import DEFAULT_RATES, optimizer_groups, resolve_rates
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError
from nope_splat.utils.device_defaults import Device, resolve_defaults, resolved

REASON = "gsplat has no kernels for this GPU"


def training_config(folder: Path) -> NopeTrainerConfig:
    config = deepcopy(nope_splat.config)
    assert isinstance(config, NopeTrainerConfig)
    config.pipeline.datamanager.data, config.output_dir = folder, folder / "outputs"
    return config


def simulate_machine(monkeypatch: pytest.MonkeyPatch, gpu: bool, kernels: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        device, "try_prepare_kernels", lambda: None if kernels else MissingKernelsError(REASON)
    )


@pytest.mark.parametrize(("device_type", "size", "device"), [("cuda", 1600, "auto"), ("cpu", 512, "cpu")])
def test_auto_is_replaced_by_the_default_of_the_device(device_type: Device, size: int, device: str) -> None:
    settings = resolve_defaults(NopeDataParserConfig(), device_type)
    assert settings.max_image_size == size
    assert settings.sfm.matching.device == settings.sfm.depth.device == device


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
def test_values_set_by_the_user_are_kept(device_type: Device) -> None:
    settings = resolve_defaults(NopeDataParserConfig(max_image_size=None), device_type)
    assert settings.max_image_size is None
    assert resolve_defaults(NopeSplatModelConfig(max_gaussians=5), device_type).max_gaussians == 5
    groups = optimizer_groups()
    groups["scales"]["optimizer"].lr = 0.5
    groups["means"]["scheduler"].lr_final = 0.25
    resolve_rates(groups, device_type)
    assert (groups["scales"]["optimizer"].lr, groups["means"]["scheduler"].lr_final) == (0.5, 0.25)


def test_unresolved_settings_raise_an_error() -> None:
    assert resolved(3) == 3
    with pytest.raises(AssertionError, match="resolve_defaults"):
        resolved("auto")


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
def test_every_learning_rate_is_a_number(device_type: Device) -> None:
    groups = optimizer_groups()
    resolve_rates(groups, device_type)
    assert groups.keys() == DEFAULT_RATES.keys()
    for group in groups.values():
        assert group["optimizer"].lr > 0
        assert group["scheduler"] is None or 0 < group["scheduler"].lr_final <= group["optimizer"].lr


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("kernels", [True, False])
def test_cpu_training_has_the_same_settings_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, kernels: bool
) -> None:
    simulate_machine(monkeypatch, gpu, kernels)
    config = training_config(tmp_path)
    config.machine.device_type = "cpu"
    config.set_timestamp()
    assert config.pipeline.datamanager.dataparser.max_image_size == 512
    assert config.pipeline.datamanager.dataparser.sfm.matching.device == "cpu"
    assert config.pipeline.model.max_gaussians == 60_000
    assert config.pipeline.model.densification.reset_alpha_fraction == 0
    assert config.max_num_iterations == 500
    assert config.optimizers["means"]["optimizer"].lr == 5e-4


def test_a_gpu_is_used_if_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_machine(monkeypatch, gpu=True)
    config = training_config(tmp_path)
    config.set_timestamp()
    assert config.machine.device_type == "cuda"
    assert config.pipeline.datamanager.dataparser.max_image_size == 1600
    assert config.pipeline.datamanager.cache_images_type == "uint8"
    assert config.pipeline.model.max_gaussians == 3_000_000
    assert (config.max_num_iterations, config.steps_per_eval_all_images) == (30_000, 10_000)
    assert config.optimizers["means"]["scheduler"].lr_final == 1.6e-6


def test_a_gpu_without_kernels_is_reported_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    simulate_machine(monkeypatch, gpu=True, kernels=False)
    config = training_config(tmp_path)
    config.set_timestamp()
    assert config.machine.device_type == "cpu"
    assert config.pipeline.model.max_gaussians == 60_000
    (message,) = caplog.messages
    assert REASON in message


def test_requesting_a_gpu_without_kernels_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate_machine(monkeypatch, gpu=True, kernels=False)
    config = training_config(tmp_path)
    config.machine.device_type = "cuda"
    config.set_timestamp()
    with refused("missing-device", REASON, "--machine.device-type"):
        config.save_config()


def test_the_image_folder_is_checked_before_gpu_kernels_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_for_minutes() -> None:
        raise AssertionError("the folder must be checked first")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "try_prepare_kernels", compile_for_minutes)
    config = training_config(tmp_path / "nowhere")
    with refused("missing-file", tmp_path / "nowhere"):
        config.set_timestamp()


def test_the_saved_configuration_contains_the_resolved_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate_machine(monkeypatch, gpu=False)
    config = training_config(tmp_path)
    config.set_timestamp()
    config.set_experiment_name()
    config.save_config()
    saved = (config.get_base_dir() / "config.yml").read_text()
    unresolved = [line.strip() for line in saved.splitlines() if line.endswith(": auto")]
    assert unresolved == ["dist_url: auto", "resume: auto"]  # these have no default per device
    assert yaml.load(saved, yaml.Loader).machine.device_type == "cpu"
