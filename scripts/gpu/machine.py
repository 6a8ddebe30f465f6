"""Record the machine, and the versions of packages and drivers.

python -m scripts.gpu.machine --device cuda --output FILE
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

PACKAGES = ("torch", "gsplat", "nerfstudio", "numpy", "numba")


def describe(device: Literal["cuda", "cpu"], output: Path) -> None:
    """Write a description of the machine, including the compute capability of the GPU.

    Args:
        device: Device that the steps of the check use.
        output: JSON file for the description.

    Raises:
        SystemExit: If the device is "cuda" and torch finds no GPU.
    """
    machine: dict[str, Any] = {
        "device": device,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "nvcc": last_line("nvcc", "--version"),
    }
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit(
                "nope-splat: torch finds no GPU here; run this on a machine with a GPU, or test the"
                " script with --device cpu"
            )
        properties = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": torch.cuda.get_device_name(0),
            "memory_gib": properties.total_memory / 2**30,
            "architecture": f"{properties.major}.{properties.minor}",
            "driver": last_line(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"
            ),
        }
    output.write_text(json.dumps(machine))


def version(package: str) -> str | None:
    """Return the version of an installed package.

    Args:
        package: Name of the package.

    Returns:
        The version; None if the package is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def last_line(*command: str) -> str | None:
    """Return the last line that a program prints.

    Args:
        *command: Program and its arguments.

    Returns:
        The line; None if the program does not exist, fails or prints nothing.
    """
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return (output.strip().splitlines() or [None])[-1]


if __name__ == "__main__":
    tyro.cli(describe)
