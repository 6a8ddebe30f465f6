"""Count how often Python waits for the GPU in an iteration, by PyTorch's warnings.

python -m scripts.gpu.synchronizations --scene.data PHOTOS --scene.scene DIR ... --output FILE

PyTorch does not detect waits in code that calls CUDA directly. Waits in the backward pass are attributed to
the line that starts the backward pass.
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
"""Packages to whose source lines waits are attributed. A wait belongs to the innermost line in one of these
packages."""


def count(scene: Scene, output: Path, iterations: int = 20) -> None:
    """Count the waits of nope-splat and splatfacto, each with its initial Gaussians.

    Args:
        scene: Prepared scene and settings of the trainers.
        output: JSON file for the results.
        iterations: Number of iterations in which waits are counted.
    """
    methods: dict[str, Any] = {}
    for method in METHODS:
        trainer = set_up(method, replace(scene, output_dir=scene.output_dir / method))
        iterate(trainer, FIRST_STEP)  # warm-up, so that work that happens only once is not counted
        with counting() as lines:
            for step in range(FIRST_STEP + 1, FIRST_STEP + 1 + iterations):
                iterate(trainer, step)
        methods[method] = per_iteration(lines, iterations)
    output.write_text(json.dumps({"iterations": iterations, **methods}))


def per_iteration(lines: Counter[str], iterations: int) -> dict[str, Any]:
    """Compute the number of waits per iteration.

    Args:
        lines: Number of waits by source line.
        iterations: Number of iterations.

    Returns:
        `per_iteration`, the total number of waits per iteration (None without a GPU), and `lines`, the number
        per iteration by source line, most frequent first.
    """
    counts = {line: number / iterations for line, number in lines.most_common()}
    return {"per_iteration": sum(counts.values()) if torch.cuda.is_available() else None, "lines": counts}


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the waits for the GPU while the context is active.

    Yields:
        Number of waits by source line, updated until the context ends.
    """
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
    """Make PyTorch warn about each wait for the GPU while the context is active; no effect without a GPU."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def nearest_line(frame: FrameType | None) -> str | None:
    """Find the innermost source line of a call stack that is in one of `PACKAGES`.

    Args:
        frame: Innermost frame of the call stack.

    Returns:
        Path, starting at the folder of the package, and line number, such as
        `nope_splat/plugin/model.py:226`; None if no frame is in one of the packages.
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
