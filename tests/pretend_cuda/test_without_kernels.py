"""Fallback to the CPU, with a notice, if gsplat has no kernels for the GPU and cannot compile them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pretend_cuda.subprocesses import run

WITHOUT = """
from nope_splat.plugin import device
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError

def missing():
    raise MissingKernelsError("there is no compiler")

device.prepare_kernels = missing
from {module} import {function}
{function}()
"""
COMMANDS = {
    "train": ("nerfstudio.scripts.train", "entrypoint"),
    "eval": ("nerfstudio.scripts.eval", "entrypoint"),
    "export": ("nerfstudio.scripts.exporter", "entrypoint"),
    "nope": ("nope_splat.cli", "main"),
}
RUN = Path("outputs/valley/nope-splat/run")
NOTICE = "Using the CPU although a GPU is available: there is no compiler."


@pytest.fixture(scope="module")
def finished_run(valley: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run a training and commands for it. Returns their folder and output."""
    folder = tmp_path_factory.mktemp("without_kernels")
    for name, (module, function) in COMMANDS.items():
        (folder / f"{name}.py").write_text(WITHOUT.format(module=module, function=function))
    config = RUN / "config.yml"
    log = run(
        folder / "train.py", "nope-splat", "--data", valley, "--timestamp", "run", "--vis", "tensorboard",
        "--experiment-name", "valley", "--max-num-iterations", 20,
        "--pipeline.datamanager.dataparser.max-image-size", 96, "then",
        folder / "eval.py", "--load-config", config, "--output-path", "eval.json", "then",
        folder / "export.py", "gaussian-splat", "--load-config", config, "--output-dir", "splat", "then",
        folder / "nope.py", "report", "--load-config", config, "then",
        folder / "nope.py", "export-cameras", "--load-config", config, "--output-dir", "cameras",
        cwd=folder,
    )  # fmt: skip
    return folder, log


def test_training_uses_the_defaults_for_cpus(finished_run: tuple[Path, str]) -> None:
    folder, log = finished_run
    assert log.count(NOTICE) == 5, "once per command"
    config = yaml.load((folder / RUN / "config.yml").read_text(), yaml.Loader)
    assert config.machine.device_type == "cpu"
    assert config.pipeline.model.max_gaussians == 60_000
    assert config.optimizers["means"]["optimizer"].lr == 5e-4


def test_commands_load_the_run(finished_run: tuple[Path, str]) -> None:
    folder, _ = finished_run
    assert json.loads((folder / "eval.json").read_text())["results"]["psnr"] > 10
    assert (folder / "splat" / "splat.ply").stat().st_size > 10_000
    assert (folder / RUN / "report.html").stat().st_size > 10_000
    assert (folder / "cameras" / "transforms.json").is_file()
