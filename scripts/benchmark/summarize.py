"""Print a summary of `demo.sh`: registered images, quality of the splat, and output files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import tyro
from plyfile import PlyData
from rich.console import Console
from rich.table import Table

from nope_splat.io.images import find_images
from nope_splat.utils.terminal import set_up_terminal


def summarize(data: Path, results: Path, seconds: int) -> None:
    """Print the table of results.

    Args:
        data: Folder of the images.
        results: Output folder of `demo.sh`.
        seconds: Wall time of the run in seconds.
    """
    run = results / "training" / "nope-splat" / "latest"
    checkpoint = max((run / "nerfstudio_models").glob("step-*.ckpt"))
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["pipeline"]
    trained_on, held_out = (len(state["_extra_state"][split]) for split in ("train", "eval"))
    focals = state["_model.camera_optimizer.base_focal"] * state["_model.camera_optimizer.log_focal"].exp()
    splat = results / "splat.ply"
    evaluation = results / "evaluation.json"

    table = Table(show_header=False)
    table.add_row("registered photos", f"{trained_on + held_out} of {len(find_images(data).images)}")
    table.add_row("focal length", ", ".join(f"{focal:.1f} px" for focal in focals.tolist()))
    if evaluation.exists():
        metrics = json.loads(evaluation.read_text())["results"]
        lpips = f"{metrics['lpips']:.3f}" if "lpips" in metrics else "unavailable (its weights are missing)"
        left_out = metrics["held_out_unregistered"]
        table.add_row("held-out photos", f"{held_out}, and {left_out} that could not be registered")
        table.add_row("  PSNR", f"{metrics['psnr']:.2f} dB")
        table.add_row("  SSIM", f"{metrics['ssim']:.3f}")
        table.add_row("  LPIPS", lpips)
    else:
        table.add_row("held-out photos", "none, so no evaluation")
    table.add_row("Gaussians", str(PlyData.read(splat)["vertex"].count))
    table.add_row("seconds", f"{seconds}, from photos to splat")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"splat:       {splat}")
    console.print(f"look at it:  ns-viewer --load-config {run / 'config.yml'}")


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(summarize)
