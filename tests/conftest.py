"""Fixtures that several test files share."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch and numba load their thread pools, which would otherwise compete by spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt; shells make background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of the package reach `caplog`, whatever programs have set up in this process."""
    logger = logging.getLogger("nope_splat")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger.name)


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a small demo scene: nine images in `images/`, their `depth/`, and `ground_truth.json`."""
    from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene

    folder = tmp_path_factory.mktemp("valley")
    render_demo_scene(folder, DemoSceneConfig(num_images=9, size=(320, 240), depth=True))
    return folder


@pytest.fixture(scope="session")
def disk_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a torch hub folder with random weights in the files that kornia would download."""
    import torch

    feature = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    torch.save({"extractor": feature.DISK().state_dict()}, hub / "checkpoints" / "depth-save.pth")
    network = feature.LightGlue(None, input_dim=128)
    state = network.state_dict()
    for name, value in state.items():
        if "ffn.3" in name:  # last layer of every residual branch
            value.zero_()
        elif "final_proj.weight" in name or name == "input_proj.weight":
            torch.nn.init.orthogonal_(value).mul_(16.0 if "final" in name else 1.0)
        elif "matchability" in name:
            value.fill_(10.0 if name.endswith("bias") else 0.0)
        elif "token_confidence" in name:
            value.fill_(-10.0 if name.endswith("bias") else 0.0)
    torch.save(state, hub / "checkpoints" / "disk_lightglue_v0-1_arxiv-pth")
    return hub
