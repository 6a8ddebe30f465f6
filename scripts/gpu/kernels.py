"""Load gsplat's CUDA kernels, compiling them first if necessary, and render one Gaussian.

python -m scripts.gpu.kernels --output FILE
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import tyro

from nope_splat.plugin.device import require_device
from nope_splat.splatting.rasterizer import rasterization
from nope_splat.utils.terminal import set_up_terminal


def load(output: Path) -> None:
    """Load the CUDA kernels as a training does, and render one Gaussian.

    Args:
        output: JSON file for the seconds of loading and of the first rendering.

    Raises:
        SystemExit: If the Gaussian is not rendered correctly.
    """
    start = time.perf_counter()
    require_device("cuda")
    loaded = time.perf_counter()
    cuda = torch.device("cuda")
    view = torch.eye(4, device=cuda)[None]
    view[:, 2, 3] = 3.0
    K = torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]], device=cuda)
    image, alpha, _ = rasterization(
        torch.zeros(1, 3, device=cuda),
        torch.tensor([[1.0, 0, 0, 0]], device=cuda),
        torch.full((1, 3), 0.3, device=cuda),
        torch.full((1,), 0.9, device=cuda),
        torch.ones(1, 3, device=cuda),
        view,
        K,
        16,
        16,
    )
    if not (bool(image.isfinite().all()) and float(alpha.amax()) > 0.5):
        raise SystemExit("nope-splat: gsplat's kernels load, but do not render a Gaussian")
    seconds = {"load_seconds": loaded - start, "first_rendering_seconds": time.perf_counter() - loaded}
    output.write_text(json.dumps(seconds))


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(load)
