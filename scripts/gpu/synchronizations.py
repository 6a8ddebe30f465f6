"""Count how often an iteration makes Python wait for the GPU, by PyTorch's own warnings.

python -m scripts.gpu.synchronizations --scene.data PHOTOS --scene.scene DIR ... --output FILE

PyTorch does not see waits in code that calls CUDA directly. Waits in the backward pass are attributed to the
line that starts it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import tyro

from scripts.gpu.timed_training import METHODS
from scripts.gpu.trainers import FIRST_STEP, Scene, iterate, set_up

MESSAGE = "called a synchronizing CUDA operation"
PACKAGES = ("nope_splat", "nerfstudio", "gsplat", "pytorch_msssim", "torchmetrics")
"""A wait is attributed to the innermost line in these packages."""


def count(scene: Scene, output: Path, iterations: int = 20) -> None:
    """Count for both methods, each with its initial Gaussians.

    Args:
        scene: Training scene.
        output: Result file.
        iterations: Number of iterations to count over.
    """
    methods: dict[str, Any] = {}
    for method in METHODS:
        trainer = set_up(method, replace(scene, output_dir=scene.output_dir / method))
        iterate(trainer, FIRST_STEP)  # warm-up: exclude work that happens only once
        with counting() as lines:
            for step in range(FIRST_STEP + 1, FIRST_STEP + 1 + iterations):
                iterate(trainer, step)
        methods[method] = per_iteration(lines, iterations)
    output.write_text(json.dumps({"iterations": iterations, **methods}))


def per_iteration(lines: Counter[str], iterations: int) -> dict[str, Any]:
    """Average counts over iterations.

    Args:
        lines: Counts by source line.
        iterations: Number of iterations.

    Returns:
        The number `per_iteration` (None without a GPU), and the number per source line in `lines`, sorted by
        frequency.
    """
    counts = {line: number / iterations for line, number in lines.most_common()}
    return {"per_iteration": sum(counts.values()) if torch.cuda.is_available() else None, "lines": counts}


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the waits by source line."""
    lines: Counter[str] = Counter()
    show = warnings.showwarning

    def record(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *details: Any
    ) -> None:
        if MESSAGE in str(message):
            lines[nearest_line(sys._getframe(1)) or f"{filename}:{lineno}"] += 1
        else:
            show(message, category, filename, lineno, *details)

    with warnings.catch_warnings(), warning_of_waits():
        warnings.simplefilter("always")
        warnings.showwarning = record
        yield lines


@contextmanager
def warning_of_waits() -> Iterator[None]:
    """Make PyTorch warn when Python waits for the GPU; do nothing without a GPU."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def nearest_line(frame: FrameType | None) -> str | None:
    """Find the innermost line in one of the packages.

    Args:
        frame: Frame to start from.

    Returns:
        Path from the folder of the package on, and line, such as `nope_splat/plugin/model.py:226`; None if no
        package contains the frame.
    """
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        for index in range(len(parts) - 1, -1, -1):
            if parts[index] in PACKAGES:
                return f"{'/'.join(parts[index:])}:{frame.f_lineno}"
        frame = frame.f_back
    return None


if __name__ == "__main__":
    tyro.cli(count)
