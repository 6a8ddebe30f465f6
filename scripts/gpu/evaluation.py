"""Evaluate a training on its held-out images, with the benchmark's code (`benchmark/held_out.py`).

python -m scripts.gpu.evaluation nope-splat --config RUN/config.yml --scene DIR --data PHOTOS --output FILE
python -m scripts.gpu.evaluation splatfacto --run.data DIR/splat ... --scene DIR --data PHOTOS --output FILE
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
import tyro

from nope_splat.plugin.device import require_device
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.held_out import evaluate_ours, evaluate_splatfacto
from scripts.benchmark.splatfacto_peer import Settings
from scripts.gpu.scene import against_truth


def ours(config: Path, scene: Path, data: Path, output: Path) -> None:
    """Evaluate a training of nope-splat.

    Args:
        config: The `config.yml` of the training.
        scene: Output folder of `scripts.gpu.scene`.
        data: Folder of the images.
        output: JSON file for the mean metrics.
    """
    evaluate_ours(config, scene / "images", None, output.parent)
    _write(data, output)


def splatfacto(run: Settings, scene: Path, data: Path, output: Path) -> None:
    """Evaluate a training of splatfacto.

    Args:
        run: Settings of the training.
        scene: Output folder of `scripts.gpu.scene`.
        data: Folder of the images.
        output: JSON file for the mean metrics.
    """
    if torch.cuda.is_available():
        require_device("cuda")
    evaluate_splatfacto(run, scene / "cameras.json", scene / "images", None, output.parent)
    _write(data, output)


def _write(data: Path, output: Path) -> None:
    held_out = json.loads((output.parent / "held_out.json").read_text())
    images = list(held_out["images"].values())
    means = {
        metric: statistics.mean(image[metric] for image in images)
        for metric in ("psnr", "ssim", "lpips")
        if all(metric in image for image in images)
    }
    cameras = against_truth(output.parent / "cameras.json", data)
    output.write_text(
        json.dumps({"held_out": len(images), "gaussians": held_out["gaussians"], **means, "cameras": cameras})
    )


if __name__ == "__main__":
    set_up_terminal()
    tyro.extras.subcommand_cli_from_dict({"nope-splat": ours, "splatfacto": splatfacto})
