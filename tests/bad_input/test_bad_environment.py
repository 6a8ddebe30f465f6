"""Machines that lack something, and exactly what is said: GPU, compiler, network, disk, packages."""

from __future__ import annotations

import errno
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from synthetic import make_scene

from nope_splat import export
from nope_splat.device import require_device
from nope_splat.errors import UserError
from nope_splat.evaluation.metrics import ImageMetrics
from nope_splat.reconstruction import ReconstructionSettings, reconstruct


def sentence(caught: pytest.ExceptionInfo[UserError]) -> str:
    return str(caught.value).removeprefix("nope-splat: ")


def kernels_advice(reason: str) -> str:
    return (
        f"gsplat has no kernels for this GPU and cannot compile them ({reason}); install a wheel for torch"
        f" {torch.__version__} from https://docs.gsplat.studio/whl, or the CUDA toolkit and g++, or train"
        " with --machine.device-type cpu"
    )


def test_a_gpu_without_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    without = types.SimpleNamespace(_C=None)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", without)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError) as caught:
        require_device("cuda")
    assert sentence(caught) == kernels_advice("there is no nvcc")


@pytest.mark.parametrize(
    "error", ["Ninja is required to load C++ extensions", "Error building 'gsplat_cuda'"]
)
def test_a_gpu_without_a_compiler(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(f"{error}\nand a page of output")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(UserError) as caught:
        require_device("cuda")
    assert sentence(caught) == kernels_advice(error)


def test_a_gpu_with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    whole = types.SimpleNamespace(_C=object())
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", whole)  # pyright: ignore[reportArgumentType]
    require_device("cuda")


def test_adjustment_on_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = make_scene(3).write_photos(tmp_path)
    with pytest.raises(UserError) as caught:
        reconstruct(folder, settings=ReconstructionSettings(adjustment_device="cuda"))
    assert sentence(caught) == "adjustment-device is cuda, but torch finds no GPU here; choose cpu"


def test_no_network_for_the_weights_of_lpips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other metrics are there all the same."""

    def fail(**_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", fail)
    metrics = ImageMetrics()(torch.rand(20, 20, 3), torch.rand(20, 20, 3), None)
    assert set(metrics) == {"psnr", "ssim"}
    said = "LPIPS is unavailable, its weights cannot be had (OSError: Network is unreachable).\n"
    assert capsys.readouterr().err == said


def test_a_full_disk_when_cameras_are_written(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, export.writing_to(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert sentence(caught).startswith(f"cannot write to {tmp_path} (No space left on device); ")
