"""Kernels are compiled once per machine, with a notice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch
from nope_splat.utils.terminal import show_messages
show_messages()
from nope_splat.splatting.rasterizer import ssim
print(ssim(torch.zeros(12, 12, 3), torch.zeros(12, 12, 3)).item())
"""


def test_compilation_is_announced_and_cached(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    )
    assert first.stdout == second.stdout == "1.0\n"
    assert first.stderr.count("Compiling the CPU rasterizer") == 1
    assert "Compiling" not in second.stderr
