"""What machine this is, and which versions it runs.

python -m gpu.machine --device cuda --output FILE
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
    """Describe the machine; the file also holds gsplat's name of the GPU's architecture.

    Args:
        device: Where the steps compute.
        output: File to write.

    Raises:
        SystemExit: There is no GPU, and it is asked for.
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
                "nope-splat: torch finds no GPU here; run this on a machine with one, or try the script"
                " itself with --device cpu"
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
    """Version of an installed package.

    Args:
        package: Its name.

    Returns:
        None if it is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def last_line(*command: str) -> str | None:
    """What a program prints, its last line.

    Args:
        command: The command.

    Returns:
        None if there is no such program, or it fails.
    """
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return (output.strip().splitlines() or [None])[-1]


if __name__ == "__main__":
    tyro.cli(describe)
