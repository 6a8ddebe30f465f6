"""`nope-splat demo-scene`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene


def demo_scene(
    output_dir: Path,
    num_images: int = 20,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    path: Literal["arc", "tour"] = "arc",
    depth: bool = False,
    radial: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Image a procedural scene; the images go to `OUTPUT_DIR/images`.

    Args:
        output_dir: Folder to write into; made where missing.
        num_images: Number of images.
        size: Width and height in pixels.
        seed: The same seed gives the same images.
        path: Where the cameras stand: on an arc around the middle, or along a tour of the whole valley, which
            wants fifty images or more.
        depth: Whether to write the true depth as well, `depth/*.npz` with the array `depth` (H, W).
        radial: Radial distortion of the lens, k1 and k2 of OpenCV: -0.08 0 for a mild barrel.
    """
    images = render_demo_scene(output_dir, DemoSceneConfig(num_images, size, seed, path, depth, radial))
    print(f"{num_images} photos: {images}")
