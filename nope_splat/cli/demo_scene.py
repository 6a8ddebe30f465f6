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
    """Render images of a procedural scene into `OUTPUT_DIR/images`.

    Args:
        output_dir: Output folder; created if missing.
        num_images: Number of images.
        size: Width and height in pixels.
        seed: Seed of the scene.
        path: Camera path: an arc around the center, or a tour of the whole valley, which needs at least fifty
            images.
        depth: Whether to write the true depth, too, as `depth/*.npz` with the array `depth` (H, W).
        radial: Radial distortion of the lens, k1 and k2 of OpenCV, e.g. -0.08 0 for mild barrel distortion.
    """
    images = render_demo_scene(output_dir, DemoSceneConfig(num_images, size, seed, path, depth, radial))
    print(f"{num_images} photos: {images}")
