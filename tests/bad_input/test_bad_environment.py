"""Test errors on machines without a GPU, compiler, network, disk space or package."""

from __future__ import annotations

import errno
import os
import sys
import types
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from fixtures.errors import refused
from fixtures.synthetic import make_scene
from numba.core.dispatcher import Dispatcher

from nope_splat.cli import main
from nope_splat.depth.options import DepthSettings
from nope_splat.depth.predict import DepthNetwork
from nope_splat.errors import ErrorCode
from nope_splat.evaluation.image_metrics import ImageMetrics
from nope_splat.io.output import writing_to
from nope_splat.plugin.device import require_device
from nope_splat.sfm import MapperOptions, SfmOptions, reconstruct
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError
from nope_splat.splatting.rasterizer.kernels import kernel
from nope_splat.utils.cache import Cache


@pytest.mark.parametrize("code", ["missing-device", "missing-package"])
def test_a_gpu_without_kernels(monkeypatch: pytest.MonkeyPatch, code: ErrorCode) -> None:
    """The reason comes from `prepare_kernels`, whose tests cover all reasons."""

    def fail() -> NoReturn:
        raise MissingKernelsError("there is no compiler; install one", code)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("nope_splat.plugin.device.prepare_kernels", fail)
    with refused(code, "there is no compiler; install one", "--machine.device-type"):
        require_device("cuda")


def test_a_gpu_with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backend = types.SimpleNamespace(_C=object())
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", backend)  # pyright: ignore[reportArgumentType]
    require_device("cuda")


def test_bundle_adjustment_on_a_missing_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = make_scene(3).write_images(tmp_path)
    with refused("missing-device", "mapper.ba-device"):
        reconstruct(folder, options=SfmOptions(mapper=MapperOptions(ba_device="cuda")))


def test_no_network_for_the_weights_of_lpips(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other metrics are still computed."""

    def fail(**_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", fail)
    metrics = ImageMetrics()(torch.rand(20, 20, 3), torch.rand(20, 20, 3), None)
    assert set(metrics) == {"psnr", "ssim"}
    (message,) = caplog.messages
    assert "LPIPS" in message
    assert "OSError: Network is unreachable" in message


def test_no_writable_cache_for_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """If neither the package folder nor the user cache is writable, kernels are compiled at every start."""

    def refuse(dispatcher: Dispatcher) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", refuse)
    assert kernel(lambda number: number + 1)(2) == 3


FULL_DISK = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
ARRAYS = {"numbers": np.arange(10_000)}


@FULL_DISK
def test_a_full_disk_when_results_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), tmp_path / "a"))
    with refused("unwritable-output", tmp_path, "No space left on device"):
        cache.store("scene", "key", ARRAYS)


def refuse(*_: object, **__: object) -> NoReturn:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_read_only_cache_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.store("matches", "key", ARRAYS)
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert cache.load("matches", "key", dict) is not None
    with refused("unwritable-output", tmp_path, "Permission denied"):
        cache.store("scene", "key", ARRAYS)


def test_a_read_only_folder_for_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", refuse)
    with refused("unwritable-output", tmp_path / "out", "Permission denied"):
        main(["reconstruct", "--data", str(tmp_path), "--output-dir", str(tmp_path / "out")])


def test_no_network_for_the_weights_of_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")

    def fail(model: str) -> None:
        raise OSError("We couldn't connect to the hub\nand a page of advice")

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", fail)
    with refused("missing-weights", "some/network", "depth.model", "(We couldn't connect to the hub)"):
        DepthNetwork(DepthSettings(model="some/network"))


def test_a_full_disk_when_cameras_are_written(tmp_path: Path) -> None:
    with refused("unwritable-output", tmp_path, "No space left on device"), writing_to(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
