"""Steps of a check of the GPU: command lines, time limits and environment variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scripts.gpu.steps import Results, Step

ROOT = Path(__file__).resolve().parents[2]
"""Root of the repository."""
WINDOWS = 40
"""Minimum number of windows (groups of iterations that are timed together) in a training."""

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Settings:
    """Settings of a check of the GPU (`scripts/check_gpu.py`)."""

    output: Path
    """JSON file for all results."""
    work_dir: Path
    """Folder for logs, trainings and intermediate results."""
    data: Path | None = None
    """Folder of the images; None to skip the steps that train."""
    wheels: Path | None = None
    """Folder of wheels, for a machine without internet access; None if there are no wheels."""
    device: Device = "cuda"
    """Device of all steps; "cpu" tests this script without a GPU."""
    iterations: int = 2000
    """Number of iterations of both trainings."""
    timed_iterations: int = 200
    """Number of timed iterations per method in the step `same_gaussians`."""
    max_image_size: int = 1600
    """Longer side of the training images in pixels; images are never enlarged."""
    eval_interval: int = 8
    """Interval of the held-out images: with interval n, the first image and every n-th image after it are
    held out."""
    time_limit: float = 480.0
    """Time limit in seconds for all steps together, without installing wheels and compiling kernels."""

    def folder(self, step: str) -> Path:
        """Return the output folder of a step.

        Args:
            step: Name of the step.
        """
        return self.work_dir / step

    @property
    def site(self) -> Path:
        """Folder into which wheels are installed."""
        return self.work_dir / "site"


def build_steps(settings: Settings) -> list[Step]:
    """Create the steps of a check, in the order in which they run.

    Args:
        settings: Settings of the check.
    """
    without_gpu = "it needs a GPU" if settings.device == "cpu" else None
    without_data = None if settings.data else "no photos were given with --data"
    ready = ("environment", "machine")

    def fixed(name: str, module: str, flags: Mapping[str, Any]) -> Any:
        return lambda results: _module(settings, name, module, flags)

    return [
        Step("environment", fixed("environment", "environment", _wheels(settings)), 300, in_budget=False),
        Step("machine", fixed("machine", "machine", {"--device": settings.device}), 120, ("environment",)),
        Step("kernels", fixed("kernels", "kernels", {}), 1800, ready, in_budget=False, skip=without_gpu),
        Step(
            "tests",
            fixed("tests", "gpu_tests", {"--tests": ROOT / "tests"}),
            180,
            (*ready, "kernels"),
            skip=without_gpu,
        ),
        Step(
            "ssim",
            fixed("ssim", "ssim_precision", {"--image": ROOT / "docs" / "valley.jpg"}),
            60,
            ready,
        ),
        Step("scene", lambda results: _scene(settings), 180, ready, skip=without_data),
        *_training_steps(settings, without_data),
    ]


def _training_steps(settings: Settings, skip: str | None) -> list[Step]:
    ready = ("kernels", "scene")
    return [
        Step("train_nope_splat", lambda r: _train_ours(settings, r), 240, ready, skip=skip),
        Step("train_splatfacto", lambda r: _train_splatfacto(settings, r), 240, ready, skip=skip),
        Step(
            "same_gaussians",
            lambda r: _same_gaussians(settings),
            180,
            (*ready, "train_nope_splat"),
            skip=skip,
        ),
        Step("synchronizations", lambda r: _synchronizations(settings), 120, ready, skip=skip),
        Step(
            "evaluate_nope_splat",
            lambda r: _evaluate_ours(settings),
            120,
            ("train_nope_splat",),
            skip=skip,
        ),
        Step(
            "evaluate_splatfacto",
            lambda r: _evaluate_splatfacto(settings, r),
            120,
            ("train_splatfacto",),
            skip=skip,
        ),
    ]


def environment(settings: Settings, results: Results, inherited: Mapping[str, str]) -> dict[str, str]:
    """Create the environment variables of a step.

    Args:
        settings: Settings of the check.
        results: Results of earlier steps, by name. The architecture in the result of "machine" selects for
            which GPU kernels are compiled.
        inherited: Environment variables of this process.

    Returns:
        All environment variables of the step.
    """
    paths = [str(ROOT), str(settings.site), inherited.get("PYTHONPATH", "")]
    programs = [str(settings.site / "bin"), inherited.get("PATH", "")]
    variables = {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PATH": os.pathsep.join(path for path in programs if path),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "NERFSTUDIO_METHOD_CONFIGS": "nope-splat=nope_splat.plugin.config:nope_splat",
    }
    if settings.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    architecture = results.get("machine", {}).get("architecture")
    if architecture:
        variables["TORCH_CUDA_ARCH_LIST"] = architecture
    return variables


def _module(settings: Settings, step: str, module: str, flags: Mapping[str, Any]) -> list[str]:
    """Return the command line that runs a module of this package as a step.

    Args:
        settings: Settings of the check.
        step: Name of the step, whose folder gets `result.json`.
        module: Name of the module.
        flags: Values of the module's flags, by flag.
    """
    output = {"--output": settings.folder(step) / "result.json"}
    return [sys.executable, "-m", f"scripts.gpu.{module}", *command_arguments({**flags, **output})]


def command_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Convert flags and their values to command line arguments.

    Args:
        flags: Values by flag, such as {"--data": "photos"}.
    """
    return [str(part) for flag in flags.items() for part in flag]


