"""Measure how much each option of monocular depth improves a training with few images.

    python -m scripts.analysis.depth_options --output-dir OUT

Renders nine images of the demo scene, holds out three of them, and distorts the true depth to resemble
predictions of a network: with smooth errors, and with a random scale and shift of the disparity of each
image. Trains without any depth option and with each option separately, with several seeds, and prints PSNR
and SSIM of the held-out images. The weights of the depth losses are those of NoPe-NeRF. Finished trainings
are kept, so that an interrupted measurement can continue.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.ndimage import gaussian_filter

from scripts.benchmark.stages import Stage, run_stage

PARSER = "--pipeline.datamanager.dataparser"
MODEL = "--pipeline.model"
NUM_IMAGES, HELD_OUT_EVERY = 9, 3
OPTIONS: dict[str, list[str]] = {
    "none": [],
    "depth-weight 0.04": [f"{MODEL}.depth-weight", "0.04"],
    "chamfer-weight 1": [f"{MODEL}.chamfer-weight", "1"],
    "seeds depth": [f"{PARSER}.seeds", "depth"],
}
"""Arguments of `ns-train` for each variant, by its label."""


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison of depth options."""

    output_dir: Path
    """Folder for images, depth maps and trainings."""
    options: tuple[str, ...] = tuple(OPTIONS)
    """Labels of the variants to measure, from `OPTIONS`."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the trainings; each variant is trained once per seed."""
    iterations: int = 600
    """Number of iterations of each training."""
    size: tuple[int, int] = (480, 360)
    """Width and height of the rendered images in pixels."""
    max_image_size: int = 320
    """Longer side of the training images in pixels."""
    noise: float = 0.05
    """Standard deviation of the smooth relative errors that are added to the depth maps; 0.05 is 5 %."""
    adam: bool = False
    """Refine cameras by gradient steps (Adam) together with the Gaussians, instead of joint refinement. Depth
    losses affect the cameras only in this mode."""


def distort_depth(scene: Path, folder: Path, noise: float) -> None:
    """Write disparity maps that resemble predictions of a network.

    Args:
        scene: Folder of the demo scene, with the true depth maps in `depth`.
        folder: Output folder; created if missing.
        noise: Standard deviation of the relative errors, which are smooth over a tenth of the map's longer
            side.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for file in sorted((scene / "depth").iterdir()):
        with np.load(file) as truth:
            depth = truth["depth"].astype(np.float64)
        error = gaussian_filter(rng.normal(size=depth.shape), max(depth.shape) / 10)
        disparity = np.exp(-noise * error / error.std()) / depth
        shift = rng.uniform(-0.2, 0.5) * np.nanmedian(disparity)
        np.savez(folder / file.name, depth=np.exp(rng.uniform(-1, 1)) * (disparity + shift))


def measure(option: str, seed: int, scene: Stage, settings: Settings) -> dict[str, float]:
    """Train and evaluate one variant, unless its result exists already.

    Args:
        option: Label of the variant, from `OPTIONS`.
        seed: Seed of the training.
        scene: The stage that rendered the images.
        settings: Settings of the measurement.

    Returns:
        `psnr` and `ssim` of the held-out images.
    """
    out = settings.output_dir / f"{option.replace(' ', '-')}{'-adam' if settings.adam else ''}-{seed}"
    flags = {
        "--data": settings.output_dir / "scene",
        "--output-dir": out / "train",
        "--experiment-name": "scene",
        "--timestamp": "run",
        "--vis": "tensorboard",
        "--machine.seed": seed,
        "--max-num-iterations": settings.iterations,
        f"{PARSER}.eval-interval": HELD_OUT_EVERY,
        f"{PARSER}.max-image-size": settings.max_image_size,
        f"{PARSER}.cache-dir": settings.output_dir / "cache",
    }
    if OPTIONS[option]:
        flags |= {f"{PARSER}.depth.maps": settings.output_dir / "maps", f"{PARSER}.depth.kind": "disparity"}
    arguments = [str(part) for flag in flags.items() for part in flag]
    trained = run_stage(
        [
            "ns-train",
            "nope-splat",
            *arguments,
            *OPTIONS[option],
            f"refinement:{'gradient' if settings.adam else 'joint'}",
        ],
        out / "train",
        [scene],
    )
    config, result = out / "train" / "scene" / "nope-splat" / "run" / "config.yml", out / "eval" / "eval.json"
    command = ["ns-eval", "--load-config", str(config), "--output-path", str(result)]
    run_stage(command, result.parent, [trained])
    return json.loads(result.read_text())["results"]


def main(settings: Settings) -> None:
    """Measure every variant and print the table.

    Args:
        settings: Settings of the measurement.
    """
    scene = settings.output_dir / "scene"
    width, height = map(str, settings.size)
    command = ["nope-splat", "demo-scene", "--output-dir", str(scene), "--num-images", str(NUM_IMAGES)]
    scene_with_depth = run_stage([*command, "--size", width, height, "--depth"], scene)
    distort_depth(scene, settings.output_dir / "maps", settings.noise)
    print("| option | PSNR (each seed) | PSNR | SSIM |")
    print("| --- | --- | --- | --- |")
    for option in settings.options:
        results = [measure(option, seed, scene_with_depth, settings) for seed in settings.seeds]
        psnr = [result["psnr"] for result in results]
        values = ", ".join(f"{value:.2f}" for value in psnr)
        ssim = np.mean([result["ssim"] for result in results])
        print(f"| {option} | {values} | {np.mean(psnr):.2f} | {ssim:.3f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