def _wheels(settings: Settings) -> dict[str, Any]:
    wheels = {"--wheels": settings.wheels} if settings.wheels else {}
    return {"--site": settings.site, **wheels}


def _scene(settings: Settings) -> list[str]:
    flags = {
        "--data": settings.data,
        "--output-dir": settings.folder("scene"),
        "--max-image-size": settings.max_image_size,
        "--eval-interval": settings.eval_interval,
    }
    return _module(settings, "scene", "scene", flags)


def _timed(settings: Settings, step: str, method: str, flags: Mapping[str, Any]) -> list[str]:
    window = {"--window": max(1, settings.iterations // WINDOWS)}
    return [*_module(settings, step, "timed_training", window), method, *command_arguments(flags)]


def _train_ours(settings: Settings, results: Results) -> list[str]:
    parser = "--pipeline.datamanager.dataparser"
    flags = {
        "--data": settings.data,
        "--output-dir": settings.folder("train_nope_splat"),
        "--experiment-name": "scene",
        "--timestamp": "run",
        "--vis": "tensorboard",
        "--machine.device-type": settings.device,  # fail without kernels instead of using the CPU
        "--max-num-iterations": settings.iterations,
        "--steps-per-save": settings.iterations,
        "--steps-per-eval-image": 0,
        "--steps-per-eval-all-images": 0,
        "--pipeline.alignment-steps": 0,  # the evaluation aligns held-out poses
        "--pipeline.model.max-gaussians": results["scene"]["max_gaussians"],
        f"{parser}.max-image-size": settings.max_image_size,
        f"{parser}.eval-interval": settings.eval_interval,
        f"{parser}.matching.seed": 0,
        f"{parser}.cache-dir": settings.folder("scene") / "cache",
    }
    return _timed(settings, "train_nope_splat", "nope-splat", flags)


def our_run(settings: Settings) -> Path:
    """Return the output folder of the run in the step that trains nope-splat.

    Args:
        settings: Settings of the check.
    """
    return settings.folder("train_nope_splat") / "scene" / "nope-splat" / "run"


def _splatfacto_flags(settings: Settings, results: Results, prefix: str = "--") -> dict[str, Any]:
    return {
        f"{prefix}data": settings.folder("scene") / "splat",
        f"{prefix}output-dir": settings.folder("train_splatfacto"),
        f"{prefix}max-num-iterations": settings.iterations,
        f"{prefix}max-gaussians": results["scene"]["max_gaussians"],
    }


def _train_splatfacto(settings: Settings, results: Results) -> list[str]:
    return _timed(settings, "train_splatfacto", "splatfacto", _splatfacto_flags(settings, results))


def _trainers(settings: Settings, step: str) -> dict[str, Any]:
    return {
        "--scene.data": settings.data,
        "--scene.scene": settings.folder("scene"),
        "--scene.output-dir": settings.folder(step) / "trainers",
        "--scene.max-image-size": settings.max_image_size,
        "--scene.eval-interval": settings.eval_interval,
    }


def _same_gaussians(settings: Settings) -> list[str]:
    flags = {"--run": our_run(settings), "--iterations": settings.timed_iterations}
    return _module(
        settings, "same_gaussians", "same_gaussians", {**_trainers(settings, "same_gaussians"), **flags}
    )


def _synchronizations(settings: Settings) -> list[str]:
    return _module(settings, "synchronizations", "synchronizations", _trainers(settings, "synchronizations"))


def _evaluate_ours(settings: Settings) -> list[str]:
    flags = {"--config": our_run(settings) / "config.yml", **_measured_on(settings)}
    return _evaluation(settings, "evaluate_nope_splat", "nope-splat", flags)


def _evaluate_splatfacto(settings: Settings, results: Results) -> list[str]:
    flags = {**_splatfacto_flags(settings, results, "--run."), **_measured_on(settings)}
    return _evaluation(settings, "evaluate_splatfacto", "splatfacto", flags)


def _measured_on(settings: Settings) -> dict[str, Any]:
    return {"--scene": settings.folder("scene"), "--data": settings.data}


def _evaluation(settings: Settings, step: str, method: str, flags: Mapping[str, Any]) -> list[str]:
    python, dash_m, module, *arguments = _module(settings, step, "evaluation", flags)
    return [python, dash_m, module, method, *arguments]
